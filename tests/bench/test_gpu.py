"""The command that measures a GPU runs every section on the processor, and reports what it could not do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu_sections import page
from bench.gpu_sections.rig import TINY, Rig

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bench.gpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=170)


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


def test_what_was_cut_short_keeps_the_rows_it_had(tmp_path):
    done = run("--tiny", "--minutes", "0.02", "--out", str(tmp_path / "gpu.json"), "card", "decode")
    assert done.returncode == 0
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert sections["card"]["rows"]
    assert "cut short" in sections["decode"]
    assert "decode" in done.stdout


def test_a_section_that_fails_is_told_and_the_next_one_runs(monkeypatch, capsys, tmp_path):
    def broken(rig):
        yield {"": "before", "figure": 1}
        raise RuntimeError("no kernel image")

    monkeypatch.setitem(gpu.SECTIONS, "card", gpu.Section(broken, 10))
    assert gpu.main(["--tiny", "--out", str(tmp_path / "gpu.json"), "card", "step_cache"]) == 1
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert sections["card"]["error"] == "RuntimeError: no kernel image"
    assert sections["card"]["rows"] == [{"": "before", "figure": 1}]
    assert sections["step_cache"]["rows"]
    assert "no kernel image" in capsys.readouterr().out


def test_a_section_that_there_is_not_is_refused():
    done = run("cards")
    assert done.returncode == 2
    assert "no such section: cards" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 2
    assert done.stderr == "python -m bench.gpu: no GPU that torch can see; --tiny runs on the processor\n"


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


def test_modules_of_the_rig_share_their_weights():
    rig = Rig(torch.device("cpu"), TINY)
    one, other = rig.share(), rig.share()
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert all(mine.data_ptr() == theirs.data_ptr() for mine, theirs in pairs)
