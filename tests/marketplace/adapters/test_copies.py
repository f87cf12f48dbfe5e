"""Copies of adapters' files on a worker's machine: right or not there at all, fetched once, within their room."""

import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copyfile

import pytest

from marketplace.adapters import metrics
from marketplace.adapters.copies import Copies, Unavailable

KIB = 1024


@pytest.fixture
def shelf(tmp_path):
    """Puts a file of so many KiB into the storage; returns its path there and its hash."""
    (tmp_path / "stored").mkdir()

    def put(name, kib=1):
        content = name.encode() * (kib * KIB // len(name))
        (tmp_path / "stored" / name).write_bytes(content)
        return name, hashlib.sha256(content).hexdigest()

    return put


@pytest.fixture
def copies(tmp_path):
    fetched = []

    def fetch(path, into):
        fetched.append(path)
        copyfile(tmp_path / "stored" / path, into)

    made = Copies(tmp_path / "copies", 10 * KIB, fetch)
    made.fetched = fetched
    return made


def use(copies, *wanted):
    with copies.borrowed(wanted) as paths:
        return [Path(path).read_bytes() for path in paths]


def there(copies):
    return {path.name.removesuffix(".safetensors") for path in copies.folder.glob("*.safetensors")}


def test_a_file_is_fetched_once_and_is_there_again_for_another_process(copies, shelf):
    one, two = shelf("one"), shelf("two")
    assert use(copies, one, two) == use(copies, one, two)
    assert use(Copies(copies.folder, copies.budget, copies._fetch), one) == use(copies, one)
    assert copies.fetched == ["one", "two"]


def test_threads_that_want_the_same_file_fetch_it_once(copies, shelf):
    one = shelf("one")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: use(copies, one), range(16)))
    assert len(set(map(tuple, found))) == 1
    assert copies.fetched == ["one"]


def test_a_file_that_is_not_what_was_stored_is_not_given(copies, shelf, tmp_path):
    name, sha256 = shelf("one")
    (tmp_path / "stored" / name).write_bytes(b"other")
    with pytest.raises(Unavailable):
        use(copies, (name, sha256))
    assert there(copies) == set()
    assert list(copies.folder.glob("fetched-*")) == []


def test_a_copy_that_was_damaged_is_fetched_again(copies, shelf):
    one = shelf("one")
    [right] = use(copies, one)
    [local] = copies.folder.glob("*.safetensors")
    local.write_bytes(b"damaged")
    assert use(copies, one) == [right]
    assert copies.fetched == ["one", "one"]


def test_a_storage_that_fails_is_said_so_and_tried_again_the_next_time(copies, shelf, tmp_path):
    name, sha256 = shelf("one")
    (tmp_path / "stored" / name).rename(tmp_path / "away")
    with pytest.raises(Unavailable):
        use(copies, (name, sha256))
    (tmp_path / "away").rename(tmp_path / "stored" / name)
    assert len(use(copies, (name, sha256))) == 1


def test_what_was_used_longest_ago_makes_room(copies, shelf):
    one, two, three = shelf("one", 4), shelf("two", 4), shelf("three", 4)
    for each in (one, two, one, three):
        use(copies, each)
    assert there(copies) == {one[1], three[1]}
    use(copies, two)
    assert copies.fetched == ["one", "two", "three", "two"]


def test_what_is_in_use_is_kept_even_over_the_budget(copies, shelf):
    one, two, three = shelf("one", 6), shelf("two", 6), shelf("three", 6)
    with copies.borrowed([one]) as [path]:
        use(copies, two)
        use(copies, three)
        assert Path(path).read_bytes()[:3] == b"one"
        assert one[1] in there(copies)
    use(copies, two)
    assert there(copies) == {two[1]}


def test_what_another_process_uses_is_kept(copies, shelf):
    one, two = shelf("one", 8), shelf("two", 8)
    use(copies, one)
    held = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True); sys.stdin.read()"
    )
    lock = copies.folder / f"{one[1]}.lock"
    with subprocess.Popen(
        [sys.executable, "-c", held, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        use(copies, two)
        assert one[1] in there(copies)
        other.stdin.close()
    use(copies, shelf("three", 8))
    assert one[1] not in there(copies)


def test_using_a_file_does_not_change_its_own_times(copies, shelf):
    one = shelf("one")
    use(copies, one)
    [local] = copies.folder.glob("*.safetensors")
    before = os.stat(local)
    use(copies, one)
    assert (os.stat(local).st_mtime_ns, os.stat(local).st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def test_files_that_come_and_go_under_many_threads_are_right_while_they_are_used(copies, shelf):
    wanted = [shelf(f"file{number}", 4) for number in range(6)]
    wrong = []

    def work(start):
        for turn in range(30):
            name, sha256 = wanted[(start * 7 + turn * 5) % len(wanted)]
            with copies.borrowed([(name, sha256)]) as [path]:
                if hashlib.sha256(Path(path).read_bytes()).hexdigest() != sha256:
                    wrong.append(name)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(copies.fetched) > len(wanted)


def counted():
    outcomes = tuple(metrics.COPIES.labels(each)._value.get() for each in metrics.OUTCOMES)
    more = (metrics.FETCHED, metrics.EVICTED, metrics.EVICTED_BYTES)
    return (*outcomes, *(each._value.get() for each in more))


def test_what_is_wanted_fetched_and_evicted_is_counted(copies, shelf, tmp_path):
    one, two, three = shelf("one", 4), shelf("two", 4), shelf("three", 4)
    name, sha256 = shelf("away")
    (tmp_path / "stored" / name).unlink()
    sizes = {each.name: each.stat().st_size for each in (tmp_path / "stored").iterdir()}
    before = counted()
    use(copies, one, two)
    use(copies, one)
    (copies.folder / f"{one[1]}.safetensors").write_bytes(b"damaged")
    use(copies, one)
    with pytest.raises(Unavailable):
        use(copies, (name, sha256))
    use(copies, three)
    fetched = 2 * sizes["one"] + sizes["two"] + sizes["three"]
    gained = tuple(now - then for now, then in zip(counted(), before, strict=True))
    assert gained == (1, 3, 1, 1, fetched, 1, sizes["two"])
    assert metrics.HERE._value.get() == sizes["one"] + sizes["three"]
