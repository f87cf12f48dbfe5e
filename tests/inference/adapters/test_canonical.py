"""Each layout that is read gives a canonical file that does the same to the model, and that gives itself again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inference.adapters import canonical, files
from inference.adapters import sizes as layers
from inference.adapters.recipes import Recipe
from inference.errors import AdapterUnavailable
from tests.inference.adapters.layouts import READ, ROWS
from tests.inference.adapters.test_formats import SMALL, TwoBlocks


@pytest.fixture(scope="module")
def sizes():
    return TwoBlocks(SMALL).layers.sizes


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.verdict == READ])
def test_a_layout_loses_nothing(sizes, tmp_path, name):
    path = ROWS[name].make(dict(sizes)).write(tmp_path / "sent")
    found = canonical.write(path, tmp_path / "canonical.safetensors", sizes, Recipe())
    again = canonical.write(tmp_path / "canonical.safetensors", tmp_path / "again.safetensors", sizes, Recipe())
    assert again == found
    before = files.read(path, sizes, torch.float32)
    after = files.read(tmp_path / "canonical.safetensors", sizes, torch.float32)
    assert (after.memory == before.memory).all()
    assert after.shapes.keys() == before.shapes.keys()
    for layer, shape in before.shapes.items():
        assert after.shapes[layer].scale == pytest.approx(shape.scale, rel=1e-7)


def test_a_file_is_as_small_as_its_weights_allow(sizes, tmp_path):
    found = {}
    for name in ("BF16", "F16", "diffusers"):
        path = ROWS[name].make(dict(sizes)).write(tmp_path / name)
        found[name] = canonical.write(path, tmp_path / f"{name}.out", sizes, Recipe())["size"]
    assert max(found["BF16"], found["F16"]) < 0.6 * found["diffusers"]


@pytest.mark.parametrize(("factor", "reason"), [(0.0, "changes nothing"), (1e6, "is absurd")])
def test_a_change_that_no_training_makes_is_refused(sizes, tmp_path, factor, reason):
    layout = ROWS["diffusers"].make(dict(sizes))
    layout.tensors = {name: factor * each for name, each in layout.tensors.items()}
    with pytest.raises(AdapterUnavailable, match=reason):
        canonical.write(layout.write(tmp_path / "sent"), tmp_path / "out", sizes, Recipe())
    assert not (tmp_path / "out").exists()


def check(sent, out, *options):
    """Run the command with the house model's own sizes."""
    from inference.models import catalog

    given = json.dumps(layers.of(catalog.card().path))
    command = [sys.executable, "-m", "inference.adapters.canonical", str(sent), str(out), *options]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def test_a_check_takes_no_more_memory_than_it_may(tmp_path):
    """Which here is less than the file has."""
    from inference.models import catalog

    path = ROWS["diffusers"].make(layers.of(catalog.card().path)).write(tmp_path / "sent")
    done = check(path, tmp_path / "out", "--memory", "0.00001")
    said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"refused": ""}
    assert "refused" in said, done
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_cannot_be_used_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "sent"
    save_file({"x": torch.zeros(1)}, path, {"kiln_recipe": '{"steps": 0}'})
    said = json.loads(check(path, tmp_path / "out").stdout.splitlines()[-1])
    assert said == {"refused": "its recipe: steps must be a whole number from 1 to 1000"}


@pytest.mark.parametrize(("name", "shown"), [(r"st\u0000eps", r"st\x00eps"), (r"st\ud800eps", r"st\ud800eps")])
def test_a_refusal_is_text_whatever_the_file_says(tmp_path, name, shown):
    path = tmp_path / "sent"
    save_file({"x": torch.zeros(1)}, path, {"kiln_recipe": f'{{"{name}": 4}}'})
    said = json.loads(check(path, tmp_path / "out").stdout.splitlines()[-1])
    assert said == {"refused": f"its recipe: unknown fields: {shown}"}


def test_sizes_of_a_model_are_printed_without_its_weights(tmp_path):
    from inference.models import catalog

    config = Path(catalog.card().path, "transformer", "config.json")
    (tmp_path / "transformer").mkdir()
    shutil.copy(config, tmp_path / "transformer")
    command = [sys.executable, "-m", "inference.adapters.sizes", str(tmp_path)]
    printed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    width = json.loads(config.read_text())["attention_head_dim"] * json.loads(config.read_text())["num_attention_heads"]
    assert printed["transformer_blocks.0.attn.to_q"] == [width, width]
