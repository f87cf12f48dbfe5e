"""`python -m inference`, as a person runs it."""

import subprocess
import sys

from PIL import Image


def kiln(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "inference", *arguments], capture_output=True, text=True)


def test_it_writes_the_pictures_and_prints_their_paths(tmp_path):
    out = tmp_path / "new" / "x.png"
    size = ("--width", "80", "--height", "64")
    done = kiln("a red circle", "--out", str(out), *size, "--steps", "2", "--seed", "1", "--n", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(out), str(out.with_name("x-2.png"))]
    assert "step 4 of 4" in done.stderr
    for path in done.stdout.splitlines():
        with Image.open(path) as picture:
            assert (picture.format, picture.size, picture.mode) == ("PNG", (80, 64), "RGB")


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
    assert done.stderr == "python -m inference: x.txt does not end like a picture's name, such as .png\n"


def test_an_unknown_model_is_a_readable_line_and_code_2():
    done = kiln("a red circle", "--model", "/nowhere")
    assert done.returncode == 2
    assert done.stderr == "python -m inference: no model folder at /nowhere\n"
