"""The command that measures a GPU runs every section on the processor, and reports what it could not do."""

import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import gpu
from bench.gpu_sections import forwards, page
from bench.gpu_sections.rig import TINY, Rig, load, request
from inference.models import transformer as transformer_rows
from inference.models.forms import UNCHANGED

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bench.gpu", *arguments]
    # threads that wait for one another cost more than they bring
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=170, env=alone)


def section(monkeypatch, name, rows, seconds=10):
    monkeypatch.setitem(gpu.SECTIONS, name, gpu.Section(rows, seconds))


@pytest.mark.deep
def test_every_section_runs_on_the_processor_prints_its_table_and_leaves_its_figures(tmp_path):
    done = run("--tiny", "--out", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert list(report["sections"]) == list(gpu.SECTIONS) == list(page.SECTIONS)
    for name, section in report["sections"].items():
        assert section["rows"], name
        assert f"\n{name} (" in done.stdout
    assert not [section for section in report["sections"].values() if section.keys() & {"error", "cut short"}]
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]
    moved = {row[""]: row.get("largest") for row in report["sections"]["agreement"]["rows"]}
    assert {moved[f"{kind} · float32 beside the processor's"] for kind in ("generate", "edit", "redraw")} == {0}
    found = {row[""]: row["found"] for row in page.goals(report)}
    # a processor records no graph, but blocks are traced
    assert page.UNKNOWN not in found.values()
    assert found["random jobs that failed"] == "0"


@pytest.mark.deep
def test_what_was_cut_short_keeps_the_rows_it_had(monkeypatch, capsys, tmp_path):
    def slow(rig):
        yield {"": "before", "figure": 1}
        time.sleep(30)

    section(monkeypatch, "card", slow)
    assert gpu.main(["--tiny", "--minutes", "0.01", "--out", str(tmp_path / "gpu.json"), "card", "decode"]) == 0
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert sections["card"]["rows"] == [{"": "before", "figure": 1}]
    assert (sections["card"]["cut short"], sections["decode"]["cut short"]) == ("after 1 s", "after 0 s")
    assert "\ndecode (" in capsys.readouterr().out


def test_a_section_that_fails_is_told_and_the_next_one_runs(monkeypatch, capsys, tmp_path):
    def broken(rig):
        yield {"": "before", "figure": 1}
        raise RuntimeError("no kernel image")

    section(monkeypatch, "card", broken)
    assert gpu.main(["--tiny", "--out", str(tmp_path / "gpu.json"), "card", "step_cache"]) == 1
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert sections["card"]["error"] == "RuntimeError: no kernel image"
    assert sections["card"]["rows"] == [{"": "before", "figure": 1}]
    assert sections["step_cache"]["rows"]
    assert "no kernel image" in capsys.readouterr().out


def test_ctrl_c_ends_the_run_and_keeps_what_was_found(monkeypatch, capsys, tmp_path):
    def interrupted(rig):
        yield {"": "before", "figure": 1}
        written = json.loads((tmp_path / "gpu.json").read_text())["sections"]["card"]
        assert written == {"rows": [{"": "before", "figure": 1}], "cut short": "the run ended"}
        raise KeyboardInterrupt

    section(monkeypatch, "card", interrupted)
    assert gpu.main(["--tiny", "--out", str(tmp_path / "gpu.json"), "card", "decode"]) == 130
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert [*sections] == ["card"]
    assert sections["card"]["rows"] == [{"": "before", "figure": 1}]
    assert "the run ended" in capsys.readouterr().out


def test_a_section_that_missed_its_end_is_told_again(monkeypatch, tmp_path):
    def deaf(rig):
        try:
            time.sleep(10)
        except gpu.OutOfTime:
            yield {"": "once"}
        time.sleep(10)

    monkeypatch.setattr(gpu, "AGAIN_SECONDS", 0.5)
    section(monkeypatch, "card", deaf, 1.4 / gpu.TINY_PATIENCE)
    begun = time.monotonic()
    assert gpu.main(["--tiny", "--out", str(tmp_path / "gpu.json"), "card"]) == 0
    assert time.monotonic() - begun < 8
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]["card"]
    assert (found["rows"], found["cut short"]) == ([{"": "once"}], "after 1 s")


