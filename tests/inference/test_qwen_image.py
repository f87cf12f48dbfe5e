"""The text encoder gets everything that the processor answers, so that its states are the reference model's own."""

import json
import os
from shutil import copytree

import pytest
import torch
from PIL import Image
from transformers import BatchFeature, Qwen2_5_VLForConditionalGeneration

from inference import pictures
from inference.errors import ModelUnavailable
from inference.house_model import WEIGHTS
from inference.models import catalog, qwen_image
from inference.models.processor import PictureProcessor
from inference.models.qwen_image import QwenImage

INSTRUCTIONS = ["make the circle blue", " "]
SHOWN = [
    Image.linear_gradient("L").convert("RGB").resize((128, 128)),
    Image.new("RGB", (96, 160), "red"),
    Image.new("RGB", (320, 64), "blue"),
]


@pytest.fixture
def model() -> QwenImage:
    return qwen_image.load(catalog.card(WEIGHTS), torch.device("cpu"))


@torch.inference_mode()
def reference(model: QwenImage, instruction: str, shown: list[Image.Image]) -> torch.Tensor:
    """Return the states that transformers' own model gives to all of its own processor's answers."""
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(WEIGHTS / "text_encoder").eval()
    processor = PictureProcessor.from_pretrained(WEIGHTS / "processor")
    before = "".join(qwen_image.PICTURE.format(number) for number in range(1, len(shown) + 1))
    fitted = [pictures.resize(image, pictures.fit(image.size, 384 * 384)) for image in shown]
    answered = processor(text=[model._edit_template.format(before + instruction)], images=fitted, return_tensors="pt")
    states = encoder(**answered, output_hidden_states=True).hidden_states[-1]
    return states[0, model._edit_template_tokens :]


@pytest.mark.parametrize("count", [1, 2, 3])
@torch.inference_mode()
def test_an_edits_embedding_is_that_of_the_reference_model(model, count):
    for instruction, made in zip(INSTRUCTIONS, model.encode_edit(INSTRUCTIONS, SHOWN[:count]), strict=True):
        torch.testing.assert_close(made, reference(model, instruction, SHOWN[:count]), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_tokens_of_a_picture_get_positions_in_height_and_width(model):
    seen = []
    model._text_encoder.model.language_model.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["position_ids"]), with_kwargs=True
    )
    model.encode_edit(["make the circle blue"], SHOWN[:1])
    assert seen[0].shape[:2] == (3, 1)
    _, height, width = seen[0][:, 0]
    assert (height != width).any()


@torch.inference_mode()
def test_whatever_else_a_processor_answers_reaches_the_encoder(model, monkeypatch):
    known, got = model._processor, {}

    def answer(**asked: object) -> BatchFeature:
        answered = known(**asked)
        answered["position_ids"] = torch.zeros((3, *answered["input_ids"].shape), dtype=torch.long)
        return answered

    model._text_encoder.register_forward_pre_hook(lambda module, given, named: got.update(named), with_kwargs=True)
    (before,) = model.encode_edit(["make the circle blue"], SHOWN[:1])
    monkeypatch.setattr(model, "_processor", answer)
    (after,) = model.encode_edit(["make the circle blue"], SHOWN[:1])
    assert not got["position_ids"].any()
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "FlowMatchHeunDiscreteScheduler"},
        {"stochastic_sampling": True},
        {"invert_sigmas": True},
        {"use_beta_sigmas": True},
        {"num_train_timesteps": 500},
    ],
    ids=str,
)
def test_a_model_whose_schedule_cannot_be_honoured_is_refused(tmp_path, changes):
    folder = copytree(WEIGHTS, tmp_path / "model", copy_function=os.link)
    configuration = folder / "scheduler" / "scheduler_config.json"
    values = json.loads(configuration.read_text())
    configuration.unlink()
    configuration.write_text(json.dumps(values | changes))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", (values | changes)["_class_name"]]
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnavailable, match=r"sampler of|beta sigmas"):
        qwen_image.load(catalog.card(folder), torch.device("cpu"))
