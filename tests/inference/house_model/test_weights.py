"""The weights that ship, how they are written, and training on the model that is served."""

import json
import stat
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import (
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    QwenImagePipeline,
)

from inference.house_model import WEIGHTS, architecture, export, tokenizer, transformer, world
from inference.models import catalog
from inference.models.processor import PictureProcessor


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def lively() -> torch.nn.Module:
    """Make the transformer with noise where it would start at zero."""
    model = architecture.transformer()
    with torch.no_grad():
        for weights in model.parameters():
            if not weights.any():
                weights.normal_(std=0.02)
    return model


def test_the_weights_are_small_safetensors_and_nothing_that_runs_code():
    endings = {path.suffix for path in WEIGHTS.rglob("*") if path.is_file()}
    assert endings == {".json", ".safetensors"}
    assert megabytes(WEIGHTS) < 40


def parts_for(kind: type) -> dict[str, object]:
    """Load the parts that transformers itself only loads with torchvision."""
    edits = kind in (QwenImageEditPlusPipeline, QwenImageEditPipeline)
    return {"processor": PictureProcessor.from_pretrained(WEIGHTS / "processor")} if edits else {}


@pytest.mark.parametrize(
    "kind",
    [
        QwenImagePipeline,
        QwenImageImg2ImgPipeline,
        QwenImageInpaintPipeline,
        QwenImageEditPipeline,
        QwenImageEditPlusPipeline,
    ],
)
def test_diffusers_own_pipelines_load_them(kind):
    pipeline = kind.from_pretrained(WEIGHTS, **parts_for(kind))
    assert isinstance(pipeline, kind)
    parameters = sum(weights.numel() for weights in pipeline.transformer.parameters())
    assert 8e6 < parameters < 9e6


def test_the_card_lies_beside_the_weights():
    values = json.loads((WEIGHTS / "kiln.json").read_text())
    card = catalog.card(WEIGHTS)
    assert values == export.CARD
    assert (card.name, card.default_width, card.default_steps) == ("kiln-house", 128, 20)


@pytest.mark.parametrize(
    ("kind", "template"),
    [(QwenImagePipeline, tokenizer.TEMPLATE_BEFORE), (QwenImageEditPlusPipeline, tokenizer.EDIT_BEFORE)],
)
def test_the_template_is_the_pipelines_and_takes_the_tokens_it_drops(kind, template):
    pipeline = kind.from_pretrained(WEIGHTS, **parts_for(kind))
    before, after = pipeline.prompt_template_encode.split("{}")
    assert (before, after) == (template, tokenizer.TEMPLATE_AFTER)
    assert len(pipeline.tokenizer(before).input_ids) == pipeline.prompt_template_encode_start_idx


@pytest.fixture
def few_pictures(monkeypatch):
    """An export fits its previews to a few pictures: how well is not what is asked here."""
    monkeypatch.setattr(world, "pictures", partial(world.pictures, 8))


@pytest.mark.usefixtures("few_pictures")
def test_an_export_replaces_the_old_folder_whole(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "stale.json").write_text("{}")
    words = architecture.processor(tokenizer.build())
    parts = (words, architecture.autoencoder(), architecture.text_encoder(words.tokenizer), lively())
    export.export(folder, *parts)
    assert not (folder / "stale.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert megabytes(folder) < 40
    assert all(path.stat().st_mode & stat.S_IROTH for path in folder.rglob("*"))
    loaded = QwenImagePipeline.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(loaded.transformer.proj_out.weight, parts[-1].proj_out.weight.float())


@pytest.mark.usefixtures("few_pictures")
def test_an_export_that_fails_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "old.json").write_text("{}")
    words = architecture.processor(tokenizer.build())
    broken = architecture.text_encoder(words.tokenizer)
    broken.save_pretrained = None
    with pytest.raises(TypeError):
        export.export(folder, words, architecture.autoencoder(), broken, lively())
    assert [path.name for path in tmp_path.rglob("*")] == ["weights", "old.json"]


@pytest.mark.parametrize("pictures", [1, 2])
def test_what_training_predicts_is_diffusers_own_prediction(pictures):
    torch.manual_seed(0)
    model = lively()
    tokens, texts, times = torch.randn(2, 96, 32), torch.randn(2, 28, 128), torch.tensor([0.5, 0.2])
    present = torch.arange(28)[None] < torch.tensor([[9], [20]])
    rotations = transformer.rotations(model, (128, 192), pictures, 28)
    given = torch.randn(2, 96 * (pictures - 1), 32)
    batch = transformer.Batch(tokens, given, texts, present, rotations)
    with torch.no_grad():
        expected = model(
            hidden_states=torch.cat([tokens, given], dim=1),
            timestep=times,
            encoder_hidden_states=texts,
            encoder_hidden_states_mask=present,
            img_shapes=[[(1, 12, 8)] * pictures] * 2,
            return_dict=False,
        )[0][:, :96]
        for block in model.transformer_blocks:
            block.attn.set_processor(transformer.RealRotation())
        torch.testing.assert_close(transformer.predict(model, batch, tokens, times), expected)


def test_the_weights_do_not_tell_where_they_were_made():
    for config in WEIGHTS.rglob("*.json"):
        assert "_name_or_path" not in json.loads(config.read_text()), config
