"""The real engine with the real house model: which requests begin from whose latents, and which never do."""

import sqlite3

import pytest
import torch
from safetensors.torch import save_file

from inference.engine import Engine
from inference.latent_cache.cache import LatentCache
from inference.latent_cache.mapping import Mapping, Point
from inference.latent_cache.shadow import ENOUGH, Shadows
from inference.latent_cache.stores import open_store
from inference.models import catalog
from inference.request import Request

ONE, SAME = "a red circle on a white background", "a picture of a red circle on a white background"
CALIBRATION = Mapping(catalog.card().revision, (Point(0.9, 0.85), Point(0.95, 0.7)), drift=0.05)


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """Start an engine with a cache, and return both with the cache's file."""
    path = tmp_path_factory.mktemp("cache") / "latents.sqlite3"
    cache = LatentCache(open_store(str(path)), CALIBRATION, shared=["templates"])
    with Engine(device="cpu", latent_cache=cache) as engine:
        yield engine, cache, path
    cache.close()


def order(prompt, account, **changes):
    values = {"width": 64, "height": 64, "steps": 8, "guidance_scale": 4.0, "seed": 7, "use_cache": True}
    return Request(prompt, account=account, **{**values, **changes})


def make(serving, *requests):
    engine, cache, _ = serving
    pictures = [future.result() for future in [engine.submit(request) for request in requests]]
    cache.flush()
    return pictures


def test_a_paraphrase_begins_where_the_earlier_picture_was(serving):
    (first,) = make(serving, order(ONE, "paul", seed=1))
    assert (first.steps_run, first.steps_skipped, first.similarity) == (8, 0, None)
    (second,) = make(serving, order(SAME, "paul", seed=2))
    assert second.steps_skipped > 0
    assert second.steps_run + second.steps_skipped == 8
    assert 0.95 < second.similarity < 1


def test_schedules_of_other_lengths_join_by_sigma(serving):
    make(serving, order(ONE, "lena", steps=12))
    (shorter,) = make(serving, order(SAME, "lena", steps=6))
    (longer,) = make(serving, order(SAME, "lena", steps=16))
    assert 0 < shorter.steps_skipped < 6
    assert longer.steps_skipped == 0, "a picture of many steps does not begin from one of few"


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a blue circle on a white background"},
        {"prompt": "a green star in the top left corner on a black background"},
        {"account": "mallory"},
        {"use_cache": False},
        {"width": 80},
        {"guidance_scale": 3.0},
        {"guidance_scale": 1.0},
        {"negative_prompt": "red"},
    ],
    ids=str,
)
def test_all_steps_are_run_where_anything_that_matters_differs(serving, changes):
    make(serving, order(ONE, "alice"))
    wanted = {"prompt": SAME, "account": "alice", **changes}
    (picture,) = make(serving, order(wanted.pop("prompt"), wanted.pop("account"), **wanted))
    assert (picture.steps_run, picture.steps_skipped, picture.similarity) == (8, 0, None)


def test_an_adapter_that_was_replaced_under_its_name_begins_from_nobodys_latents(serving, tmp_path):
    def adapted(seed: int, name: str = "style") -> int:
        """Write an adapter under that name; return how many steps a picture with it skips."""
        draw, layer = torch.Generator().manual_seed(seed), "transformer_blocks.0.attn.to_v"
        factors = {f"{layer}.lora_A.weight": torch.randn(8, 192, generator=draw)}
        factors[f"{layer}.lora_B.weight"] = 0.1 * torch.randn(192, 8, generator=draw)
        save_file(factors, tmp_path / name)
        (picture,) = make(serving, order(ONE, "ruth", adapters=((str(tmp_path / name), 1.0),)))
        return picture.steps_skipped

    assert adapted(1) == 0
    assert adapted(1) > 0
    assert adapted(2) == 0
    assert adapted(1, "renamed") > 0, "the same adapter, wherever it lies"


def test_a_template_is_everybodys_to_begin_from(serving):
    make(serving, order("一个绿色的星形，黑色背景", "templates"))
    (picture,) = make(serving, order("黑色背景上有一个绿色的星形", "somebody"))
    assert picture.steps_skipped > 0


def test_a_hit_does_not_depend_on_its_neighbours(serving):
    engine, _, _ = serving
    make(serving, order(ONE, "nina"))
    (alone,) = make(serving, order(SAME, "nina", seed=3))
    long = engine.submit(order("a yellow heart on a purple background", "otto", steps=40, use_cache=False))
    (beside,) = make(serving, order(SAME, "nina", seed=3))
    long.result()
    assert beside.steps_skipped == alone.steps_skipped > 0
    assert max(abs(a - b) for a, b in zip(alone.image.tobytes(), beside.image.tobytes(), strict=True)) <= 2


def test_a_broken_entry_costs_nothing_but_its_steps(serving):
    make(serving, order(ONE, "eve"))
    with sqlite3.connect(serving[2]) as file:
        file.execute("UPDATE latents SET content = zeroblob(100) WHERE name IN "
                     "(SELECT name FROM entry WHERE owner = 'eve')")  # fmt: skip
    (plain,) = make(serving, order(SAME, "eve", use_cache=False))
    (picture,) = make(serving, order(SAME, "eve"))
    assert picture.steps_skipped == 0
    assert picture.image.tobytes() == plain.image.tobytes()


def test_a_store_that_is_away_costs_nothing_either():
    cache = LatentCache(open_store("redis://127.0.0.1:1/0"), CALIBRATION)
    with Engine(device="cpu", latent_cache=cache) as engine:
        picture = engine.submit(order(ONE, "alice")).result()
    cache.close()
    assert picture.steps_run == 8


def test_a_mapping_that_asks_for_too_little_is_tightened_by_its_shadows(tmp_path):
    store = open_store(str(tmp_path / "latents.sqlite3"))
    lax = Mapping(catalog.card().revision, (Point(-1.0, 0.3),), drift=0.001)
    cache = LatentCache(store, lax)
    wrong = "a red ring in the bottom left corner on a white background"
    with Engine(device="cpu", latent_cache=cache) as engine:
        engine.submit(order(ONE, "alice", steps=4)).result()
        cache.flush()
        shadows = Shadows(cache, store, engine.submit, share=1.0)
        for seed in range(ENOUGH):
            assert engine.submit(order(wrong, "alice", seed=seed, steps=4)).result().steps_skipped > 0
            shadows.flush()
        assert engine.submit(order(wrong, "alice", steps=4)).result().steps_skipped == 0
    cache.close()
    again = LatentCache(store, lax)
    Shadows(again, store, engine.submit)
    assert again.calibration.entry(0.5) is None, "what the shadows found outlives the process"
    again.close()
