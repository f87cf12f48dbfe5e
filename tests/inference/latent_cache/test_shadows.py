"""What shadows find, whose evidence counts, and that no finding is ever lost; without an engine."""

import json
import threading
from concurrent.futures import Future

import pytest
import torch

from inference.latent_cache import shadow as module
from inference.latent_cache.cache import LatentCache
from inference.latent_cache.mapping import NEVER, Mapping, Point
from inference.latent_cache.reuse import Hit
from inference.latent_cache.shadow import ENOUGH, MAX_OF_ACCOUNT, MAX_WAITING, Record, Shadows, bounded, needed
from inference.latent_cache.stores import StoreUnavailable, open_store
from inference.request import Request

LEARNT = Mapping("a revision", (Point(0.9, 0.8), Point(0.95, 0.5)), drift=0.05)
FAR, SAME = torch.ones(4, 16), torch.zeros(4, 16)


class Drawn:
    """A stand-in for the engine that draws shadows as `SAME`, at once or when they are released."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.let_go = threading.Event()
        self.let_go.set()

    def submit(self, request: Request) -> Future:
        self.asked.append(request)
        self.let_go.wait(10)
        request.state.latents = SAME
        future: Future = Future()
        future.set_result(None)
        return future


class Worker:
    """One process's cache and shadows, on a shared store."""

    def __init__(self, place: str, learnt: Mapping = LEARNT) -> None:
        self.store = open_store(place)
        self.cache = LatentCache(self.store, learnt)
        self.engine = Drawn()
        self.now = 0.0
        self.shadows = Shadows(self.cache, self.store, self.engine.submit, share=1.0, clock=lambda: self.now)

    def hit(self, account: str, arrived: torch.Tensor = FAR, similarity: float = 0.96, steps: int = 8) -> None:
        request = Request("a cat", width=32, height=32, steps=steps, guidance_scale=4.0, seed=1, account=account)
        request.state.latents = arrived
        self.cache.on_hit(request, Hit(SAME, 0.5, 4, similarity, seed=7, steps=8))

    def learn(self, account: str, times: int, **of: object) -> None:
        for _ in range(times):
            self.hit(account, **of)
            self.shadows.flush()

    @property
    def asked(self) -> float:
        return self.cache.calibration.point(0.5).similarity

    def note(self) -> bytes | None:
        seen = []
        self.store.change_note(self.shadows._note, lambda content: seen.append(content) or content or b"")
        return seen[-1]


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "latents.sqlite3")


@pytest.fixture
def worker(place):
    return Worker(place)


def test_a_few_drifts_are_chance_and_many_ask_for_more_similarity():
    near = [Record(0.7, 0.97 + index / 1000, 0.01) for index in range(20)]
    far = [Record(0.7, 0.94 + index / 1000, 0.5) for index in range(6)]
    assert needed(near, 0.05, 0.01) == 0
    assert needed([*near, far[0]], 0.05, 0.01) == 0
    assert far[-3].similarity <= needed([*near, *far], 0.05, 0.01) <= near[0].similarity
    assert needed(far * 3, 0.05, 0.01) == NEVER
    assert needed(far, 0.05, 0.01) == 0, "too few to say"


def test_only_hits_on_their_entrys_own_schedule_are_compared(worker):
    worker.hit("alice", steps=6)
    worker.shadows.flush()
    assert not worker.engine.asked
    worker.learn("alice", 1)
    (shadow,) = worker.engine.asked
    assert (shadow.seed, shadow.steps, shadow.use_cache, shadow.service_class) == (7, 8, False, "batch")
    assert shadow.account != "alice", "it takes nothing from her share"


def test_one_customer_alone_cannot_turn_the_cache_off_for_all(worker):
    worker.learn("bob", 1, arrived=SAME)
    worker.learn("mallory", 2 * ENOUGH)
    assert worker.asked == 0.95
    worker.learn("alice", ENOUGH)
    assert worker.asked == NEVER, "two of them"


