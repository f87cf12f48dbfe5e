"""Edits, image to image and inpainting give the pictures of diffusers' pipelines, alone or in batches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    QwenImagePipeline,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from PIL import Image, ImageDraw
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from inference.engine import Engine
from inference.errors import InvalidRequest, ModelUnavailable
from inference.models import catalog
from inference.models.processor import PictureProcessor
from inference.request import Request
from tests.inference.conftest import difference, order

INSTRUCTION = "make the circle blue"


def drawing(colour: str = "red", size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Draw a circle on a background that differs from pixel to pixel."""
    image = Image.merge("RGB", [Image.linear_gradient("L").rotate(angle).resize(size) for angle in (0, 90, 180)])
    ImageDraw.Draw(image).ellipse((32, 32, 96, 96), fill=colour)
    return image


def mask(size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Draw a mask, white on the right half except for a corner."""
    image = Image.new("L", size)
    ImageDraw.Draw(image).rectangle((size[0] // 2, 0, size[0], size[1] - 20), fill=255)
    return image


def edit(*images: Image.Image, **changes) -> Request:
    return order(INSTRUCTION, operation="edit", images=images or (drawing(),), **changes)


def img2img(**changes) -> Request:
    return order(operation="img2img", **{"images": (drawing(),), "strength": 0.6, "steps": 5} | changes)


def inpaint(**changes) -> Request:
    values = {"images": (drawing(),), "mask": mask(), "strength": 0.8, "steps": 5}
    return order(operation="inpaint", **values | changes)


def tell_types(encoder: torch.nn.Module, given: tuple[object, ...], named: dict[str, torch.Tensor]) -> tuple:
    """Add which tokens are a picture's; diffusers 0.42 drops it, and pictures' tokens get positions of words."""
    if named.get("image_grid_thw") is not None:
        named["mm_token_type_ids"] = (named["input_ids"] == encoder.config.image_token_id).int()
    return given, named


@pytest.fixture(scope="session")
def edit_pipeline(pipeline: QwenImagePipeline) -> QwenImageEditPlusPipeline:
    images = Qwen2VLImageProcessorPil.from_pretrained(catalog.card().path, subfolder="processor")
    pipeline.text_encoder.register_forward_pre_hook(tell_types, with_kwargs=True)
    return like(QwenImageEditPlusPipeline, pipeline, processor=PictureProcessor(images, pipeline.tokenizer))


def like(kind: type[DiffusionPipeline], pipeline: QwenImagePipeline, **parts) -> DiffusionPipeline:
    made = kind(**pipeline.components, **parts)
    made.set_progress_bar_config(disable=True)
    return made


def diffusers_picture(pipeline: DiffusionPipeline, request: Request, **inputs) -> Image.Image:
    return pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt if request.guided else None,
        true_cfg_scale=request.guidance_scale,
        num_inference_steps=request.steps,
        width=request.width,
        height=request.height,
        generator=torch.Generator().manual_seed(request.seed),
        **inputs,
    ).images[0]


def distance(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


@pytest.mark.parametrize(
    ("images", "changes"),
    [
        ((drawing(),), {}),
        ((drawing(size=(90, 50)),), {"width": 96, "height": 64, "negative_prompt": "a red circle"}),
        ((drawing(), drawing("green", (64, 128))), {"guidance_scale": 1.0}),
        ((drawing(), drawing("green", (64, 128)), drawing("black", (300, 20))), {"steps": 2}),
    ],
    ids=["one", "another size", "two, unguided", "three"],
)
def test_an_edit_is_the_edit_plus_pipelines(engine, edit_pipeline, monkeypatch, images, changes):
    request = edit(*images, **changes)
    area = engine.card.condition_area or request.width * request.height
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", area)
    expected = diffusers_picture(edit_pipeline, request, image=list(images))
    made = engine.submit(request).result()
    assert made.steps_run == request.steps
    assert np.asarray(expected).std() > 1, "a flat picture would prove nothing"
    assert distance(made.image, expected) <= 1


@pytest.mark.parametrize(
    ("changes", "steps_run"),
    [
        ({}, 3),
        ({"steps": 10, "strength": 0.3, "images": (drawing(size=(50, 90)),)}, 3),
        ({"steps": 3, "strength": 0.1, "guidance_scale": 1.0}, 1),
        ({"steps": 3, "strength": 1.0}, 3),
        ({"steps": 7, "strength": 0.5, "width": 96}, 4),
    ],
    ids=["as it is", "of other sides", "unguided", "from noise", "of another size"],
)
def test_image_to_image_is_the_img2img_pipelines(engine, pipeline, changes, steps_run):
    request = img2img(**changes)
    expected = diffusers_picture(
        like(QwenImageImg2ImgPipeline, pipeline), request, image=request.images[0], strength=request.strength
    )
    made = engine.submit(request).result()
    assert made.steps_run == steps_run
    assert distance(made.image, expected) <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strength": 1.0, "guidance_scale": 1.0},
        {"images": (drawing(size=(50, 90)),), "mask": mask((50, 90)), "width": 80},
        {"mask": mask().convert("1")},
    ],
    ids=["guided", "from noise", "another size", "black and white"],
)
def test_inpainting_is_the_inpaint_pipelines_inside_the_mask_and_the_original_outside(engine, pipeline, changes):
    request = inpaint(**changes)
    expected = diffusers_picture(
        like(QwenImageInpaintPipeline, pipeline),
        request,
        image=request.images[0],
        mask_image=request.mask,
        strength=request.strength,
    )
    made = engine.submit(request).result().image
    original, inside = np.asarray(request.images[0]), np.asarray(request.mask.convert("L")) >= 128
    expected = expected.resize(made.size, Image.Resampling.LANCZOS)
    assert 0 < inside.sum() < inside.size
    assert (np.asarray(made)[~inside] == original[~inside]).all()
    assert (np.asarray(made)[inside] != original[inside]).any()
    assert np.abs(np.asarray(made)[inside].astype(int) - np.asarray(expected)[inside]).max() <= 1


def test_operations_share_batches_and_change_nothing_in_each_other(engine, watch):
    def mixed() -> list[Request]:
        edits = [edit(steps=9), edit(drawing("green"), seed=8, steps=4), edit(drawing(), drawing("black"), steps=4)]
        return [order(steps=9), img2img(steps=9), inpaint(steps=9), *edits]

    alone = [engine.submit(request).result() for request in mixed()]
    watch.reset()
    together = mixed()
    watch.at(1, lambda: [engine.submit(request) for request in together[1:]])
    engine.submit(together[0]).result()
    for request, picture in zip(together, alone, strict=True):
        assert difference(request.ticket.future.result(timeout=60), picture) <= 1
    assert 3 in watch.rows("denoise"), "text to image, image to image and inpainting share a forward"
    assert 2 in watch.rows("denoise"), "edits with equal shapes share a forward"


def test_what_the_batch_mates_are_changes_nothing_at_all_within_a_batch_bucket(engine, watch):
    for kind in (edit, inpaint):
        pictures = []
        for colour in ("green", "black"):
            batch_mate = kind(images=(drawing(colour),), seed=1) if kind is inpaint else edit(drawing(colour), seed=1)
            request = kind(steps=9)
            watch.at(
                1, lambda request=request, batch_mate=batch_mate: (engine.submit(request), engine.submit(batch_mate))
            )
            engine.submit(order(steps=2, width=80)).result()
            pictures.append(request.ticket.future.result(timeout=60))
            batch_mate.ticket.future.result(timeout=60)
        assert difference(*pictures) == 0


def test_a_prompt_after_an_edit_reads_as_before(engine):
    before = engine.submit(order()).result()
    engine.submit(edit()).result()
    assert difference(engine.submit(order()).result(), before) == 0


def test_the_longest_instruction_with_the_most_pictures_is_followed(engine):
    request = order("赤い円 " * 1000, operation="edit", images=(drawing(),) * 3, steps=1)
    assert engine.submit(request).result(timeout=60).steps_run == 1


def test_another_picture_gives_another_edit(engine):
    assert difference(engine.submit(edit()).result(), engine.submit(edit(drawing("green"))).result()) > 1


def test_pictures_are_read_while_a_batch_runs(engine, watch):
    running, late = order(steps=30), edit(*[drawing()] * 3, service_class="interactive", steps=1)
    watch.at(2, lambda: engine.submit(late))
    engine.submit(running).result()
    late.ticket.future.result(timeout=60)
    phases = [report.phase for report in watch.reports]
    beside = phases[2 : phases.index("decode")]
    assert (beside.count("read"), beside.count("encode")) == (3, 1)


def without_processor(folder: Path, **card) -> Path:
    """Write the model without the processor that reads pictures, and with changes to its card."""
    source = Path(catalog.card().path)
    for part in source.iterdir():
        if part.is_dir() and part.name != "processor":
            (folder / part.name).symlink_to(part)
    index = json.loads((source / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({name: index[name] for name in index if name != "processor"}))
    (folder / "kiln.json").write_text(json.dumps({"name": "plain", "min_side": 64, **card}))
    return folder


def test_a_model_without_a_processor_does_all_but_edits(tmp_path):
    with Engine(without_processor(tmp_path), device="cpu") as engine:
        with pytest.raises(InvalidRequest, match="plain can generate, img2img, inpaint, outpaint, redraw, not edit"):
            engine.submit(edit())
        assert engine.submit(order(steps=1)).result(timeout=60).steps_run == 1
        assert engine.submit(inpaint(steps=1)).result(timeout=60).steps_run == 1


def test_a_card_that_promises_edits_without_a_processor_is_no_model(tmp_path):
    engine = Engine(without_processor(tmp_path, operations=["edit"]), device="cpu")
    with pytest.raises(ModelUnavailable, match="processor"):
        engine.start()
