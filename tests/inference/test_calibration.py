"""Step times: measured once, stored, and measured again if what is stored is of no use."""

from pathlib import Path

import pytest
import torch

from inference import calibrate, calibration
from inference.calibration import StepTimes
from inference.models import catalog
from inference.request import Phase


def test_the_knee_is_the_smallest_batch_that_is_nearly_as_fast_as_the_best():
    assert StepTimes((32, 64, 128, 256), (10.0, 11.0, 14.0, 27.0)).knee() == 128
    assert StepTimes((32, 64, 128), (1.0, 2.0, 4.0)).knee() == 32


def test_seconds_between_and_beyond_what_was_measured():
    times = StepTimes((100, 200), (1.0, 3.0))
    assert [times.at(tokens) for tokens in (50, 100, 150, 200, 400)] == [1, 1, 2, 3, 6]


class Device:
    """A runner that takes `seconds` for the steps of each number of rows, one after the other, and its clock."""

    def __init__(self, seconds=(), most_rows=64, error=torch.OutOfMemoryError):
        self.rows, self.measured, self._now = [], 0, 0.0
        self._seconds, self._most_rows, self._error = seconds, most_rows, error

    def run(self, batch):
        if batch.phase is Phase.ENCODE:
            self.measured += 1
            return
        if len(batch.requests) > self._most_rows:
            raise self._error
        if len(batch.requests) not in self.rows:
            self.rows.append(len(batch.requests))
        self._now += self._seconds[len(self.rows) - 1] if self._seconds else 0.0

    def clock(self):
        return self._now


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Return step times through an empty folder, and count the measurements."""
    card, device = catalog.card(), Device()
    monkeypatch.setenv("KILN_CALIBRATION", str(tmp_path))
    return lambda: (calibration.step_times(card, torch.device("cpu"), device), device.measured)


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


def test_the_table_is_printed_and_a_usual_picture_fits_under_the_cap(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KILN_CALIBRATION", str(tmp_path))
    assert calibrate.main([]) == 0
    head, *rows, cap = capsys.readouterr().out.splitlines()
    assert head.startswith("image tokens")
    assert [int(row.split()[0]) for row in rows] == [32 * 2**power for power in range(len(rows))]
    assert int(cap.split()[1].rstrip(",")) >= 128
    assert len(list(Path(tmp_path).iterdir())) == 1


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        # an H200 with Qwen-Image at 512x512: four times the throughput of one row, found by going on
        ((0.167, 0.2, 0.24, 0.425, 0.84, 1.7), [1, 2, 4, 8, 16]),
        ((0.1, 0.2, 0.4), [1, 2, 4]),
        ((1.0,), [1]),
        (tuple(0.001 for _ in range(7)), [1, 2, 4, 8, 16, 32, 64]),
    ],
    ids=["until more brings nothing", "nothing from the first", "too slow to go on", "as many as there may be"],
)
def test_larger_batches_are_measured_while_they_are_worth_it(seconds, rows):
    device = Device(seconds)
    calibration.measure(catalog.card(), device, device.clock)
    assert device.rows == rows


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError, RuntimeError("CUDA error: out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")],
    ids=repr,
)
def test_a_batch_that_memory_does_not_hold_ends_the_table(error):
    assert calibration.measure(catalog.card(), Device(most_rows=2, error=error)).tokens == (32, 64)


def test_another_error_is_no_end_of_the_table():
    with pytest.raises(RuntimeError, match="assert"):
        calibration.measure(catalog.card(), Device(most_rows=2, error=RuntimeError("device-side assert triggered")))
