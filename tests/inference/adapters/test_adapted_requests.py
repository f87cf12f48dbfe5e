"""Requests with different adapters in one engine: they share batches, do not wait for others' files, and fail alone."""

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from inference.adapters import files, names
from inference.engine import Engine
from inference.errors import AdapterUnavailable, Canceled, EngineStopped, InvalidRequest
from inference.models import catalog
from inference.request import Operation
from tests.inference.adapters.conftest import ATTENTION, SECONDS, wait_until
from tests.inference.conftest import difference, order


@pytest.fixture(autouse=True)
def nothing_stays_pinned(engine) -> Iterator[None]:
    yield
    wait_until(lambda: not any(resident.pins for resident in engine._bank._residents.values()))
    assert not engine._fetching


class Gate:
    """A gate that blocks every read of a file until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    gate, read = Gate(), files.read

    def held(*arguments):
        gate.reached.set()
        gate.opened.wait(SECONDS)
        return read(*arguments)

    monkeypatch.setattr(files, "read", held)
    yield gate
    gate.opened.set()


def test_a_picture_with_adapters_is_the_plain_pipelines(engine, pipeline, make):
    paths, scales = [make("style"), make("face", rank=4, targets=ATTENTION, alpha=2.0)], [0.3, 0.9]
    request = order(adapters=tuple(zip(map(str, paths), scales, strict=True)))
    picture = engine.submit(request).result()
    assert difference(picture, engine.submit(order()).result()) > 20
    for path in paths:
        bare = {key.removeprefix("transformer."): value for key, value in load_file(path).items()}
        pipeline.load_lora_weights(bare if "face" in path.stem else load_file(path), adapter_name=path.stem)
    try:
        pipeline.set_adapters([path.stem for path in paths], scales)
        expected = pipeline(
            request.prompt,
            negative_prompt="",
            true_cfg_scale=request.guidance_scale,
            num_inference_steps=request.steps,
            width=request.width,
            height=request.height,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]
    finally:
        pipeline.unload_lora_weights()
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(expected)).max() <= 1


def test_rows_with_other_adapters_and_with_none_share_a_forward_and_change_nothing(engine, watch, make):
    small = {"width": 64, "height": 64}
    style, face = str(make("style", rank=64)), str(make("face", rank=4))
    given = [(), ((style, 0.5),), ((face, 1.0),), ((style, 0.2), (face, -0.4))]
    alone = [
        engine.submit(order(seed=seed, adapters=adapters, **small)).result() for seed, adapters in enumerate(given)
    ]
    watch.reset()
    requests = [order(seed=seed, adapters=adapters, **small) for seed, adapters in enumerate(given)]
    watch.at(1, lambda: [engine.submit(request) for request in requests])
    engine.submit(order(steps=1, **small)).result()
    together = [request.ticket.future.result() for request in requests]
    assert watch.rows("denoise") == [1, *[4] * 4] or watch.rows("denoise") == [5, 4, 4, 4]
    assert all(difference(*pair) <= 1 for pair in zip(alone, together, strict=True))


@pytest.mark.parametrize("operation", catalog.card().operations)
def test_an_adapter_works_in_every_operation(engine, make, operation):
    image = engine.submit(order(seed=3, steps=1)).result().image
    plain = {
        "operation": operation,
        "images": {Operation.GENERATE: (), Operation.OUTPAINT: (image.crop((0, 0, 64, 128)),)}.get(operation, (image,)),
        "mask": Image.linear_gradient("L").resize(image.size) if operation == Operation.INPAINT else None,
        "extend": (64, 0, 0, 0) if operation == Operation.OUTPAINT else (0, 0, 0, 0),
        "box": (40, 40, 90, 90) if operation == Operation.REDRAW else None,
    }
    adapters = ((str(make()), 0.5),)
    with_it, without = (engine.submit(order(**plain, steps=2, adapters=each)) for each in (adapters, ()))
    assert difference(with_it.result(), without.result()) > 1


def test_a_file_that_is_being_read_holds_no_step_up(engine, watch, make, gate):
    waiting, batch_mates = order(adapters=((str(make()), 1.0),)), [order(seed=1), order(seed=2, width=80)]
    engine.submit(waiting)
    assert gate.reached.wait(SECONDS)
    for batch_mate in batch_mates:
        assert engine.submit(batch_mate).result(SECONDS).steps_run == 4
    assert not waiting.ticket.future.done()
    gate.opened.set()
    assert waiting.ticket.future.result(SECONDS).steps_run == 4


def test_what_of_a_file_is_ignored_is_said_with_the_picture_and_in_the_log(engine, make, caplog):
    path = make("style", targets=ATTENTION)
    text = {"text_encoder.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 8)}
    save_file(load_file(path) | text, path)
    with caplog.at_level("INFO", "inference.adapters"):
        pictures = [engine.submit(order(steps=1, adapters=adapters)).result() for adapters in ((), ((str(path), 1.0),))]
    warning = "adapter style.safetensors: its changes of the text encoder are ignored"
    assert [picture.warnings for picture in pictures] == [(), (warning,)]
    assert caplog.messages.count(warning) == 1


def test_a_file_that_is_shortened_while_it_is_read_fails_its_request_alone(engine, make, monkeypatch):
    good, bad = str(make("good", targets=ATTENTION)), make("bad", rank=64, targets=ATTENTION)
    sort = names.sort

    def meanwhile(*arguments):
        os.truncate(bad, 50_000)
        return sort(*arguments)

    batch_mate = engine.submit(order(seed=1, adapters=((good, 1.0),)))
    assert batch_mate.result(SECONDS).steps_run == 4
    monkeypatch.setattr(names, "sort", meanwhile)
    with pytest.raises(AdapterUnavailable, match="was shortened while it was read"):
        engine.submit(order(adapters=((str(bad), 1.0),))).result(SECONDS)
    assert engine.submit(order(seed=1, adapters=((good, 1.0),))).result(SECONDS).steps_run == 4


@pytest.mark.parametrize("content", [None, b"", b"no adapter at all"], ids=["missing", "empty", "other"])
def test_a_file_that_cannot_be_used_fails_its_request_alone(engine, watch, make, tmp_path, content):
    bad = tmp_path / "bad.safetensors"
    if content is not None:
        bad.write_bytes(content)
    good = str(make())
    batch_mate = engine.submit(order(seed=1, adapters=((good, 1.0),)))
    victim = engine.submit(order(adapters=((good, 1.0), (str(bad), 1.0))))
    with pytest.raises(AdapterUnavailable, match="bad"):
        victim.result(SECONDS)
    assert batch_mate.result(SECONDS).steps_run == 4
    assert watch.rows("encode") == [1], "nothing was done for the one that failed"
    assert engine.warm


def test_a_request_is_canceled_while_its_file_is_read(engine, make, gate):
    request = order(adapters=((str(make()), 1.0),))
    engine.submit(request)
    assert gate.reached.wait(SECONDS)
    engine.cancel(request)
    with pytest.raises(Canceled) as canceled:
        request.ticket.future.result(SECONDS)
    assert canceled.value.steps_run == 0
    gate.opened.set()
    assert engine.submit(order(adapters=request.adapters)).result(SECONDS).steps_run == 4


def test_a_canceled_or_broken_picture_gives_its_adapters_back(engine, watch, make):
    adapters = ((str(make()), 1.0),)
    canceled, broken = order(steps=50, adapters=adapters), order(adapters=adapters)
    watch.at(3, lambda: engine.cancel(canceled))
    with pytest.raises(Canceled):
        engine.submit(canceled).result(SECONDS)
    watch.at(2, lambda: setattr(broken.state, "latents", torch.full_like(broken.state.latents, float("nan"))))
    assert engine.submit(broken).exception(SECONDS) is not None
    wait_until(lambda: canceled.ticket.loan.row == broken.ticket.loan.row == ())


@pytest.mark.parametrize(
    "adapters", [(("x", 1.0),) * 5, (("x", 10.1),), (("x", float("nan")),)], ids=["five", "loud", "no number"]
)
def test_too_many_adapters_or_a_scale_out_of_bounds_are_refused_at_once(engine, adapters):
    with pytest.raises(InvalidRequest) as refusal:
        engine.submit(order(adapters=adapters))
    assert refusal.value.param == "adapters"


def test_more_adapters_than_there_is_room_for_take_turns_and_stopping_ends_those_who_wait(house, make, gate):
    gate.opened.set()
    paths = [make(f"adapter {number}", targets=ATTENTION) for number in range(4)]
    room = 2 * house.read(paths[0]).nbytes
    most = []
    with Engine(device="cpu", max_adapter_bytes=room, on_batch=lambda _: most.append(engine._bank.nbytes)) as engine:
        requests = [
            order(seed=seed, width=64, height=64, adapters=((str(path), 0.5),)) for seed, path in enumerate(paths * 2)
        ]
        for request in requests:
            engine.submit(request)
        assert all(request.ticket.future.result(SECONDS).steps_run == 4 for request in requests)
        assert max(most) == room
        assert engine.submit(order(adapters=tuple((str(path), 1.0) for path in paths))).exception(SECONDS) is not None
        pinned = [order(steps=100, adapters=((str(path), 1.0),)) for path in paths[:2]]
        waiting = [order(adapters=((str(path), 1.0),)) for path in paths[2:]]
        for request in (*pinned, *waiting):
            engine.submit(request)
    for request in (*pinned, *waiting):
        with pytest.raises(EngineStopped):
            request.ticket.future.result(SECONDS)
