"""The caller learns of each step, and sees previews of the picture."""

import logging

import numpy as np
import pytest
from PIL import Image

from inference.engine import Engine
from inference.training import previews
from tests.inference.conftest import order
from tests.inference.test_edits_and_masks import without_processor


def test_each_step_is_told_while_others_run_beside(engine, watch):
    seen = {1: [], 2: []}
    batch_mates = [
        order(seed=seed, steps=steps, on_step=lambda one: seen[one.seed].append(one.state.step_index))
        for seed, steps in ((1, 4), (2, 6))
    ]
    watch.at(1, lambda: engine.submit(batch_mates[1]))
    engine.submit(batch_mates[0]).result()
    batch_mates[1].ticket.future.result()
    assert seen == {1: [1, 2, 3, 4], 2: [1, 2, 3, 4, 5, 6]}


def test_a_callback_that_raises_stops_nothing(engine, caplog):
    with caplog.at_level(logging.CRITICAL):
        assert engine.submit(order(on_step=lambda _: 1 / 0)).result().steps_run == 4


def test_previews_come_nearer_to_the_picture_step_by_step(engine):
    shown = []
    request = order(steps=12, width=192, on_step=lambda one: shown.append(engine.preview(one)))
    assert engine.preview(request) is None
    picture = engine.submit(request).result().image
    small = np.asarray(picture.reduce(8)).astype(int)
    distances = [float(np.abs(np.asarray(preview).astype(int) - small).mean()) for preview in shown]
    assert {preview.size for preview in shown} == {(24, 16)}
    flat = float(np.abs(small - small.mean((0, 1))).mean())
    assert distances[-1] < distances[0]
    assert distances[-1] < flat / 2, "far better than one colour for all"
    assert distances[len(distances) // 2] < flat, "halfway, one sees something"


def test_a_model_without_a_fit_has_no_previews_until_it_is_fitted(tmp_path, monkeypatch, capsys):
    folder = without_processor(tmp_path)
    shown = []
    with Engine(folder, device="cpu") as engine:
        engine.submit(order(steps=1, on_step=lambda one: shown.append(engine.preview(one)))).result()
    assert shown == [None]
    picture = tmp_path / "x.png"
    Image.effect_noise((100, 300), 80).save(picture)
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:500])
    monkeypatch.setattr("sys.argv", ["previews", "--model", str(folder), str(broken)])
    with pytest.raises(SystemExit) as ending:
        previews.main()
    assert ending.value.code == 2
    assert f"{broken} cannot be read as a picture: it is damaged" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["previews", "--model", str(folder), str(picture)])
    previews.main()
    with Engine(folder, device="cpu") as engine:
        request = order(steps=1)
        engine.submit(request).result()
        assert engine.preview(request).size == (16, 16)
