"""Step times: measured once, kept, and measured again where what was kept is of no use."""

import subprocess
import sys
from pathlib import Path

import pytest

from inference import calibration
from inference.calibration import StepTimes


def test_the_knee_is_the_smallest_batch_that_is_nearly_as_fast_as_the_best():
    assert StepTimes((32, 64, 128, 256), (10.0, 11.0, 14.0, 27.0)).knee() == 128
    assert StepTimes((32, 64, 128), (1.0, 2.0, 4.0)).knee() == 32


def test_seconds_between_and_beyond_what_was_measured():
    times = StepTimes((100, 200), (1.0, 3.0))
    assert [times.at(tokens) for tokens in (50, 100, 150, 200, 400)] == [1, 1, 2, 3, 6]


@pytest.fixture
def kept(engine, tmp_path, monkeypatch):
    """Step times by way of an empty folder, and how often they were measured."""
    measured = []

    def measure(card, runner):
        measured.append(card)
        return StepTimes((32, 64), (0.5, 0.6 + len(measured)))

    monkeypatch.setenv("KILN_CALIBRATION", str(tmp_path))
    monkeypatch.setattr(calibration, "measure", measure)
    return lambda: (calibration.step_times(engine.card, engine.device, engine._runner), len(measured))


def test_step_times_are_measured_once(kept):
    assert kept() == kept()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"identity": {}, "steps": [[32, 0.5]]}'])
def test_a_file_that_is_broken_or_of_another_device_is_measured_anew(kept, tmp_path, content):
    kept()
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert kept()[1] == 2
    assert kept()[1] == 2


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_start(kept, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KILN_CALIBRATION", str(tmp_path / "file"))
    assert kept()[1] == 1


def test_the_table_is_printed_and_a_usual_picture_fits_under_the_cap(tmp_path, monkeypatch):
    monkeypatch.setenv("KILN_CALIBRATION", str(tmp_path))
    done = subprocess.run([sys.executable, "-m", "inference.calibrate"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, *rows, cap = done.stdout.splitlines()
    assert head.startswith("image tokens")
    assert [int(row.split()[0]) for row in rows] == [32 * 2**power for power in range(len(rows))]
    assert int(cap.split()[1].rstrip(",")) >= 128
    assert len(list(Path(tmp_path).iterdir())) == 1
