"""Each layout that is read gives a canonical file that does the same to the model, and that gives itself again."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from inference.adapters import canonical, files
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


def test_a_check_takes_no_more_memory_than_it_may(tmp_path):
    """The house model's own sizes, and less memory than the file has."""
    from inference.models import catalog

    model = catalog.card().path
    path = ROWS["diffusers"].make(canonical.sizes_of(model)).write(tmp_path / "sent")
    command = [sys.executable, "-m", "inference.adapters.canonical", str(path), str(tmp_path / "out"), "--model", model]
    done = subprocess.run([*command, "--memory", "0.00001"], capture_output=True, text=True, check=False)
    said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"refused": ""}
    assert "refused" in said, done
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_cannot_be_used_is_refused_in_a_sentence(tmp_path):
    from inference.models import catalog

    path = tmp_path / "sent"
    save_file({"x": torch.zeros(1)}, path, {"kiln_recipe": '{"steps": 0}'})
    command = [sys.executable, "-m", "inference.adapters.canonical", str(path), str(tmp_path / "out")]
    done = subprocess.run([*command, "--model", catalog.card().path], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"refused": "its recipe: steps must be a whole number from 1 to 1000"}
