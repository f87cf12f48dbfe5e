"""Adapters are loaded when wanted, stay while used, and are evicted by last use within the budget."""

import errno
import json
import os
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from inference.adapters import files
from inference.adapters.bank import Bank
from inference.adapters.weights import Adapter
from inference.errors import AdapterUnavailable, EngineFault, EngineStopped
from tests.inference.adapters.conftest import ATTENTION, SECONDS, wait_until


@pytest.fixture
def paths(make) -> list[Path]:
    """Write adapters of one size."""
    return [make(f"adapter {number}", 16, ATTENTION) for number in range(5)]


@pytest.fixture
def size(house, paths) -> int:
    return house.read(paths[0]).nbytes


@pytest.fixture
def bank_for(house, size) -> Iterator[Callable[[float], Bank]]:
    """Make a bank with room for so many adapters of that size."""
    banks = []

    def build(adapters: float) -> Bank:
        banks.append(Bank(house.layers, int(adapters * size)))
        return banks[-1]

    yield build
    for bank in banks:
        bank.close()


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Record the names of the files that are read."""
    read, names = files.read, []

    def noted(path, *rest):
        names.append(path.stem)
        return read(path, *rest)

    monkeypatch.setattr(files, "read", noted)
    return names


def use(bank: Bank, *paths: Path) -> None:
    loan = bank.acquire([(path, 1.0) for path in paths])
    loan.ready.result(SECONDS)
    assert len(loan.row) == len(paths)
    bank.release(loan)


def test_an_adapter_is_read_once_and_shared(house, bank_for, paths, reads, size):
    bank = bank_for(2)
    one, other = bank.acquire([(paths[0], 0.5)]), bank.acquire([(str(paths[0]), 2.0)])
    one.ready.result(SECONDS), other.ready.result(SECONDS)
    assert reads == ["adapter 0"]
    assert bank.nbytes == size
    assert one.row[0][0] is other.row[0][0]
    assert [one.row[0][1], other.row[0][1]] == [0.5, 2.0]
    assert house.velocity([one.row]).isfinite().all()


def test_one_that_is_there_is_granted_at_once(bank_for, paths):
    bank = bank_for(1)
    use(bank, paths[0])
    assert bank.acquire([(paths[0], 1.0)]).ready.done()


def test_the_longest_unused_leaves_first(bank_for, paths, reads, size):
    bank = bank_for(2)
    for index in (0, 1, 0, 2, 0, 1):
        use(bank, paths[index])
    assert reads == ["adapter 0", "adapter 1", "adapter 2", "adapter 1"]
    assert bank.nbytes == 2 * size


def test_what_is_pinned_stays_even_where_it_is_the_longest_unused(bank_for, paths, reads):
    bank = bank_for(2)
    held = bank.acquire([(paths[0], 1.0)])
    for path in (*paths[1:4], paths[0]):
        use(bank, path)
    assert reads == [f"adapter {index}" for index in range(4)]
    assert len(held.row) == 1


def test_a_request_waits_for_room_and_those_after_it_wait_their_turn(bank_for, paths):
    bank = bank_for(2)
    first, second = bank.acquire([(paths[0], 1.0)]), bank.acquire([(paths[1], 1.0)])
    second.ready.result(SECONDS)
    both = bank.acquire([(paths[2], 1.0), (paths[3], 1.0)])
    wait_until(lambda: bank._waiting_for_room)
    late = bank.acquire([(paths[0], 1.0)])
    bank.release(first)
    wait_until(lambda: len(both.pinned) == 1 and bank._waiting_for_room)
    assert not late.ready.done(), "what is there is not granted before one who waits for room"
    bank.release(second)
    both.ready.result(SECONDS)
    assert not late.ready.done()
    bank.release(both)
    late.ready.result(SECONDS)


def test_one_who_waits_and_gives_up_holds_nobody_up(bank_for, paths):
    bank = bank_for(1)
    held = bank.acquire([(paths[0], 1.0)])
    held.ready.result(SECONDS)
    waiting, behind = bank.acquire([(paths[1], 1.0)]), bank.acquire([(paths[0], 1.0)])
    wait_until(lambda: bank._waiting_for_room)
    bank.release(waiting)
    behind.ready.result(SECONDS)
    with pytest.raises(CancelledError):
        waiting.ready.result(SECONDS)
    assert waiting.row == ()


def test_adapters_that_never_fit_together_are_refused_at_once(bank_for, paths, size):
    bank = bank_for(2.5)
    with pytest.raises(AdapterUnavailable, match=f"{3 * size} bytes"):
        bank.acquire([(path, 1.0) for path in paths[:3]]).ready.result(SECONDS)
    use(bank, paths[3], paths[4])


def test_the_same_adapter_twice_takes_its_room_once(bank_for, paths, size):
    bank = bank_for(1)
    use(bank, paths[0], paths[0])
    assert bank.nbytes == size
    use(bank, paths[1])


def test_a_failure_leaves_nothing_pinned_and_the_bank_works_on(bank_for, paths, tmp_path):
    bank = bank_for(1)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"12345678")
    for path in (broken, tmp_path / "nowhere.safetensors"):
        loan = bank.acquire([(paths[0], 1.0), (path, 1.0)])
        with pytest.raises(AdapterUnavailable, match=path.name):
            loan.ready.result(SECONDS)
        use(bank, paths[1])


def without_memory(monkeypatch, error: Exception, *, times: int) -> None:
    """Let so many copies to the device run out of memory."""
    real, calls = Adapter.to, []

    def copied(adapter, device):
        calls.append(adapter)
        if len(calls) <= times:
            raise error
        return real(adapter, device)

    monkeypatch.setattr(Adapter, "to", copied)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=repr,
)
def test_where_memory_runs_out_what_is_not_pinned_makes_room(bank_for, paths, size, monkeypatch, error):
    bank = bank_for(5)
    held = bank.acquire([(paths[0], 1.0)])
    for path in paths[1:3]:
        use(bank, path)
    without_memory(monkeypatch, error, times=1)
    use(bank, paths[3])
    assert bank.nbytes == 2 * size, "the one that is pinned and the new one"
    assert len(held.row) == 1


def test_where_everything_is_pinned_a_request_waits_for_memory_as_for_room(bank_for, paths, size, monkeypatch):
    bank = bank_for(5)
    held = bank.acquire([(paths[0], 1.0)])
    held.ready.result(SECONDS)
    without_memory(monkeypatch, torch.OutOfMemoryError(), times=1)
    waiting = bank.acquire([(paths[1], 1.0)])
    wait_until(lambda: bank._waiting_for_room)
    assert not waiting.ready.done()
    bank.release(held)
    waiting.ready.result(SECONDS)
    assert bank.nbytes == size


@pytest.mark.parametrize("ending", ["close", "release"])
def test_one_who_waits_for_memory_may_be_stopped_or_give_up(bank_for, paths, monkeypatch, ending):
    bank = bank_for(5)
    held = bank.acquire([(paths[0], 1.0)])
    held.ready.result(SECONDS)
    without_memory(monkeypatch, torch.OutOfMemoryError(), times=1)
    waiting = bank.acquire([(paths[1], 1.0)])
    wait_until(lambda: bank._waiting_for_room)
    if ending == "close":
        bank.close()
    else:
        bank.release(waiting)
    with pytest.raises((EngineStopped, CancelledError)):
        waiting.ready.result(SECONDS)
    bank.release(held)


def test_without_memory_and_without_anything_to_evict_it_is_the_engines_fault(bank_for, paths, monkeypatch):
    bank = bank_for(5)
    without_memory(monkeypatch, torch.OutOfMemoryError(), times=2)
    for wanted in ([paths[0]], [paths[1], paths[2]]):
        loan = bank.acquire([(path, 1.0) for path in wanted])
        with pytest.raises(EngineFault, match="no memory for adapter"):
            loan.ready.result(SECONDS)
    use(bank, *paths[:3])


def test_a_file_that_cannot_be_read_for_want_of_memory_is_no_bad_file(bank_for, paths, monkeypatch):
    real, calls = files.read, []

    def read(path, *given):
        calls.append(path)
        with files._explained(path):
            if len(calls) == 1:
                raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(path, *given)

    bank = bank_for(5)
    use(bank, paths[0])
    monkeypatch.setattr(files, "read", read)
    use(bank, paths[1])
    assert calls == [paths[1], paths[1]]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EIO, EngineFault),
        (errno.EMFILE, EngineFault),
        (errno.ESTALE, EngineFault),
        (errno.EACCES, AdapterUnavailable),
        (errno.EISDIR, AdapterUnavailable),
    ],
    ids=errno.errorcode.get,
)
def test_a_machine_that_cannot_read_is_not_the_files_fault(bank_for, paths, monkeypatch, number, kind):
    def fails(path, *_):
        with files._explained(path):
            raise OSError(number, "no")

    monkeypatch.setattr(files, "read", fails)
    with pytest.raises(kind, match="adapter 0"):
        bank_for(1).acquire([(paths[0], 1.0)]).ready.result(SECONDS)


def test_an_unexpected_failure_is_told_too(bank_for, paths, monkeypatch):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(files, "read", fails)
    with pytest.raises(EngineFault):
        bank_for(1).acquire([(paths[0], 1.0)]).ready.result(SECONDS)


def test_a_file_written_anew_is_another_adapter(bank_for, paths, reads):
    bank = bank_for(2)
    use(bank, paths[0])
    paths[1].replace(paths[0])
    loan = bank.acquire([(paths[0], 1.0)])
    loan.ready.result(SECONDS)
    assert reads == ["adapter 0"] * 2


@pytest.mark.parametrize("how", ["at once", "at the same time of day", "its configuration"])
def test_a_file_that_is_written_over_is_another_adapter(bank_for, make, tmp_path, how):
    bank, path, other = bank_for(4), make("one", 16, ATTENTION), make("other", 16, ATTENTION)
    loan = bank.acquire([(path, 1.0)])
    loan.ready.result(SECONDS)
    before = path.stat()
    if how == "its configuration":
        path.with_name("adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 3}))
    else:
        path.write_bytes(other.read_bytes())
    if how == "at the same time of day":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = bank.acquire([(path, 1.0)])
    again.ready.result(SECONDS)
    assert again.row[0][0].digest != loan.row[0][0].digest


def test_nothing_of_an_evicted_adapter_stays_in_memory(house, bank_for, paths):
    bank = bank_for(1)
    loan = bank.acquire([(paths[0], 1.0)])
    loan.ready.result(SECONDS)
    house.velocity([loan.row])
    memory = weakref.ref(loan.row[0][0].memory)
    bank.release(loan)
    use(bank, paths[1])
    assert memory() is None


def test_closing_ends_those_who_wait(bank_for, paths):
    bank = bank_for(1)
    held = bank.acquire([(paths[0], 1.0)])
    held.ready.result(SECONDS)
    waiting = [bank.acquire([(paths[index], 1.0)]) for index in (1, 2, 3)]
    bank.close()
    for loan in (*waiting, bank.acquire([(paths[0], 1.0)])):
        with pytest.raises(EngineStopped):
            loan.ready.result(SECONDS)
    bank.release(held)


def test_many_threads_never_get_past_the_budget_or_lose_what_they_hold(bank_for, paths, size, full):
    bank = bank_for(3)
    most = []

    def live(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(40 if full else 15):
            wanted = [(path, float(number)) for number, path in enumerate(dice.sample(paths, dice.randint(1, 3)))]
            loan = bank.acquire(wanted)
            if dice.random() < 0.2:
                bank.release(loan)
                continue
            loan.ready.result(SECONDS)
            most.append(bank.nbytes)
            held = loan.row
            assert len(held) == len(wanted)
            threading.Event().wait(dice.random() / 500)
            residents = {id(resident.adapter) for resident in list(bank._residents.values())}
            assert {id(adapter) for adapter, _ in held} <= residents
            bank.release(loan)

    with ThreadPoolExecutor(8) as people:
        for outcome in [people.submit(live, seed) for seed in range(8)]:
            outcome.result(60)
    assert max(most) <= bank.budget
    assert all(resident.pins == 0 for resident in bank._residents.values())