def test_an_end_that_lies_in_the_past_leaves_nothing_but_says_so(monkeypatch, tmp_path):
    arguments = ["--tiny", "--minutes", "1", "--out", str(tmp_path / "gpu.json"), "card"]
    assert gpu.main(arguments, begun=time.monotonic() - 61) == 0
    assert json.loads((tmp_path / "gpu.json").read_text())["sections"]["card"]["cut short"] == "after 0 s"


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_that_cannot_be_is_refused(minutes, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--tiny", "--minutes", minutes])
    assert f"invalid minutes value: '{minutes}'" in capsys.readouterr().err


def test_where_nothing_can_be_written_nothing_is_measured(monkeypatch, capsys, tmp_path):
    section(monkeypatch, "card", lambda rig: pytest.fail("it was measured"))
    assert gpu.main(["--tiny", "--out", str(tmp_path), "card"]) == 2
    assert f"cannot write {tmp_path}: Is a directory" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert gpu.main(["--tiny", "--out", str(tmp_path / "file" / "gpu.json"), "card"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_some_sections_alone_do_not_take_the_place_of_a_whole_run():
    assert gpu.results(gpu.parse([])) == gpu.RESULTS
    assert gpu.results(gpu.parse(["card", "card"])) == gpu.SOME_RESULTS
    assert gpu.parse(["card", "decode", "card"]).sections == ["card", "decode"]


@pytest.mark.parametrize("text", [None, "junk", "[1]", '{"tiny": false, "sections": {"card": 3}}', '{"tiny": true}'])
def test_a_page_is_not_made_of_what_is_no_run(text, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(page.write, "__defaults__", (tmp_path / "gpu.md",))
    (tmp_path / "gpu.md").write_text("as it was")
    if text:
        (tmp_path / "gpu.json").write_text(text)
    assert gpu.main(["--page", "--out", str(tmp_path / "gpu.json")]) == 2
    assert "figures" in capsys.readouterr().err
    assert (tmp_path / "gpu.md").read_text() == "as it was"


def test_a_section_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["cards"])
    assert "no such section: cards" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == ("python -m bench.gpu: no GPU that torch can see; --tiny runs on the processor\n")


def test_the_page_shows_the_figures_of_the_last_run(tmp_path):
    copy = tmp_path / "gpu.md"
    copy.write_text(page.PAGE.read_text())
    page.write(json.loads(gpu.RESULTS.read_text()) if gpu.RESULTS.is_file() else None, copy)
    assert copy.read_text() == page.PAGE.read_text(), "python -m bench.gpu --page"


def test_a_goal_without_its_figure_is_not_measured_yet():
    report = {"sections": {"engine": {"rows": [{"": "512² · batch 1", "of raw": 0.98}, {"": "cap", "tokens": 1}]}}}
    found = {row[""]: row["found"] for row in page.goals(report)}
    assert found.pop("engine: of the raw forward, at worst") == "0.98"
    assert set(found.values()) == {page.UNKNOWN}


def test_a_goal_of_a_section_that_ended_early_says_that_it_is_not_all():
    rows = [{"": "64² · batch 1", "of raw": 0.98}]
    report = {"sections": {"engine": {"rows": rows, "cut short": "after 70 s"}}}
    found = {row[""]: row["found"] for row in page.goals(report)}
    assert found["engine: of the raw forward, at worst"] == "0.98 so far"


def test_a_cell_of_the_page_stays_a_cell():
    assert page.markdown([{"": "jobs", "first": "A | B"}]).endswith(r"| jobs | A \| B |")


def test_the_engine_reads_prompts_as_long_as_those_of_the_bare_forwards():
    rig = Rig(torch.device("cpu"), TINY)
    model = load(rig)(rig.card, rig.device, UNCHANGED)
    inputs = rig.inputs(64, 6)
    prompts = [request(64, 1, row).prompt for row in range(6)] + [""] * 6
    assert [len(model.encode(prompt)) for prompt in prompts] == [len(text) for text in inputs.texts]


def test_layers_that_are_replaced_by_ones_of_8_bits_go_one_by_one(monkeypatch):
    transformer = Rig(torch.device("cpu"), TINY).backend().transformer
    old = [weakref.ref(layer) for layer in transformer.transformer_blocks.modules() if isinstance(layer, nn.Linear)]
    alive = []
    make = forwards.EightBitLinear.__init__

    def count(self, linear):
        alive.append(sum(each() is not None for each in old))
        make(self, linear)

    monkeypatch.setattr(forwards.EightBitLinear, "__init__", count)
    forwards.convert(transformer.transformer_blocks)
    assert len(alive) == len(old)
    # those of one attention may wait for one another
    assert all(left <= len(old) - done + 8 for done, left in enumerate(alive))


def test_a_rotation_without_complex_numbers_is_the_same():
    x = torch.randn(2, 5, 3, 8)
    rotation = torch.polar(torch.ones(5, 4), torch.randn(5, 4))[:, None]
    assert torch.allclose(forwards._rotate(x, rotation), transformer_rows.rotate(x, rotation), atol=1e-6)


def test_modules_of_the_rig_share_their_weights():
    rig = Rig(torch.device("cpu"), TINY)
    one, other = rig.share(), rig.share()
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert all(mine.data_ptr() == theirs.data_ptr() for mine, theirs in pairs)
