"""Token packs: a version never changes once it is there, and one of each name is sold."""

import pytest
from django.db import IntegrityError, transaction

from billing.errors import UnknownPack
from billing.models import Pack
from billing.prices import packs

pytestmark = pytest.mark.django_db


def test_three_packs_are_on_sale_from_the_start_and_larger_ones_give_more():
    offered = packs.offered()
    assert [pack.name for pack in offered] == ["small", "medium", "large"]
    per_token = [pack.prices["eur"] / (pack.tokens + pack.bonus) for pack in offered]
    assert per_token == sorted(per_token, reverse=True)


def test_other_terms_are_a_new_version_and_the_old_one_stays_as_it_was():
    old = packs.find("small")
    new = packs.publish("small", 9_000_000, 1_000, {"eur": 600})
    assert (new.version, packs.find("small")) == (2, new)
    old.refresh_from_db()
    assert (old.active, old.tokens, old.prices["eur"]) == (False, 10_000_000, 500)


def test_a_pack_that_was_stopped_is_not_sold_until_it_is_published_anew():
    packs.stop(packs.publish("small", 9_000_000, 0, {"eur": 600}))
    with pytest.raises(UnknownPack):
        packs.find("small")
    again = packs.publish("small", 10_000_000, 0, {"eur": 500})
    assert (again.version, packs.find("small")) == (3, again)


@pytest.mark.parametrize("terms", [{"tokens": 1}, {"bonus": 1}, {"prices": {"eur": 1}}, {"name": "tiny"}])
def test_not_even_the_operator_changes_a_version(terms):
    with pytest.raises(IntegrityError), transaction.atomic():
        Pack.objects.filter(name="small").update(**terms)
    with pytest.raises(IntegrityError), transaction.atomic():
        Pack.objects.all()._raw_delete("default")
    assert packs.find("small").tokens == 10_000_000


@pytest.mark.parametrize(
    "prices",
    [
        {}, {"EUR": 500}, {"eur": 0}, {"eur": "500"}, {"eur": 500.5}, {"eur": True}, [500], {"xyz": 500}, {"": 500},
        {"eur": 1}, {"eur": 49}, {"gbp": 29}, {"jpy": 49}, {"krw": 50}, {"huf": 500}, {"eur": 500, "usd": 1},
        {"kwd": 5124}, {"isk": 20_050}, {"eur": 100_000_000},
    ],
)  # fmt: skip
def test_prices_that_cannot_be_are_refused(prices):
    with pytest.raises(ValueError, match=r"price|currency"):
        packs.publish("small", 1, 0, prices)
    assert packs.find("small").version == 1


@pytest.mark.parametrize(
    "prices", [{"eur": 50, "gbp": 30, "usd": 50}, {"jpy": 50}, {"krw": 9900}, {"kwd": 5120}, {"isk": 70_000}]
)
def test_the_least_that_stripe_takes_is_a_price_in_each_currency(prices):
    assert packs.publish("small", 1, 0, prices).prices == prices
