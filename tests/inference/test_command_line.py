"""`python -m inference`: once as a person runs it, and then, since torch takes long to import, in this process."""

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from inference.__main__ import main
from inference.models.catalog import card
from tests.inference.test_appearance import COLOURS, distance, moving, stored, turned
from tests.inference.test_picture_files import LARGE_EXIF, with_segments


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
    assert capsys.readouterr().err == (
        "python -m inference: argument --box: must be four whole numbers, as in 0,0,64,64, not '1,2,3'\n"
    )


def test_an_operation_without_its_picture_or_with_a_broken_one_is_a_readable_line_and_code_2(tmp_path):
    done = kiln("a red circle", "--operation", "img2img")
    assert (done.returncode, done.stderr) == (2, "python -m inference: images must be 1 for img2img, not 0\n")
    broken = tmp_path / "x.png"
    broken.write_bytes(b"no picture")
    done = kiln("a red circle", "--operation", "img2img", "--image", str(broken))
    assert done.returncode == 2
    assert done.stderr.startswith(f"python -m inference: {broken} cannot be read as a picture")
    assert len(done.stderr.splitlines()) == 1


def bad_pictures() -> dict[str, tuple[bytes, str]]:
    whole = {kind: stored(COLOURS, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")}
    exif = with_segments((0xE1, LARGE_EXIF))
    return {
        "empty": (b"", "it is empty"),
        "a GIF": (whole["GIF"], "it is a GIF"),
        "a PNG cut off": (whole["PNG"][:-80], "it is damaged"),
        "a JPEG cut off": (whole["JPEG"][:-200], "it is damaged"),
        "a JPEG cut off in its head": (exif[:50_000], "it is damaged"),
        "a WebP cut off": (whole["WEBP"][:-200], "it is damaged"),
        "a moving WebP": (moving("WEBP"), "it has more than one frame"),
        "32 bits": (stored(Image.new("I", (64, 64)), "TIFF"), "it is a TIFF"),
        "too large": (stored(Image.new("1", (3000, 64))), "it must have sides from 16 to 2048 pixels"),
        "a line": (stored(Image.new("1", (2000, 1))), "it must have sides from 16 to 2048 pixels"),
    }


@pytest.mark.parametrize(("content", "says"), bad_pictures().values(), ids=bad_pictures().keys())
@pytest.mark.parametrize("place", ["--image", "--mask"])
def test_a_bad_picture_is_one_sentence_that_names_it(content, says, place, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(stored(COLOURS))
    bad.write_bytes(content)
    files = {"--image": str(good), "--mask": str(good)} | {place: str(bad)}
    inputs = ("--image", files["--image"], "--mask", files["--mask"], "--out", str(tmp_path / "x.png"))
    done = kiln("a red circle", "--operation", "inpaint", *inputs)
    assert done.returncode == 2
    assert done.stderr.startswith(f"python -m inference: {bad} cannot be read as a picture: {says}")
    assert len(done.stderr.splitlines()) == 1


def test_what_a_picture_carries_beside_its_pixels_is_no_warning(tmp_path):
    source = tmp_path / "x.jpg"
    source.write_bytes(with_segments((0xE1, LARGE_EXIF)))
    script = "import sys, inference.__main__ as m; m._make = lambda *_: None; sys.exit(m.main())"
    inputs = ("--operation", "img2img", "--image", str(source), "--out", str(tmp_path / "y.png"))
    done = subprocess.run([sys.executable, "-c", script, *inputs], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_picture_that_lies_on_its_side_is_continued_as_it_is_seen(tmp_path):
    source, out = tmp_path / "source.png", tmp_path / "out.png"
    source.write_bytes(turned("PNG", 6, COLOURS.crop((0, 0, 64, 41))))
    inputs = ("--operation", "outpaint", "--image", str(source), "--extend", "32,0,16,64", "--steps", "1")
    done = kiln("a red circle", "--out", str(out), *inputs)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as picture:
        assert picture.size == (32 + 41 + 16, 64 + 64)
        assert distance(picture.crop((32, 0, 73, 64)), COLOURS.crop((0, 0, 64, 41)).rotate(-90, expand=True)) == 0


@pytest.mark.parametrize(
    ("size", "asked"), [((100, 90), (112, 96)), ((64, 64), (64, 64)), ((400, 300), (256, 192)), ((30, 90), (64, 96))]
)
@pytest.mark.parametrize("operation", ["img2img", "inpaint"])
def test_a_picture_is_painted_at_its_own_size_as_far_as_the_model_can(operation, size, asked, tmp_path, monkeypatch):
    requests = []
    monkeypatch.setattr("inference.__main__._make", lambda model, backend, made, paths: requests.extend(made))
    monkeypatch.setattr("inference.__main__.catalog.card", lambda model: replace(card(), max_side=256, min_side=64))
    source = tmp_path / "x.png"
    Image.new("RGB", size, "white").save(source)
    mask = ("--mask", str(source)) if operation == "inpaint" else ()
    inputs = ("--operation", operation, "--image", str(source), *mask, "--out", str(tmp_path / "y.png"))
    assert main(["a red circle", *inputs]) == 0
    assert (requests[0].width, requests[0].height) == asked


def test_adapters_change_the_picture_and_a_broken_one_is_a_readable_line_and_code_2(tmp_path):
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
    save_file(load_file(good) | {"text_encoder.q_proj.lora_A.weight": torch.zeros(1)}, good)
    done = kiln("a red circle", *size, "--adapter", f"{good}=2")
    assert done.stderr.splitlines()[-1] == (
        "python -m inference: adapter a=b.safetensors: its changes of the text encoder are ignored"
    )
    done = kiln("a red circle", *size, "--adapter", f"{good}=2", "--adapter", str(broken))
    assert done.returncode == 2
    assert done.stderr == "python -m inference: adapter broken.safetensors: not a safetensors file\n"
    save_file({"unknown": torch.zeros(1)}, broken)
    done = kiln("a red circle", *size, "--adapter", str(broken))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("python -m inference: adapter broken.safetensors: 'unknown'")


def test_a_distilled_adapter_is_drawn_by_its_recipe_unless_told_otherwise(tmp_path, adapter):
    fast, out = tmp_path / "fast.safetensors", tmp_path / "x.png"
    fast.symlink_to(adapter)
    recipe = {"steps": 3, "guidance_scale": 1.0, "sampler": {"shift": 3.0}}
    (tmp_path / "fast.recipe.json").write_text(json.dumps(recipe))
    size = ("--width", "64", "--height", "64", "--seed", "1", "--out", str(out))
    pictures = []
    for told in ((), ("--guidance", "1"), ("--guidance", "4")):
        done = kiln("a red circle", *size, "--adapter", str(fast), *told)
        assert done.returncode == 0, done.stderr
        assert "step 3 of 3" in done.stderr
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    assert "step 5 of 5" in kiln("a red circle", *size, "--adapter", str(fast), "--steps", "5").stderr
    (tmp_path / "fast.recipe.json").write_text('{"steps": "few"}')
    done = kiln("a red circle", *size, "--adapter", str(fast))
    assert done.returncode == 2
    assert done.stderr.startswith("python -m inference: the recipe of adapter fast.safetensors: steps must be")


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


WRONG = {
    "a blank prompt": (["  "], "prompt must not be blank to generate"),
    "no prompt": ([], "prompt must not be blank to generate"),
    "an invisible prompt": (["\u200b\u00ad"], "prompt must not be blank to generate"),
    "half a character": (["x\udcff"], "prompt has half a surrogate pair at character 1"),
    "a seed that the API would not take": (["x", "--seed", "4294967296"], "from 0 to 4294967295"),
    "a negative seed": (["x", "--seed", "-1"], "seed must be a whole number from 0"),
    "too many pictures": (["x", "--n", "65"], "n must be from 1 to 64"),
    "no picture": (["x", "--n", "0"], "n must be from 1 to 64"),
    "digits of another script": (["x", "--steps", "٢٠"], "argument --steps: must be a whole number, not '٢٠'"),
    "a number with an underscore": (["x", "--steps", "2_0"], "argument --steps: must be a whole number"),
    "no number": (["x", "--guidance", "nan"], "argument --guidance: must be a number, not 'nan'"),
    "an abbreviated option": (["x", "--see", "5"], "unrecognized arguments: --see 5"),
    "an unknown operation": (["x", "--operation", "paint"], "choose from 'generate', 'edit'"),
    "a picture that is a folder": (["x", "--operation", "edit", "--image", "."], "cannot be read as a picture"),
    "a picture that is not there": (["x", "--operation", "edit", "--image", "no.png"], "no.png cannot be read"),
    "an adapter that is not there": (["x", "--adapter", "no.safetensors=0.5"], "there is no adapter no.safetensors"),
    "an adapter that is a folder": (["x", "--adapter", "."], "there is no adapter ."),
    "a place that is a folder": (["x", "--out", "folder.png"], "folder.png cannot be written"),
    "a second place that is a folder": (["x", "--n", "2", "--out", "x.png"], "x-2.png cannot be written"),
    "a place under a file": (["x", "--out", "file/x.png"], "file"),
    "a kind that can only be read": (["x", "--out", "x.psd"], "must have a picture's extension"),
    "a model without its parts": (["x", "--model", "model"], "has no folder transformer"),
    "a model whose index is broken": (["x", "--model", "broken"], "model_index.json is not a JSON object"),
}


@pytest.mark.parametrize(("arguments", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_one_sentence_before_anything_is_loaded(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("inference.__main__._make", None)
    for folder in ("folder.png", "x-2.png", "model", "broken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").touch()
    index = '{"_class_name": "QwenImagePipeline", "transformer": ["diffusers", "QwenImageTransformer2DModel"]}'
    (tmp_path / "model" / "model_index.json").write_text(index)
    (tmp_path / "broken" / "model_index.json").write_text("{")
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            status = main(arguments)
        except SystemExit as ending:
            status = ending.code
    assert status == 2
    assert err.getvalue().startswith("python -m inference: ")
    assert told in err.getvalue()
    assert len(err.getvalue().splitlines()) == 1


def test_checking_loads_no_torch(tmp_path):
    script = (
        "import sys, inference.__main__ as m; m._make = lambda *_: print('torch' in sys.modules); sys.exit(m.main())"
    )
    adapter = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, adapter)
    order = ("a red circle", "--adapter", str(adapter), "--out", str(tmp_path / "x.png"))
    done = subprocess.run([sys.executable, "-c", script, *order], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.deep
def test_progress_is_shown_before_the_model_is_loaded(tmp_path):
    order = ("a red circle", "--out", str(tmp_path / "x.png"), "--width", "64", "--height", "64", "--steps", "1")
    done = subprocess.run([sys.executable, "-m", "inference", *order], capture_output=True, check=True)
    shown = done.stderr.decode().split("\r")
    assert shown[1] == "loading the model, 0 s"
    assert shown[-1].startswith(f"[{'#' * 30}] step 1 of 1")


def test_seeds_and_normal_forms_are_those_of_the_api(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("inference.__main__._make", lambda model, backend, requests, paths: asked.extend(requests))
    out = ("--out", str(tmp_path / "x.png"))
    assert main(["cafe\u0301", "--seed", "4294967295", "--n", "2", *out]) == 0
    assert main(["x", "--n", "64", *out]) == 0
    assert [(request.prompt, request.seed) for request in asked[:2]] == [("café", 4294967295), ("café", 0)]
    assert len({request.seed for request in asked[2:]}) == 64
    assert max(request.seed for request in asked) <= 4294967295


def test_help_names_every_option_and_exit_status(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["--help"])
    told = capsys.readouterr().out
    assert ending.value.code == 0
    for word in ("--seed", "4294967295", "--adapter", "--model", "KILN_MODEL", "examples:", "Exit status"):
        assert word in told
