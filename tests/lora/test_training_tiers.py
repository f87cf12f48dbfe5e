"""Tiers and what trainings cost in them."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from django.db import DatabaseError, transaction
from hypothesis import given
from hypothesis import strategies as st

from lora import tiers, training_prices
from lora.errors import OutsideTier, UnknownTier
from lora.models import Tier
from lora.training_prices import Order, Quote, Terms

CRAFT = Terms(2_500_000, 768**2, 60, 1024, 16, 2000, 5, "standard", may_publish=True, surcharge=50)


def test_three_tiers_are_on_sale_the_cheapest_first(db):
    assert [tier.name for tier in tiers.offered()] == ["sketch", "craft", "brand"]
    assert tiers.find("craft").terms == CRAFT
    assert [tier.may_publish for tier in tiers.offered()] == [False, True, True]


def test_a_training_costs_its_steps_at_its_resolution():
    quoted = training_prices.quote(Order(pictures=20, side=1024, steps=1500), "craft", CRAFT)
    assert quoted.total == 3_750_000
    assert quoted.factors == {"base_cost": "2500", "resolution": "1", "steps": "1.5"}


def test_a_small_one_costs_as_much_as_one_at_the_floor():
    small, floor = (training_prices.quote(Order(20, side, 1000), "craft", CRAFT) for side in (256, 768))
    assert small == floor
    assert small.total == 1_406_250


@given(side=st.integers(1, 1024), steps=st.integers(1, 2000), base=st.integers(1, 10**12))
def test_the_total_is_the_product_of_its_factors_rounded_up_once(side, steps, base):
    quoted = training_prices.quote(Order(4, side, steps), "craft", replace(CRAFT, base_cost=base))
    product = math.prod(map(Fraction, quoted.factors.values())) * 1000
    assert quoted.total == math.ceil(product)
    assert Quote.from_json(quoted.as_json()) == quoted


@given(steps=st.integers(1, 2000), done=st.integers(0, 3000))
def test_who_cancels_pays_for_the_steps_done_and_never_more_than_was_quoted(steps, done):
    quoted = training_prices.quote(Order(4, 1024, steps), "craft", CRAFT)
    charged = training_prices.charge(quoted, done)
    assert charged <= min(quoted.total, Fraction(quoted.total * done, steps))
    assert training_prices.charge(quoted, steps) == quoted.total
    assert training_prices.charge(quoted, 0) == 0


@pytest.mark.parametrize(
    ("order", "field", "bounds"),
    [
        (Order(3, 512, 100), "pictures", (4, 60)),
        (Order(61, 512, 100), "pictures", (4, 60)),
        (Order(20, 1025, 100), "side", (1, 1024)),
        (Order(20, 512, 0), "steps", (1, 2000)),
        (Order(20, 512, 2001), "steps", (1, 2000)),
    ],
)
def test_what_a_tier_does_not_allow_is_refused_with_what_it_allows(order, field, bounds):
    with pytest.raises(OutsideTier) as refusal:
        training_prices.quote(order, "craft", CRAFT)
    assert (refusal.value.field, refusal.value.least, refusal.value.most) == (field, *bounds)


def test_a_new_version_replaces_the_one_on_sale_whose_terms_stay(db):
    before = tiers.find("craft")
    after = tiers.publish("craft", "Dearer.", replace(CRAFT, base_cost=3_000_000))
    assert (after.version, tiers.find("craft")) == (2, after)
    before.refresh_from_db()
    assert (before.active, before.terms) == (False, CRAFT)
    tiers.stop(after)
    with pytest.raises(UnknownTier):
        tiers.find("craft")


@pytest.mark.parametrize("change", [{"base_cost": 1}, {"surcharge": 0}, {"description": "Cheap!"}])
def test_the_terms_of_a_version_never_change(db, change):
    before = tiers.find("craft")
    with pytest.raises(DatabaseError, match="keeps its terms"), transaction.atomic():
        Tier.objects.filter(pk=before.pk).update(**change)
    with pytest.raises(DatabaseError, match="refused"), transaction.atomic():
        before.delete()
    tiers.stop(before)
    with pytest.raises(DatabaseError, match="keeps its terms"), transaction.atomic():
        Tier.objects.filter(pk=before.pk).update(active=True)
    assert Tier.objects.get(pk=before.pk).terms == CRAFT


@pytest.mark.parametrize("wrong", [{"base_cost": 0}, {"most_pictures": 3}, {"rank": 257}, {"surcharge": -1}])
def test_terms_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        replace(CRAFT, **wrong)
