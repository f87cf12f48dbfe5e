"""What is known of a model without loading it."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

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
        ({"_class_name": "QwenImageEditPlusPipeline", "processor": [None, None]}, False),
        ({"_class_name": "QwenImageEditPlusPipeline"}, False),
        ({"processor": ["transformers", "Qwen2VLProcessor"]}, False),
    ],
    ids=str,
)
def test_a_folder_edits_where_it_can_read_several_pictures(tmp_path, index, edits):
    for name in ("model", "Qwen-Image-Edit-2511"):
        folder = model_folder(tmp_path / name)
        (folder / "model_index.json").write_text(json.dumps(index))
        assert ("edit" in catalog.card(folder).operations) is edits


@contextmanager
def cached(home, indices):
    """Lay indices where the hub's library caches them, under `home`."""
    for name, index in indices.items():
        folder = home / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "snapshots" / "1f").mkdir(parents=True)
        (folder / "snapshots" / "1f" / "model_index.json").write_text(json.dumps(index))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("1f")
    yield {"HF_HUB_OFFLINE": "1"}


@contextmanager
def served(home, indices):
    """Serve indices as the hub does."""
    for name, index in indices.items():
        (home / name / "resolve" / "main").mkdir(parents=True)
        (home / name / "resolve" / "main" / "model_index.json").write_text(json.dumps(index))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=home)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        server.shutdown()


@pytest.mark.parametrize("kept", [cached, served])
def test_a_model_of_the_hub_edits_if_its_configuration_says_so_whatever_its_name(tmp_path, kept):
    processor = ["transformers", "Qwen2VLProcessor"]
    indices = {
        "someone/qwen-image-edit-4bit": {"_class_name": "QwenImageEditPipeline", "processor": processor},
        "someone/my-model": {"_class_name": "QwenImageEditPlusPipeline", "processor": processor},
        "someone/an-edit-2511": {"_class_name": "QwenImagePipeline"},
        # were it another one by now
        "Qwen/Qwen-Image-Edit-2509": {"_class_name": "QwenImageEditPipeline", "processor": processor},
    }
    edits = "'edit' in c.card(name).operations for name in sys.argv[1:]"
    script = f"import sys, inference.models.catalog as c; print(*({edits}))"
    with kept(tmp_path, indices) as environment:
        done = subprocess.run(
            [sys.executable, "-c", script, *indices],
            env={**os.environ, "HF_HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["False", "True", "False", "False"]


@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("Qwen/Qwen-Image", False),
        ("Qwen/Qwen-Image-Edit", False),
        ("Qwen/Qwen-Image-Edit-2509", True),
        ("Qwen/Qwen-Image-Edit-2511", True),
        ("ovedrive/qwen-image-edit-4bit", False),
        ("someone/Qwen-Image-Edit-2511", False),
    ],
)
def test_without_the_hub_only_the_published_models_edit(name, edits):
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


@pytest.mark.parametrize("file", ["scheduler/scheduler_config.json", "tokenizer/merges.txt", "vae/config.json"])
def test_whatever_changes_pictures_gives_a_new_revision(tmp_path, file):
    revisions = []
    for content in ("{}", '{"shift": 3.0}', '{"shift": 4.0}', "{}"):
        folder = model_folder(tmp_path / str(len(revisions)) / "model")
        parts = {name: ["diffusers", "Part"] for name in ("scheduler", "tokenizer", "vae")}
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "QwenImagePipeline", **parts}))
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content)
        (folder / "README.md").write_text(str(len(revisions)))
        revisions.append(catalog.card(folder).revision)
    assert len(set(revisions)) == 3
    assert revisions[0] == revisions[3]


@pytest.mark.parametrize("place", ["/nowhere", "a/b/c", "../x y"])
def test_what_is_no_model_is_refused(place):
    with pytest.raises(ModelUnavailable):
        catalog.card(place)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ModelUnavailable, match="model_index"):
        catalog.card(tmp_path)
