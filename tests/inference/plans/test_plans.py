"""Plans on disk: written whole or not at all, read only where everything fits; the command; the table of sizes."""

import json
import shutil
from dataclasses import replace

import pytest

from inference.errors import ModelUnavailable, PlanUnavailable
from inference.plans import building, onnx, plan, profiles
from inference.plans.__main__ import main
from inference.plans.building import Wanted
from tests.inference.plans.conftest import SMALL

pytestmark = pytest.mark.timeout(900)
FITS = (onnx.LIBRARY, onnx.VERSION, None)


@pytest.fixture
def copied(tmp_path, small_plan):
    """A copy of the small model's plan, to spoil."""
    return shutil.copytree(small_plan.folder, tmp_path / small_plan.folder.parent.name / small_plan.folder.name)


def test_a_plan_says_what_it_is_for(small_plan, small_card):
    plan.check(small_plan, small_card, *FITS)
    about = small_plan.about
    assert (about.model, about.revision, about.precision) == (small_card.name, small_card.revision, "fp32")
    assert about.profiles == (SMALL,)


@pytest.mark.parametrize("name", ["first.onnx", "others.onnx.data", "last.onnx"])
@pytest.mark.parametrize("harm", ["a byte", "the end", "all"])
def test_files_that_are_not_what_was_written_are_refused(copied, name, harm):
    path = copied / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "all":
        path.unlink()
    else:
        path.write_bytes(content if harm == "a byte" else content[:-1])
    with pytest.raises(PlanUnavailable, match=f"{name} is not what the plan was written with"):
        plan.read(copied)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"graphs": 0}, "graphs 0, not 1"),
        ({"revision": "old"}, "revision old, not"),
        ({"model": "other"}, "model other, not"),
        ({"version": "1.0"}, "version 1.0, not"),
        ({"library": "tensorrt"}, "library tensorrt, not"),
    ],
)
def test_a_plan_for_something_else_is_refused_and_says_what_differs(small_plan, small_card, changes, words):
    other = plan.Plan(small_plan.folder, replace(small_plan.about, **changes))
    with pytest.raises(PlanUnavailable, match=words):
        plan.check(other, small_card, *FITS)


@pytest.mark.parametrize(
    "about",
    ["", "[]", "{}", '{"files": []}', '{"files": {}}', '{"files": {}, "model": 1, "profiles": 7}', "\x00"],
)
def test_what_says_nothing_sensible_is_refused(copied, about):
    (copied / "plan.json").write_text(about)
    with pytest.raises(PlanUnavailable, match=r"plan\.json"):
        plan.read(copied)


def test_a_folder_without_a_plan_says_how_to_have_one(tmp_path):
    with pytest.raises(PlanUnavailable, match=r"python -m inference\.plans build"):
        plan.read(tmp_path)


def test_a_build_that_fails_leaves_the_former_plan(copied, small_plan):
    before = json.loads((copied / "plan.json").read_text())

    def build():
        with plan.writing(copied, small_plan.about) as new:
            (new / "first.onnx").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build()
    assert json.loads((copied / "plan.json").read_text()) == before
    assert plan.read(copied).about == small_plan.about
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_a_new_plan_takes_the_place_of_the_former_one(copied, small_plan):
    with plan.writing(copied, small_plan.about) as new:
        (new / "first.onnx").write_bytes(b"new")
    assert sorted(path.name for path in copied.iterdir()) == ["first.onnx", "plan.json"]
    assert plan.read(copied).file("first").read_bytes() == b"new"
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_nothing_is_written_where_a_plan_is_used(copied, small_card):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    onnx.OnnxExecutor(plan.read(copied))
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_what_onnx_runtime_cannot_load_is_told(copied):
    said = json.loads((copied / "plan.json").read_text())
    (copied / "first.onnx").write_bytes(b"junk")
    said["files"]["first.onnx"] = plan._fingerprint(copied / "first.onnx")
    (copied / "plan.json").write_text(json.dumps(said))
    with pytest.raises(PlanUnavailable, match=r"ONNX Runtime cannot load .*first\.onnx"):
        onnx.OnnxExecutor(plan.read(copied))


def test_a_precision_that_a_library_does_not_run_is_refused_before_anything_is_made(tmp_path, small_card):
    with pytest.raises(PlanUnavailable, match="onnxruntime runs fp32, fp16"):
        building.build(small_card, tmp_path, Wanted("onnxruntime", "bf16", (SMALL,)))
    assert not list(tmp_path.iterdir())


# --- the command ---


@pytest.mark.deep
def test_plans_are_built_listed_and_checked(tmp_path, small_card, capsys):
    table = tmp_path / "sizes.toml"
    table.write_text(
        '[[profile]]\nname = "tiny"\nrows = [1, 1, 2]\ntokens = [4, 16, 16]\ntext = [8, 8, 8]\nrank = [0, 0, 16]\n'
    )
    at = ["--plans", str(tmp_path / "plans")]
    assert main(["list", *at]) == 0
    assert "no plans in" in capsys.readouterr().out
    assert main(["build", *at, "--model", small_card.path, "--profiles", str(table)]) == 0
    said = capsys.readouterr()
    assert str(tmp_path / "plans") in said.out
    assert [line.split("s  ")[1] for line in said.err.splitlines()] == [
        "exporting first", "exporting others", "exporting last",
    ]  # fmt: skip
    assert main(["list", *at]) == 0
    assert f"small-model {small_card.revision}  fp32  onnxruntime" in capsys.readouterr().out
    assert main(["check", *at]) == 0
    assert capsys.readouterr().out.startswith("whole ")
    (path,) = (tmp_path / "plans").glob("*/*/others.onnx.data")
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["check", *at]) == 1
    assert "others.onnx.data is not what the plan was written with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "--model", "/nowhere"], "no model folder at /nowhere"),
        (["build", "--profiles", "/nowhere.toml"], "/nowhere.toml"),
        (["build", "--precision", "bf16"], "not bf16"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, capsys, arguments, words):
    assert main([*arguments, "--plans", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert (said.out, len(said.err.splitlines())) == ("", 1)


# --- the table of sizes ---


def test_the_table_that_ships_has_room_for_everything_that_is_usual():
    found = profiles.read()
    for tokens, text in ((64, 12), (1024, 200), (4096, 512), (16384, 1024), (3 * 4096 + 16384, 2048)):
        assert any(each.serves(tokens=tokens, text=text, rank=64) for each in found), (tokens, text)


ROW = {"name": "a", "rows": [1, 2, 4], "tokens": [1, 2, 4], "text": [1, 2, 4], "rank": [0, 0, 4]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": [0, 1, 2]}, "profile a: rows must be three whole numbers from 1"),
        ({"rows": [2, 1, 4]}, "that do not fall"),
        ({"tokens": [1, 2]}, "profile a: tokens"),
        ({"text": "many"}, "profile a: text"),
        ({"rank": [True, 1, 2]}, "profile a: rank"),
        ({"rank": None}, "profile a: rank"),
        ({"name": ""}, "profile 1 needs a name"),
        ({"columns": [1, 2, 3]}, "profile a: unknown columns"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_the_place(changes, words):
    with pytest.raises(ValueError, match=words):
        profiles.parse([ROW | changes])


@pytest.mark.parametrize("content", ["", "[[profile]", "profile = 3"])
def test_what_is_no_table_is_refused_by_its_name(tmp_path, content):
    path = tmp_path / "sizes.toml"
    path.write_text(content)
    with pytest.raises(ModelUnavailable, match=r"sizes\.toml"):
        profiles.read(path)
