"""Training goes on after it was killed at any time, in each of its stages, and tells how far it is."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from inference.house_model import WEIGHTS, transformer
from inference.house_model.pace import Pace
from inference.house_model.pool import load_frozen
from inference.house_model.stage import Stage, publish

STAGES = ("vae", "text", "transformer", "decoder")
HOURS = 0.008


def training(out: Path, *options: str) -> subprocess.Popen:
    """Start a tiny training; without the compiler, whose work would take longer than the training."""
    command = [sys.executable, "-m", "tests.inference.house_model.tiny_training", "--out", str(out), "--threads", "1"]
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "1"}
    return subprocess.Popen([*command, "--former", str(WEIGHTS), *options], env=environment, stderr=subprocess.PIPE)


def told(out: Path) -> dict:
    path = out / "progress.json"
    return json.loads(path.read_text()) if path.exists() else {"stage": None, "step": 0}


def wait_for(process: subprocess.Popen, out: Path, stage: str, step: int) -> None:
    until = time.monotonic() + 300
    while told(out)["stage"] != stage or told(out)["step"] < step:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < until, told(out)
        time.sleep(0.1)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.timeout(900)
@pytest.mark.deep
def test_a_training_killed_in_each_stage_goes_on_where_it_was(tmp_path, full):
    for stage in STAGES if full else STAGES[:1]:
        first = training(tmp_path, "--hours", str(HOURS))
        wait_for(first, tmp_path, stage, 2)
        kill(first)
        before = torch.load(tmp_path / f"{stage}.pt", weights_only=True)["pace"]
        assert before["step"] >= 1
        second = training(tmp_path, "--hours", str(HOURS))
        wait_for(second, tmp_path, stage, before["step"] + 3)
        after = torch.load(tmp_path / f"{stage}.pt", weights_only=True)["pace"]
        assert after["step"] > before["step"]
        assert after["spent"] > before["spent"]
        kill(second)
    if not full:
        return
    last = training(tmp_path, "--hours", str(HOURS))
    _, errors = last.communicate(timeout=600)
    assert last.returncode == 0, errors.decode()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} >= {
        "tokenizer",
        "vae",
        "text_encoder",
        "decoder",
    }
    assert not list(tmp_path.glob("*.new"))
    assert told(tmp_path)["hours of computing left"] == {"this stage": 0.0, "later": 0.0}
    assert load_frozen(tmp_path).reader.prompts(["a red circle"])[0].isfinite().all()
    assert transformer.load(tmp_path).proj_out.weight.isfinite().all()


def stage(folder: Path, seconds: float = 60.0) -> tuple[Stage, nn.Module]:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    pace = Pace("lines", seconds, folder / "progress.json")
    return Stage(folder / "lines.pt", pace, model, [(optimizer, 1e-2)], 0.9), model


def test_a_resumed_stage_takes_the_very_step_that_the_ended_one_would_have_taken(tmp_path):
    given = [torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]

    def learn(one: Stage, model: nn.Module, seeds: range) -> None:
        for seed in seeds:
            one.learn([(model(given[seed]) - given[seed]).square().mean()])
            one.pace.step += 1

    whole, model = stage(tmp_path)
    learn(whole, model, range(3))
    whole.save()
    learn(whole, model, range(3, 4))
    resumed, other = stage(tmp_path)
    assert resumed.pace.step == 3
    learn(resumed, other, range(3, 4))
    torch.testing.assert_close(other.weight, model.weight, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(resumed.average.weights, whole.average.weights, rtol=1e-3, atol=1e-6)


def test_a_checkpoint_that_is_being_written_does_not_spoil_the_last_one(tmp_path):
    whole, _ = stage(tmp_path)
    whole.pace.step = 7
    whole.save()
    (tmp_path / "lines.new").write_bytes(b"half a checkpoint")
    assert stage(tmp_path)[0].pace.step == 7


def test_a_stages_folder_appears_whole_or_not_at_all(tmp_path):
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "weights").write_text("half")
        raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        publish(tmp_path / "vae", write)
    assert not (tmp_path / "vae").exists()
    publish(tmp_path / "vae", lambda folder: folder.mkdir())
    assert (tmp_path / "vae").is_dir()


def test_progress_tells_stage_step_losses_samples_and_the_end(tmp_path):
    one, model = stage(tmp_path)
    for _ in one.steps(range(60)):
        one.learn([model(torch.ones(1, 4)).square().sum()])
    one.pace.sampled({"captions 128": 0.5})
    found = told(tmp_path)
    assert (found["stage"], found["step"]) == ("lines", 60)
    assert len(found["losses"]) == 3
    assert found["samples"] == {"step": 60, "captions 128": 0.5}
    assert found["expected end"] >= found["written"]