def test_where_there_is_one_customer_alone_its_evidence_counts(worker):
    worker.learn("alice", ENOUGH)
    assert worker.asked == NEVER


def test_one_customer_cannot_flood_out_what_others_found():
    records = [Record(0.5, 0.96, 1.0, "alice")] * 20 + [Record(0.5, 0.96, 0.0, "mallory")] * 900
    kept = bounded(records)
    assert [record.account for record in kept].count("alice") == 20
    assert [record.account for record in kept].count("mallory") == MAX_OF_ACCOUNT
    many = bounded([Record(0.5, 0.96, index, str(index)) for index in range(900)])
    assert [record.drift for record in many] == list(range(400, 900)), "the newest"


def test_what_was_tightened_stays_when_its_evidence_has_left(worker, place, monkeypatch):
    worker.learn("alice", ENOUGH)
    monkeypatch.setattr(module, "MAX_RECORDS", 5)
    worker.learn("bob", 6, arrived=SAME)
    assert len(json.loads(worker.note())["records"]) == 5
    assert Worker(place).asked == NEVER


def test_workers_lose_nothing_that_either_tightened(worker, place):
    other = Worker(place)
    worker.learn("alice", ENOUGH)
    assert other.asked == 0.95
    other.learn("bob", 1, arrived=SAME)
    assert other.asked == NEVER
    assert Worker(place).asked == NEVER


def test_other_workers_follow_behind_their_hits(worker, place):
    other = Worker(place)
    worker.learn("alice", ENOUGH)
    other.shadows._share = 0.0
    other.hit("bob")
    other.cache.flush()
    assert other.asked == 0.95, "once a minute"
    other.now += module.EXCHANGE_SECONDS
    other.hit("bob")
    other.cache.flush()
    assert other.asked == NEVER


def test_a_store_begun_anew_is_told_what_was_found(worker, place, tmp_path, monkeypatch):
    worker.learn("alice", ENOUGH)
    for path in tmp_path.iterdir():
        path.unlink()
    worker.learn("bob", 1, arrived=SAME)
    assert Worker(place).asked == NEVER


def test_where_the_note_cannot_be_read_nothing_is_written(worker, place, caplog):
    worker.learn("alice", 3)
    worker.store.change_note(worker.shadows._note, lambda content: b"nonsense")
    worker.learn("alice", ENOUGH)
    assert worker.note() == b"nonsense"
    assert "a shadow was lost" in caplog.text
    assert Worker(place).asked == 0.95, "a worker starts all the same"


def test_a_store_that_is_away_at_the_start_is_read_at_the_next_hit(worker, place, monkeypatch):
    worker.learn("alice", ENOUGH)

    def away(*_):
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(type(worker.store), "change_note", away)
        late = Worker(place)
    assert late.asked == 0.95
    late.shadows._share = 0.0
    late.hit("bob")
    late.cache.flush()
    assert late.asked == NEVER


def test_few_shadows_wait_and_the_rest_are_dropped(worker):
    worker.engine.let_go.clear()
    for _ in range(3 * MAX_WAITING):
        worker.hit("alice")
    worker.engine.let_go.set()
    worker.shadows.flush()
    assert len(worker.engine.asked) == MAX_WAITING
    worker.learn("alice", 1)
    assert len(worker.engine.asked) == MAX_WAITING + 1


def test_a_note_names_no_account(worker):
    worker.learn("0193-alice", 2)
    worker.learn("0193-bob", 1)
    assert b"0193" not in worker.note()
    assert len({record[3] for record in json.loads(worker.note())["records"]}) == 2


def test_a_mapping_calibrated_anew_begins_anew(worker, place):
    worker.learn("alice", ENOUGH)
    anew = Mapping("a revision", (Point(0.93, 0.5),), drift=0.05)
    assert Worker(place, anew).asked == 0.93
