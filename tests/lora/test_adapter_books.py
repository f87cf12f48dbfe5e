"""Adapters' books: what an account sees, what a version is for good, and what is counted."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, transaction

from lora import adapters, makers, versions
from lora.errors import HandleKept, HandleTaken, SlugTaken, TooManyVersions, UnknownAdapter, UnknownVersion
from lora.models import Adapter, Maker, Version
from lora.versions import Facts

FACTS = Facts(sha256="a" * 64, size=1000, rank=8, layers=4, recipe={"steps": 4})


def begin(adapter: Adapter, size: int = 1000, most: int = 10, mebibytes: int = 1) -> Version:
    return versions.begin(adapter, Version.Origin.UPLOADED, size, most=most, mebibytes=mebibytes)


def ready(adapter: Adapter) -> Version:
    version = begin(adapter)
    assert versions.accept(version, FACTS)
    version.refresh_from_db()
    return version


def refused(change: Callable[[], Any]) -> bool:
    try:
        with transaction.atomic():
            change()
    except IntegrityError:
        return True
    return False


def test_a_private_adapter_is_known_to_its_owner_alone(glaze: Adapter, carol: UUID, bob: UUID) -> None:
    assert adapters.find(carol, glaze.id) == glaze
    assert list(adapters.usable(carol)) == [glaze]
    assert list(adapters.usable(bob)) == list(adapters.known(bob)) == []
    with pytest.raises(UnknownAdapter):
        adapters.find(bob, glaze.id)


def test_a_shared_adapter_is_used_by_those_it_is_shared_with_and_owned_by_none_of_them(
    glaze: Adapter, alice: UUID, bob: UUID
) -> None:
    adapters.share(glaze, alice)
    adapters.share(glaze, alice)
    assert list(adapters.usable(alice)) == [glaze]
    assert list(adapters.usable(bob)) == []
    with pytest.raises(UnknownAdapter):
        adapters.find(alice, glaze.id)
    assert Adapter.objects.get().visibility == "shared"
    adapters.unshare(glaze, alice)
    assert list(adapters.usable(alice)) == []
    assert Adapter.objects.get().visibility == "private"


def test_an_account_has_one_adapter_of_a_name_until_it_is_deleted(glaze: Adapter, carol: UUID, bob: UUID) -> None:
    names = {"slug": "glaze", "name": "Other", "base_model": "m", "base_revision": "r"}
    with pytest.raises(SlugTaken):
        adapters.create(uuid4(), carol, **names)
    assert Adapter.objects.count() == 1
    adapters.create(uuid4(), bob, **names)
    adapters.delete(glaze)
    adapters.create(uuid4(), carol, **names)


@pytest.mark.parametrize("slug", ["", "Glaze", "gla ze", "-glaze", "glaze-", "gla--ze", "../glaze", "glaze\n"])
def test_a_name_for_addresses_has_small_letters_digits_and_single_dashes(carol: UUID, slug: str) -> None:
    def make() -> Adapter:
        return adapters.create(uuid4(), carol, slug=slug, name="n", base_model="m", base_revision="r")

    assert refused(make)


def test_versions_are_numbered_and_the_newest_ready_one_is_picked(glaze: Adapter) -> None:
    first, second = ready(glaze), ready(glaze)
    third = begin(glaze)
    assert [first.number, second.number, third.number] == [1, 2, 3]
    assert versions.pick(glaze) == second
    assert versions.pick(glaze, 1) == first
    with pytest.raises(UnknownVersion):
        versions.pick(glaze, 3)
    versions.delete(glaze, 2)
    assert versions.pick(glaze) == first
    assert begin(glaze).number == 4


def test_nothing_of_a_ready_version_changes(glaze: Adapter) -> None:
    version = ready(glaze)
    row = Version.objects.filter(id=version.id)
    changes = {
        "sha256": "b" * 64, "size": 1, "rank": 9, "layers": 1, "recipe": {}, "samples": [1], "score": 5,
        "surcharge": 7, "number": 9, "status": "checking", "origin": "trained",
    }  # fmt: skip
    for name, value in changes.items():
        assert refused(lambda name=name, value=value: row.update(**{name: value})), name
    assert not versions.accept(version, FACTS)
    assert not versions.refuse(version, "why")
    assert row.get() == version


def test_a_version_that_was_deleted_stays_so_and_its_row_stays(glaze: Adapter) -> None:
    version = ready(glaze)
    versions.delete(glaze, 1)
    versions.forget_file(version)
    row = Version.objects.filter(id=version.id)
    assert refused(lambda: row.update(deleted_at=None))
    assert refused(lambda: row.update(stored=True))
    assert refused(row.delete)
    assert row.exists()


def test_a_file_that_may_be_used_cannot_be_noted_as_gone(glaze: Adapter) -> None:
    version = ready(glaze)
    assert refused(lambda: versions.forget_file(version))


def test_a_version_that_was_refused_says_why_and_is_not_picked(glaze: Adapter) -> None:
    version = begin(glaze)
    assert versions.refuse(version, "x" * 1000)
    version.refresh_from_db()
    assert (version.status, len(version.reason)) == ("refused", 500)
    with pytest.raises(UnknownVersion):
        versions.pick(glaze)


def test_a_deleted_adapter_ends_with_all_its_versions(glaze: Adapter, carol: UUID) -> None:
    version, checked = ready(glaze), begin(glaze)
    adapters.delete(glaze)
    assert list(adapters.usable(carol)) == []
    assert not versions.ready().exists()
    assert not versions.accept(checked, FACTS)
    with pytest.raises(UnknownVersion):
        versions.pick(glaze, version.number)
    with pytest.raises(UnknownAdapter):
        begin(glaze)
    with pytest.raises(UnknownAdapter):
        adapters.share(glaze, uuid4())


def test_an_account_keeps_so_many_versions_and_bytes(glaze: Adapter, carol: UUID, bob: UUID) -> None:
    other = adapters.create(uuid4(), carol, slug="other", name="Other", base_model="m", base_revision="r")
    begin(glaze, most=2)
    begin(other, most=2)
    with pytest.raises(TooManyVersions):
        begin(glaze, most=2)
    with pytest.raises(TooManyVersions):
        begin(glaze, size=2**20, mebibytes=1)
    theirs = adapters.create(uuid4(), bob, slug="other", name="Other", base_model="m", base_revision="r")
    begin(theirs, size=2**20, most=1, mebibytes=1)
    assert Version.objects.count() == 3


def test_deleting_does_not_make_room_for_ever_more_rows(glaze: Adapter) -> None:
    version = ready(glaze)
    versions.delete(glaze, 1)
    versions.forget_file(version)
    with pytest.raises(TooManyVersions):
        begin(glaze, most=1)
    begin(glaze, size=2**20, most=2, mebibytes=1)


def test_a_handle_is_given_and_then_chosen_once(carol: UUID, bob: UUID) -> None:
    given = makers.ensure(carol)
    assert given.handle.startswith("maker-")
    assert makers.ensure(carol) == given
    with pytest.raises(HandleTaken):
        makers.choose_handle(carol, "maker-of-pots")
    assert makers.choose_handle(carol, "carol").handle == "carol"
    assert makers.choose_handle(carol, "carol").handle == "carol"
    with pytest.raises(HandleKept):
        makers.choose_handle(carol, "caroline")
    with pytest.raises(HandleTaken):
        makers.choose_handle(bob, "carol")
    assert Maker.objects.get(account=carol).handle == "carol"
    assert Maker.objects.get(account=bob).handle.startswith("maker-")
