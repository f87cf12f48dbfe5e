"""The weights that ship, how they are written, and that training trains the model that is served."""

import json
import stat
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline

from inference.house_model import WEIGHTS, architecture, export, tokenizer, transformer
from inference.house_model.pace import Average, Pace
from inference.models import catalog


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def lively() -> torch.nn.Module:
    """The transformer with noise where it starts at zero."""
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


def test_diffusers_own_pipeline_loads_them(pipeline):
    assert isinstance(pipeline, QwenImagePipeline)
    parameters = sum(weights.numel() for weights in pipeline.transformer.parameters())
    assert 8e6 < parameters < 9e6


def test_the_card_lies_beside_the_weights():
    values = json.loads((WEIGHTS / "kiln.json").read_text())
    card = catalog.card(WEIGHTS)
    assert values == export.CARD
    assert (card.name, card.default_width, card.default_steps) == ("kiln-house", 128, 20)


def test_the_template_is_the_pipelines_and_takes_the_tokens_it_drops(pipeline):
    before, after = pipeline.prompt_template_encode.split("{}")
    assert (before, after) == (tokenizer.TEMPLATE_BEFORE, tokenizer.TEMPLATE_AFTER)
    assert len(pipeline.tokenizer(before).input_ids) == pipeline.prompt_template_encode_start_idx


def test_an_export_replaces_the_old_folder_whole(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "stale.json").write_text("{}")
    words = tokenizer.build()
    parts = (words, architecture.autoencoder(), architecture.text_encoder(words), lively())
    export.export(folder, *parts)
    assert not (folder / "stale.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert megabytes(folder) < 40
    assert all(path.stat().st_mode & stat.S_IROTH for path in folder.rglob("*"))
    loaded = QwenImagePipeline.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(loaded.transformer.proj_out.weight, parts[-1].proj_out.weight.float())


def test_an_export_that_fails_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "old.json").write_text("{}")
    words = tokenizer.build()
    broken = architecture.text_encoder(words)
    broken.save_pretrained = None
    with pytest.raises(TypeError):
        export.export(folder, words, architecture.autoencoder(), broken, lively())
    assert [path.name for path in tmp_path.rglob("*")] == ["weights", "old.json"]


def test_what_training_predicts_is_diffusers_own_prediction():
    torch.manual_seed(0)
    model = lively()
    tokens, texts, times = torch.randn(2, 96, 32), torch.randn(2, 24, 128), torch.tensor([0.5, 0.2])
    present = torch.arange(24)[None] < torch.tensor([[9], [20]])
    pool = transformer.Pool(128, 192, tokens, texts, present)
    batch = transformer.Batch(tokens, texts, present, transformer._rotations(model, pool))
    with torch.no_grad():
        expected = model(
            hidden_states=tokens,
            timestep=times,
            encoder_hidden_states=texts,
            encoder_hidden_states_mask=present,
            img_shapes=[[(1, 12, 8)]] * 2,
            return_dict=False,
        )[0]
        for block in model.transformer_blocks:
            block.attn.set_processor(transformer.RealRotation())
        torch.testing.assert_close(transformer.predict(model, batch, tokens, times), expected)


def test_training_goes_on_from_its_checkpoint(tmp_path):
    model, average = lively(), Average(lively(), 0.9)
    transformer._save(tmp_path, model, average, Pace("transformer", 60, spent=12.0, step=34))
    resumed, averaged, pace = transformer._resume(tmp_path, 60)
    torch.testing.assert_close(resumed.state_dict(), model.state_dict())
    torch.testing.assert_close(averaged.weights, average.weights)
    assert pace.step == 34
    assert 12 <= pace.spent < 30


def test_the_weights_do_not_tell_where_they_were_made():
    for config in WEIGHTS.rglob("*.json"):
        assert "_name_or_path" not in json.loads(config.read_text()), config
