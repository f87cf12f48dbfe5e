"""The cache alone, with requests that no engine runs: what it does if something is wrong, and what it stores."""

import logging
from collections.abc import Callable

import pytest
import torch

from inference.latent_cache import cache as module
from inference.latent_cache.cache import PAUSE_SECONDS, LatentCache
from inference.latent_cache.mapping import Mapping, Point
from inference.latent_cache.stores import open_store
from inference.request import Request

CALIBRATION = Mapping("a revision", (Point(0.9, 0.5),), drift=0.05)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "latents.sqlite3"))


@pytest.fixture
def cache(store):
    found = LatentCache(store, CALIBRATION, shared=["templates"])
    yield found
    found.close()


def encoded(prompt: str = "a cat", account: str = "alice", steps: int = 8, **changes: object) -> Request:
    """Make a request that was just encoded; every prompt means the same."""
    values = {"width": 32, "height": 32, "guidance_scale": 4.0, "seed": 7, "use_cache": True}
    request = Request(prompt, account=account, steps=steps, **{**values, **changes})
    request.state.text, request.state.latents = torch.ones(8, 16), torch.zeros(4, 16)
    request.state.sigmas = tuple(1 - step / steps for step in range(steps + 1))
    return request


def draw(cache: LatentCache, request: Request) -> bool:
    """Play a request through and offer all its steps; return whether it began from latents."""
    hit = cache.look_up(request)
    for step in range(hit.step + 1 if hit else 1, request.steps + 1):
        request.state.step_index = step
        cache.offer(request)
    cache.flush()
    return hit is not None


def fails(error: Exception) -> Callable[..., None]:
    def act(*_: object) -> None:
        raise error

    return act


def test_one_step_has_nothing_to_skip_and_harms_no_entry(cache):
    assert not draw(cache, encoded(account="templates"))
    assert not draw(cache, encoded(steps=1))
    assert draw(cache, encoded()), "the template is still there"


def test_a_prompt_that_the_guard_cannot_read_takes_none_and_leaves_none(cache):
    assert not draw(cache, encoded("a cat, кот"))
    assert not draw(cache, encoded("a cat, кот"))
    assert not draw(cache, encoded("a cat"))


@pytest.mark.parametrize("method", ["names", "descriptions", "latents"])
def test_whatever_a_store_raises_the_request_is_denoised_in_full_and_the_cache_pauses(
    store, monkeypatch, caplog, method
):
    now = 0.0
    cache = LatentCache(store, CALIBRATION, clock=lambda: now)
    draw(cache, encoded())
    cache._known.clear()
    monkeypatch.setattr(store, method, fails(PermissionError("not yours")))
    assert not draw(cache, encoded())
    monkeypatch.undo()
    assert not draw(cache, encoded()), "it pauses"
    now = PAUSE_SECONDS
    assert draw(cache, encoded())
    cache.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Traceback" in caplog.text


def test_whatever_goes_wrong_with_an_offer_the_request_goes_on(cache, caplog):
    draw(cache, encoded())
    cache.on_hit = fails(RuntimeError("no"))
    assert draw(cache, encoded())
    assert "RuntimeError: no" in caplog.text


def test_a_file_that_cannot_be_made_costs_nothing(tmp_path, caplog):
    (tmp_path / "folder").write_text("is none")
    cache = LatentCache(open_store(str(tmp_path / "folder" / "latents.sqlite3")), CALIBRATION)
    assert not draw(cache, encoded())
    assert caplog.text.count("Traceback") == 1
    cache.close()


def test_what_customers_choose_fills_no_memory(cache, monkeypatch):
    monkeypatch.setattr(module, "MAX_SHELVES", 3)
    for index in range(9):
        cache.look_up(encoded(negative_prompt=f"never drawn {index}"))
    assert not cache._known, "empty shelves are not kept in memory"
    for index in range(5):
        draw(cache, encoded(negative_prompt=str(index)))
        assert draw(cache, encoded(negative_prompt=str(index)))
        assert draw(cache, encoded(negative_prompt="0")), "what is used often stays"
    assert len(cache._known) == 3
    assert cache._shelf("alice", encoded(negative_prompt="0")) in cache._known
    assert draw(cache, encoded(negative_prompt="1")), "forgotten ones are read again"
