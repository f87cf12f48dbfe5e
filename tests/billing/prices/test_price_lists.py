"""Publishing prices: the next version is for those who ask next, and no version ever changes."""

from dataclasses import replace
from typing import Any

import pytest
from django.db import connection, transaction

from billing.models import PriceListVersion
from billing.prices import price_lists
from billing.prices.pricing import Order, quote
from tests.threads import together

NEW: dict[str, Any] = {
    "base_cost": 200_000,
    "prompt_floor": 25,
    "service_classes": {"standard": 1000},
    "operations": {"generate": 1000, "edit": 1250},
    "skipped_step": 0,
}
PICTURE = Order("generate", 1024, 1024, 50, "x" * 100)


@pytest.mark.django_db
def test_the_first_price_list_is_the_formula_of_the_requirements():
    assert quote(PICTURE, price_lists.current()).total == 100_000
    assert quote(replace(PICTURE, width=512, height=512, steps=30), price_lists.current()).total == 15_000


@pytest.mark.django_db(transaction=True)
def test_a_new_version_is_current_at_once_where_it_was_published_and_the_old_one_stays():
    old = price_lists.current()
    published = price_lists.publish(**NEW)
    assert published.version == old.version + 1
    assert price_lists.current() == published
    assert quote(PICTURE, published).total == 200_000
    assert price_lists.get(old.version) == old


@pytest.mark.django_db(transaction=True)
def test_a_process_that_did_not_publish_sees_the_new_version_within_seconds():
    old = price_lists.current(1_000.0)
    PriceListVersion.objects.create(version=3, **NEW)
    assert price_lists.current(1_000.0 + price_lists.FRESH_SECONDS) == old
    assert price_lists.current(1_000.0 + price_lists.FRESH_SECONDS + 0.1).version == 3


@pytest.mark.django_db(transaction=True)
def test_a_publication_that_is_rolled_back_prices_nothing():
    old = price_lists.current()
    with transaction.atomic():
        price_lists.publish(**NEW)
        transaction.set_rollback(True)
    assert price_lists.current() == old
    assert PriceListVersion.objects.count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("base_cost", 0, ValueError), ("skipped_step", 1001, ValueError), ("operations", {"edit": 1.5}, TypeError)],
)
def test_a_price_list_that_makes_no_sense_is_not_published(name, value, error):
    with pytest.raises(error):
        price_lists.publish(**NEW | {name: value})
    assert PriceListVersion.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_publishers_at_the_same_moment_get_versions_of_their_own():
    published = together(6, lambda number: price_lists.publish(**NEW | {"base_cost": number + 1}))
    assert sorted(prices.version for prices in published) == [3, 4, 5, 6, 7, 8]
    assert [price_lists.get(prices.version) for prices in published] == published


@pytest.mark.django_db
def test_without_any_price_list_there_is_no_price():
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("DELETE FROM billing_pricelistversion")
    with pytest.raises(LookupError):
        price_lists.current()
