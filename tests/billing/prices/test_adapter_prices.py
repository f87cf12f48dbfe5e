"""What adapters add to a price, and how a charge is split: every milli-Token is somebody's."""

from dataclasses import replace
from fractions import Fraction
from math import ceil
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.prices import pricing
from billing.prices.pricing import AdapterTerms, ImageOutcome, Order, PriceList, Quote

PRICES = PriceList(
    version=1,
    base_cost=100_000,
    prompt_floor=25,
    service_classes={"standard": 1000},
    operations={"generate": 1000},
    skipped_step=250,
)
MAKERS = [str(UUID(int=number)) for number in range(3)]
terms = st.builds(
    AdapterTerms,
    adapter=st.just("a"),
    version=st.just(1),
    surcharge=st.integers(0, 500),
    fee=st.integers(0, 10_000),
    share=st.integers(0, 1000),
    maker=st.sampled_from(MAKERS),
)
orders = st.builds(
    Order,
    operation=st.just("generate"),
    width=st.integers(1, 2048),
    height=st.integers(1, 2048),
    steps=st.integers(1, 100),
    prompt=st.text(max_size=60),
    n=st.integers(1, 4),
    adapters=st.lists(terms, max_size=4).map(tuple),
)


def factor(adapters):
    return 1 + sum(Fraction(each.surcharge + each.fee, 1000) for each in adapters)


@given(orders)
def test_the_price_is_the_plain_one_times_the_factor_rounded_up_once(order):
    plain = pricing.quote(replace(order, adapters=()), PRICES)
    found = pricing.quote(order, PRICES)
    exact = factor(order.adapters)
    assert (plain.unit - 1) * exact < found.unit <= ceil(plain.unit * exact)
    assert found.total == order.n * found.unit
    if exact == 1:
        assert found.unit == plain.unit
    assert Quote.from_json(found.as_json()) == found


@given(orders)
def test_quotes_without_adapters_look_as_before(order):
    found = pricing.quote(replace(order, adapters=()), PRICES).as_json()
    assert "adapters" not in found
    assert "adapters" not in found["factors"]


@given(orders, st.integers(0, 10**9))
def test_makers_get_no_more_than_their_shares_and_less_than_a_milli_token_less(order, charge):
    quoted = pricing.quote(order, PRICES)
    split = pricing.shares(quoted, charge)
    assert all(amount > 0 for amount in split.values())
    assert sum(split.values()) <= charge
    for maker in MAKERS:
        theirs = [each for each in order.adapters if each.maker == maker]
        exact = sum(charge * Fraction(each.fee * each.share, 10**6) / factor(order.adapters) for each in theirs)
        assert 0 <= exact - split.get(maker, 0) < max(1, len(theirs))


@given(orders, st.integers(0, 100))
def test_what_is_charged_for_a_canceled_picture_is_split_as_well(order, steps):
    quoted = pricing.quote(order, PRICES)
    charge = pricing.charge_canceled(quoted, [ImageOutcome(False, min(steps, quoted.steps))])
    assert 0 <= charge <= quoted.total
    assert sum(pricing.shares(quoted, charge).values()) <= charge


@pytest.mark.parametrize("wrong", [{"surcharge": -1}, {"fee": -1}, {"share": 1001}, {"fee": 0.5}])
def test_terms_that_cannot_be_are_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        AdapterTerms(adapter="a", version=1, **wrong)
