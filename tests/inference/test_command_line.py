"""`python -m inference`: once as a person runs it, and then, since torch takes long to import, in this process."""

import contextlib
import io
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from inference.__main__ import main


def kiln(*arguments: str) -> subprocess.CompletedProcess[str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main([*arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def test_it_writes_the_pictures_and_prints_their_paths(tmp_path):
    out = tmp_path / "new" / "x.png"
    size = ("--width", "80", "--height", "64")
    order = ("a red circle", "--out", str(out), *size, "--steps", "2", "--seed", "1", "--n", "2")
    done = subprocess.run([sys.executable, "-m", "inference", *order], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(out), str(out.with_name("x-2.png"))]
    assert "step 4 of 4" in done.stderr
    for path in done.stdout.splitlines():
        with Image.open(path) as picture:
            assert (picture.format, picture.size, picture.mode) == ("PNG", (80, 64), "RGB")


def test_it_starts_from_a_picture_and_keeps_what_the_mask_does_not_show(tmp_path):
    source, mask, out = tmp_path / "source.png", tmp_path / "mask.png", tmp_path / "out.png"
    Image.new("RGB", (64, 64), "teal").save(source)
    Image.linear_gradient("L").resize((64, 64)).save(mask)
    inputs = ("--operation", "inpaint", "--image", str(source), "--mask", str(mask), "--strength", "0.5")
    done = kiln("a red circle", "--out", str(out), *inputs, "--width", "64", "--height", "64", "--steps", "4")
    assert done.returncode == 0, done.stderr
    assert "step 2 of 2" in done.stderr
    with Image.open(out) as picture:
        assert picture.crop((0, 0, 64, 30)).getcolors() == [(64 * 30, (0, 128, 128))]
        assert len(picture.crop((0, 34, 64, 64)).getcolors(64 * 64)) > 1


def test_it_goes_on_beyond_a_picture(tmp_path):
    source, out = tmp_path / "source.png", tmp_path / "out.png"
    Image.new("RGB", (64, 80), "teal").save(source)
    inputs = ("--operation", "outpaint", "--image", str(source), "--extend", "32,0,16,16", "--steps", "2")
    done = kiln("a red circle", "--out", str(out), *inputs, "--deterministic", "--step-cache", "0.3")
    assert done.returncode == 0, done.stderr
    with Image.open(out) as picture:
        assert picture.size == (112, 96)
        assert picture.crop((32, 0, 96, 80)).getcolors() == [(64 * 80, (0, 128, 128))]


def test_a_box_of_three_numbers_is_a_readable_line_and_code_2(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["a red circle", "--operation", "redraw", "--box", "1,2,3"])
    assert ending.value.code == 2
    assert "argument --box: invalid" in capsys.readouterr().err


def test_an_operation_without_its_picture_or_with_a_broken_one_is_a_readable_line_and_code_2(tmp_path):
    done = kiln("a red circle", "--operation", "img2img")
    assert (done.returncode, done.stderr) == (2, "python -m inference: images must be 1 for img2img, not 0\n")
    broken = tmp_path / "x.png"
    broken.write_bytes(b"no picture")
    done = kiln("a red circle", "--operation", "img2img", "--image", str(broken))
    assert done.returncode == 2
    assert done.stderr.startswith(f"python -m inference: {broken} cannot be read as a picture")
    assert len(done.stderr.splitlines()) == 1


def test_adapters_change_the_picture_and_a_broken_one_is_a_readable_line_and_code_1(tmp_path):
    good, broken = tmp_path / "a=b.safetensors", tmp_path / "broken.safetensors"
    layer = "transformer.transformer_blocks.0.img_mlp.net.2"
    save_file({f"{layer}.lora_A.weight": torch.randn(4, 768), f"{layer}.lora_B.weight": torch.randn(192, 4)}, good)
    broken.write_bytes(b"no adapter")
    pictures = []
    for number, adapters in enumerate([(), ("--adapter", f"{good}=0.5"), ("--adapter", str(good))]):
        out = tmp_path / f"{number}.png"
        size = ("--width", "64", "--height", "64", "--steps", "2", "--seed", "1", "--out", str(out))
        done = kiln("a red circle", *size, *adapters)
        assert done.returncode == 0, done.stderr
        pictures.append(out.read_bytes())
    assert len(set(pictures)) == 3
    done = kiln("a red circle", *size, "--adapter", f"{good}=2", "--adapter", str(broken))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "python -m inference: adapter broken.safetensors: not a safetensors file"


def test_a_bad_size_is_a_readable_line_and_code_2(tmp_path):
    out = tmp_path / "x.png"
    done = kiln("a red circle", "--out", str(out), "--width", "100")
    assert done.returncode == 2
    assert done.stderr == "python -m inference: width must be a multiple of 16, not 100\n"
    assert done.stdout == ""
    assert not out.exists()


def test_a_name_that_is_no_pictures_is_refused_before_any_work(tmp_path):
    done = kiln("a red circle", "--out", str(tmp_path / "x.txt"))
    assert done.returncode == 2
    assert done.stderr == "python -m inference: x.txt must have a picture's extension, such as .png\n"


def test_an_unknown_model_is_a_readable_line_and_code_2():
    done = kiln("a red circle", "--model", "/nowhere")
    assert done.returncode == 2
    assert done.stderr == "python -m inference: no model folder at /nowhere\n"
