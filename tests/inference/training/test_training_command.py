"""`python -m inference.training.adapter`, as a person runs it."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.models import catalog
from inference.training import adapter
from tests.inference.training.lessons import SIDE, framed

SMALL = ("--steps", "6", "--batch", "4", "--rank", "4", "--every", "3", "--resolution", str(SIDE), "--sample", "a star")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for example in framed():
        example.image.save(folder / f"{example.name}.png")
        (folder / f"{example.name}.txt").write_text("\n".join(example.captions))
    return folder


def start(pictures: Path, out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "inference.training.adapter", "--pictures", str(pictures), "--out", str(out)]
    return subprocess.Popen([*command, *SMALL, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.deep
def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_goes_on(pictures, tmp_path):
    whole = start(pictures, tmp_path / "whole.safetensors")
    out, err = whole.communicate()
    assert whole.returncode == 0, err
    assert "whole.safetensors is the adapter of step" in out
    assert "loss" in err
    assert "min left" in err
    assert (tmp_path / "whole.safetensors.training" / "samples-000006.png").exists()

    ended = start(pictures, tmp_path / "again.safetensors", "--steps", "6")
    while "step 3: loss" not in ended.stderr.readline():
        assert ended.poll() is None
    ended.send_signal(signal.SIGINT)
    _, err = ended.communicate()
    if ended.returncode != 0:  # it was not done by then
        assert ended.returncode == 130
        assert "the same command goes on" in err
        assert not (tmp_path / "again.safetensors").exists()
        again = start(pictures, tmp_path / "again.safetensors")
        _, err = again.communicate()
        assert again.returncode == 0, err
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--rank", "300"), "rank must be from 1 to 256"),
        (("--model", "/nowhere"), "no model folder"),
        (("--learning-rate", "nan"), "learning_rate must be"),
        (("--sample", "a star") * 17, "at most 16 samples"),
        (("--sample", "x" * 5000), "a sample has more than"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence_and_nothing_is_written(pictures, tmp_path, capsys, options, sentence):
    out = tmp_path / "out.safetensors"
    assert adapter.main(["--pictures", str(pictures), "--out", str(out), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("place", "sentence"), [("", "is a folder"), ("file/out.safetensors", "cannot be written")])
def test_a_place_that_cannot_be_written_is_refused_at_once(pictures, tmp_path, capsys, place, sentence):
    (tmp_path / "file").write_text("taken")
    assert adapter.main(["--pictures", str(pictures), "--out", str(tmp_path / place), *SMALL]) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_is_refused_in_a_sentence(pictures, capsys):
    assert adapter.main(["--pictures", str(pictures), "--out", "/proc/1/none/out.safetensors", *SMALL]) == 2
    assert "/proc/1/none" in capsys.readouterr().err


def test_a_bad_picture_is_refused_in_a_sentence_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"GIF89a")
    out = tmp_path / "out.safetensors"
    arguments = ["--pictures", str(tmp_path / "pictures"), "--out", str(out), "--caption", "x"]
    assert adapter.main(arguments) == 2
    assert "it is a GIF" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_numbers_that_break_have_an_exit_status_of_their_own(pictures, tmp_path):
    model, out = tmp_path / "model", tmp_path / "out.safetensors"
    shutil.copytree(catalog.HOUSE_MODEL, model)
    path = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["proj_out.weight"][0, 0] = torch.nan
    save_file(weights, path, {"format": "pt"})
    arguments = ["--pictures", str(pictures), "--out", str(out), "--model", str(model), *SMALL]
    assert adapter.main(arguments) == 3
    assert not out.exists()


def test_help_tells_every_option(capsys):
    with pytest.raises(SystemExit):
        adapter.main(["--help"])
    told = capsys.readouterr().out
    for name in adapter.HELP:
        assert f"--{name.replace('_', '-')}" in told
