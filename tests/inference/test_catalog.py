"""What is known of a model without loading it."""

import json
import subprocess
import sys

import pytest

from inference.errors import ModelUnavailable
from inference.models import catalog


def test_the_catalog_loads_neither_torch_nor_diffusers():
    heavy = "{'torch', 'diffusers', 'transformers'} & {*sys.modules}"
    script = f"import sys, inference.models.catalog as c; c.card(); print(*{heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_house_model_is_the_default(monkeypatch):
    monkeypatch.delenv("KILN_MODEL", raising=False)
    card = catalog.card()
    assert card.name == "kiln-house"
    assert (card.min_side, card.max_side, card.side_multiple) == (64, 1024, 16)
    assert {"generate", "img2img", "inpaint"} <= set(card.operations)


def test_the_environment_names_another_model(monkeypatch):
    monkeypatch.setenv("KILN_MODEL", "Qwen/Qwen-Image")
    card = catalog.card()
    assert (card.name, card.path, card.revision) == ("qwen-image", "Qwen/Qwen-Image", "Qwen/Qwen-Image")
    assert (card.default_width, card.default_steps, card.max_side) == (1024, 50, 2048)
    assert catalog.card(catalog.HOUSE_MODEL).name == "kiln-house"


def model_folder(path, weights: bytes = b"weights"):
    (path / "vae").mkdir(parents=True)
    (path / "model_index.json").write_text('{"_class_name": "QwenImagePipeline"}')
    (path / "vae" / "model.safetensors").write_bytes(weights)
    return path


def test_a_folder_is_named_after_itself_and_revised_by_its_weights(tmp_path):
    one, same, other = (
        catalog.card(model_folder(tmp_path / place / "My-Model", weights))
        for place, weights in (("a", b"one"), ("b", b"one"), ("c", b"two"))
    )
    assert one.name == "my-model"
    assert one.revision == same.revision != other.revision


def test_a_folder_may_set_its_own_limits(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "kiln.json").write_text(json.dumps({"max_side": 512, "operations": ["generate", "edit"]}))
    card = catalog.card(folder)
    assert (card.max_side, card.operations, card.default_steps) == (512, ("generate", "edit"), 50)
    assert card.condition_area == 1024 * 1024


def test_a_folder_may_have_an_edit_see_its_pictures_as_large_as_the_output(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "kiln.json").write_text('{"condition_area": null}')
    assert catalog.card(folder).condition_area is None


@pytest.mark.parametrize(
    ("index", "edits"),
    [
        ({"_class_name": "QwenImagePipeline"}, False),
        ({"_class_name": "QwenImagePipeline", "processor": ["transformers", "Qwen2VLProcessor"]}, True),
        ({"_class_name": "QwenImageEditPlusPipeline", "processor": ["transformers", "Qwen2VLProcessor"]}, True),
        ({"_class_name": "QwenImageEditPipeline", "processor": ["transformers", "Qwen2VLProcessor"]}, False),
    ],
    ids=str,
)
def test_a_folder_edits_where_it_can_read_several_pictures(tmp_path, index, edits):
    folder = model_folder(tmp_path / "model")
    (folder / "model_index.json").write_text(json.dumps(index))
    assert ("edit" in catalog.card(folder).operations) is edits


@pytest.mark.parametrize(
    ("name", "edits"),
    [("Qwen/Qwen-Image", False), ("Qwen/Qwen-Image-Edit", False), ("Qwen/Qwen-Image-Edit-2509", True)],
)
def test_a_hub_name_says_whether_the_model_edits(name, edits):
    assert ("edit" in catalog.card(name).operations) is edits


def test_an_unknown_operation_is_refused(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "kiln.json").write_text('{"operations": ["generate", "animate"]}')
    with pytest.raises(ModelUnavailable, match="animate"):
        catalog.card(folder)


def test_a_misspelt_limit_is_refused(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "kiln.json").write_text('{"max_sise": 512}')
    with pytest.raises(ModelUnavailable, match="max_sise"):
        catalog.card(folder)


@pytest.mark.parametrize("text", ["{", "[1]", '{"path": "/elsewhere"}', '{"revision": "1"}'])
def test_a_card_that_cannot_be_or_moves_the_model_is_refused(tmp_path, text):
    folder = model_folder(tmp_path / "model")
    (folder / "kiln.json").write_text(text)
    with pytest.raises(ModelUnavailable, match=r"kiln\.json"):
        catalog.card(folder)


def test_new_weights_give_a_new_revision(tmp_path):
    folder = model_folder(tmp_path / "one", b"old")
    old = catalog.card(folder).revision
    folder.rename(tmp_path / "old")
    assert catalog.card(model_folder(folder, b"new")).revision != old


@pytest.mark.parametrize("place", ["/nowhere", "a/b/c", "../x y"])
def test_what_is_no_model_is_refused(place):
    with pytest.raises(ModelUnavailable):
        catalog.card(place)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ModelUnavailable, match="model_index"):
        catalog.card(tmp_path)
