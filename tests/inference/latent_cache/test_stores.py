"""What both stores promise: whole entries or none, within their limits, and damage that reads as missing."""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from inference.latent_cache.stores import Limits, Shelf, StoreUnavailable, open_store

SHELF, OTHER = Shelf("alice", "128x128"), Shelf("bob", "128x128")
LEVELS = {"0.900000": b"early" * 200, "0.600000": b"late" * 250}
SIZE = 2000 + 1


@pytest.fixture(params=["disk", "redis"])
def place(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "latents.sqlite3")
    Redis.from_url(os.environ["REDIS_URL"]).flushdb()
    return os.environ["REDIS_URL"]


def fill(store, *names, shelf=SHELF):
    for worth, name in enumerate(names, start=1):
        store.put(shelf, name, b"d", LEVELS, float(worth))


def test_what_one_worker_puts_there_another_one_finds(place):
    fill(open_store(place), "first")
    found = open_store(place)
    assert found.names(SHELF) == {"first"}
    assert found.descriptions(SHELF, ["first", "none"]) == {"first": b"d"}
    assert found.latents("first", "0.600000") == LEVELS["0.600000"]
    assert found.latents("first", "0.500000") is None
    assert found.names(OTHER) == set()


def test_what_is_worth_least_leaves_first_and_use_makes_worth(place):
    store = open_store(place, Limits(owner=3 * SIZE, total=100 * SIZE))
    fill(store, "first", "second", "third")
    store.credit("first", 10.0)
    fill(store, "fourth", shelf=OTHER)
    store.put(SHELF, "fifth", b"d", LEVELS, 2.5)
    assert store.names(SHELF) == {"first", "third", "fifth"}
    assert store.names(OTHER) == {"fourth"}
    assert store.latents("second", "0.600000") is None


def test_all_owners_together_stay_within_the_limit(place):
    store = open_store(place, Limits(owner=100 * SIZE, total=3 * SIZE))
    fill(store, "first", "second")
    fill(store, "third", "fourth", shelf=OTHER)
    assert (
        store.names(SHELF) | store.names(OTHER) == {"first", "second", "fourth"}
        or len(store.names(SHELF) | store.names(OTHER)) == 3
    )


def test_an_entry_thrown_away_is_gone_and_takes_no_credit(place):
    store = open_store(place)
    fill(store, "first")
    store.discard("first")
    store.credit("first", 5.0)
    assert store.names(SHELF) == set()
    assert store.latents("first", "0.600000") is None


def test_notes_are_changed_and_none_is_lost(place):
    def add(line):
        open_store(place).change_note("found", lambda content: (content or b"") + line)

    add(b"1")
    with pytest.raises(ValueError, match="no"):
        open_store(place).change_note("found", fail)
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(add, [b"2"] * 8))
    assert noted(open_store(place), "found") == b"1" + b"2" * 8
    assert noted(open_store(place), "other") is None


def fail(content):
    raise ValueError("no")


def noted(store, key):
    seen = []
    store.change_note(key, lambda content: seen.append(content) or content or b"")
    return seen[-1]


def test_a_changed_byte_reads_as_missing(tmp_path):
    store = open_store(str(tmp_path / "latents.sqlite3"))
    fill(store, "first")
    with sqlite3.connect(tmp_path / "latents.sqlite3") as file:
        file.execute("UPDATE latents SET content = CAST(substr(content, 1, length(content) - 1) || x'00' AS BLOB)")
    assert store.latents("first", "0.600000") is None
    assert store.names(SHELF) == {"first"}


def test_a_file_that_is_no_database_is_begun_anew(tmp_path):
    path = tmp_path / "latents.sqlite3"
    path.write_bytes(b"nonsense" * 1000)
    store = open_store(str(path))
    with pytest.raises(StoreUnavailable):
        store.names(SHELF)
    fill(store, "first")
    assert store.names(SHELF) == {"first"}


def test_a_redis_that_is_away_says_so():
    with pytest.raises(StoreUnavailable):
        open_store("redis://127.0.0.1:1/0").names(SHELF)
