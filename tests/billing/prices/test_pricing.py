import ast
import decimal
import inspect
import json
import locale
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import amounts
from billing.prices import pricing
from billing.prices.pricing import ImageOutcome, Order, PriceList, Quote, charge, charge_canceled, quote

PRICES = PriceList(
    version=1,
    base_cost=100_000,
    prompt_floor=25,
    service_classes={"interactive": 1500, "standard": 1000, "batch": 500},
    operations={"generate": 1000, "edit": 1000, "inpaint": 1000, "outpaint": 1000},
    skipped_step=250,
)
factor = st.integers(1, 10_000)
price_lists = st.builds(
    PriceList,
    version=st.integers(1, 99),
    base_cost=st.integers(1, 10**9),
    prompt_floor=st.integers(1, 200),
    service_classes=st.fixed_dictionaries({"standard": factor, "batch": factor}),
    operations=st.fixed_dictionaries({"generate": factor, "edit": factor}),
    skipped_step=st.integers(0, 1000),
)
orders = st.builds(
    Order,
    operation=st.sampled_from(["generate", "edit"]),
    width=st.integers(1, 4096),
    height=st.integers(1, 4096),
    steps=st.integers(1, 100),
    prompt=st.text(max_size=300),
    n=st.integers(1, 10),
    service_class=st.sampled_from(["standard", "batch"]),
    input_pixels=st.integers(0, 10 * 2048 * 2048),
)


def order(width=1024, height=1024, steps=50, prompt="x" * 100, operation="generate", **more) -> Order:
    return Order(operation, width, height, steps, prompt, **more)


def tokens(placed: Order) -> str:
    return quote(placed, PRICES).as_json()["total"]


def test_the_worked_examples():
    assert tokens(order()) == "100"
    assert tokens(order(512, 512, 30)) == "15"
    # 160 × √(77/100) = 140.39943...
    assert tokens(order(steps=80, prompt="x" * 77)) == "140.4"
    assert tokens(order(steps=80, prompt="x" * 400)) == "320"


def test_classes_pictures_and_input_pixels_are_factors():
    assert tokens(order(service_class="interactive")) == "150"
    assert tokens(order(service_class="batch")) == "50"
    assert tokens(order(n=3)) == "300"
    assert tokens(order(operation="edit", input_pixels=1024 * 1024)) == "200"


@given(orders, price_lists)
def test_the_price_is_the_formula_rounded_up_once_per_picture(placed, prices):
    length = max(pricing.prompt_length(placed.prompt), prices.prompt_floor)
    linear = (
        Fraction(prices.base_cost)
        * Fraction(placed.width * placed.height + placed.input_pixels, 1024**2)
        * Fraction(placed.steps, 50)
        * Fraction(prices.service_classes[placed.service_class], 1000)
        * Fraction(prices.operations[placed.operation], 1000)
    )
    square = linear**2 * Fraction(length, 100)
    unit = quote(placed, prices).unit
    assert (unit - 1) ** 2 < square <= unit**2
    assert quote(placed, prices).total == placed.n * unit


@given(orders, price_lists, st.integers(1, 500), st.data())
def test_more_of_anything_never_costs_less(placed, prices, more, data):
    name = data.draw(st.sampled_from(["width", "height", "steps", "n", "input_pixels", "prompt"]))
    added = placed.prompt.strip() + "x" * more if name == "prompt" else getattr(placed, name) + more
    assert quote(replace(placed, **{name: added}), prices).total >= quote(placed, prices).total


@given(orders, price_lists, st.integers(1, 500), st.data())
def test_a_dearer_price_list_never_costs_less(placed, prices, more, data):
    name = data.draw(st.sampled_from(["base_cost", "prompt_floor", "service_classes", "operations"]))
    value = getattr(prices, name)
    dearer = value + more if isinstance(value, int) else {key: old + more for key, old in value.items()}
    assert quote(placed, replace(prices, **{name: dearer})).total >= quote(placed, prices).total


@given(orders, price_lists)
def test_the_itemised_factors_multiply_to_the_total(placed, prices):
    quoted = quote(placed, prices)
    factors = {name: Fraction(text) for name, text in quoted.factors.items()}
    assert list(factors) == ["base_cost", "resolution", "steps", "prompt", "service_class", "operation", "n"]
    rest = 1000 * factors["base_cost"] * factors["resolution"] * factors["steps"]
    rest *= factors["service_class"] * factors["operation"] * factors["n"]
    low, high = rest * factors["prompt"], rest * (factors["prompt"] + Fraction(1, 10**6))
    assert low <= quoted.total < high + placed.n


def test_the_factors_of_one_quote_read_as_decimals():
    assert quote(order(512, 768, 30, "x" * 50, n=2, service_class="interactive"), PRICES).factors == {
        "base_cost": "100",
        "resolution": "0.375",
        "steps": "0.6",
        "prompt": "0.707106",
        "service_class": "1.5",
        "operation": "1",
        "n": "2",
    }


def test_an_empty_prompt_costs_the_floor():
    assert tokens(order(prompt="")) == tokens(order(prompt="  \n")) == tokens(order(prompt="x" * 25)) == "50"
    # 100 × √(26/100) = 50.99019...
    assert tokens(order(prompt="x" * 26)) == "50.991"


def test_prompt_length_is_code_points_of_the_normalised_stripped_prompt():
    assert pricing.prompt_length("  a red circle ") == 12
    assert pricing.prompt_length("红色的圆形") == 5
    assert pricing.prompt_length("cafe\u0301") == 4
    assert pricing.prompt_length("\U0001f600") == 1


@given(orders)
def test_neither_decimal_context_nor_locale_changes_a_price(placed):
    prices = replace(PRICES, service_classes={"standard": 1, "batch": 1})
    expected = json.dumps(quote(placed, prices).as_json())
    found = locale.setlocale(locale.LC_ALL)
    try:
        for name in ("C", "C.UTF-8", "de_DE.UTF-8", "fa_IR.UTF-8"):
            try:
                locale.setlocale(locale.LC_ALL, name)
            except locale.Error:
                continue
            with decimal.localcontext(prec=1, rounding=decimal.ROUND_FLOOR):
                again = quote(placed, prices).as_json()
                assert json.dumps(again) == expected
                assert Quote.from_json(again) == quote(placed, prices)
    finally:
        locale.setlocale(locale.LC_ALL, found)


def test_there_is_no_float_or_decimal_in_pricing():
    tree = ast.parse(inspect.getsource(pricing))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Div), "true division makes a float"
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float | complex))
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            assert name not in {"float", "Decimal", "sqrt", "pow", "round", "fsum"}, name
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
            assert set(modules) <= {
                "__future__", "billing.amounts", "billing.errors", "collections.abc", "dataclasses", "math",
                "typing", "unicodedata",
            }  # fmt: skip


@given(orders, price_lists)
def test_a_stored_quote_comes_back_as_it_was(placed, prices):
    quoted = quote(placed, prices)
    assert Quote.from_json(json.loads(json.dumps(quoted.as_json()))) == quoted


@pytest.mark.parametrize("name", ["upscale", "", "Generate", None])
def test_an_unknown_operation_has_no_price(name):
    with pytest.raises(pricing.UnknownOperation) as refused:
        quote(order(operation=name), PRICES)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("name", ["express", "", "Batch", None])
def test_an_unknown_service_class_has_no_price(name):
    with pytest.raises(pricing.UnknownServiceClass) as refused:
        quote(order(service_class=name), PRICES)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("name", ["width", "height", "steps", "n"])
def test_an_order_counts_in_positive_whole_numbers(name):
    for value in (0, -1):
        with pytest.raises(ValueError, match=name):
            order(**{name: value})
    for value in (1.0, True, "1", None):
        with pytest.raises(TypeError, match=name):
            order(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("base_cost", 0),
        ("prompt_floor", 0),
        ("version", 0),
        ("skipped_step", -1),
        ("skipped_step", 1001),
        ("operations", {}),
        ("operations", {"generate": 0}),
        ("service_classes", {}),
    ],
)
def test_a_price_list_that_gives_pictures_away_is_refused(name, value):
    with pytest.raises(ValueError, match=name if name != "skipped_step" else "skipped"):
        replace(PRICES, **{name: value})


def test_a_price_list_with_a_float_factor_is_refused():
    with pytest.raises(TypeError):
        replace(PRICES, operations={"generate": 1.5})


def four_pictures() -> Quote:
    return quote(order(512, 512, 30, n=4), PRICES)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([ImageOutcome(True, 30)] * 4, 60_000),
        ([ImageOutcome(True, 30)] * 3 + [ImageOutcome(False, 30)], 45_000),
        ([ImageOutcome(True, 30)] * 3, 45_000),
        ([ImageOutcome(False, 12)] * 4, 0),
        ([], 0),
        # Ten of thirty steps from the cache at a quarter of the price: 15 x (20 + 2.5) / 30.
        ([ImageOutcome(True, 20, 10)], 11_250),
        # A picture that was there already: a quarter.
        ([ImageOutcome(True, 0, 30)], 3_750),
        ([ImageOutcome(False, 0, 30)], 0),
    ],
)
def test_the_charge_is_for_the_pictures_delivered(outcomes, expected):
    assert charge(four_pictures(), outcomes) == expected


def unfinished(*steps_run):
    return [ImageOutcome(False, steps) for steps in steps_run]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (unfinished(15, 15, 15, 15), 30_000),
        (unfinished(0, 0, 0, 0), 0),
        ([], 0),
        # What was finished is delivered, and costs what it would have.
        ([ImageOutcome(True, 30), *unfinished(3)], 16_500),
        ([ImageOutcome(True, 10, 20), *unfinished(3, 0, 29)], 7_500 + 1_500 + 14_500),
        # Steps that a picture skipped before it was stopped are not charged.
        ([ImageOutcome(False, 3, 20)], 1_500),
    ],
)
def test_a_canceled_job_is_charged_for_the_pictures_finished_and_the_steps_of_the_others(outcomes, expected):
    assert charge_canceled(four_pictures(), outcomes) == expected


def test_a_canceled_share_is_rounded_down():
    quoted = replace(four_pictures(), unit=10_001, total=40_004, steps=3)
    assert charge_canceled(quoted, unfinished(1, 2)) == 3_333 + 6_667


def test_more_pictures_or_steps_than_quoted_are_refused():
    quoted = four_pictures()
    for wrong in ([ImageOutcome(True, 30)] * 5, [ImageOutcome(True, 31)], [ImageOutcome(True, 25, 6)]):
        with pytest.raises(ValueError, match=r"4 pictures|of 30"):
            charge(quoted, wrong)
    for steps in ([1] * 5, [31], [-1]):
        with pytest.raises(ValueError, match=r"4 pictures|of 30|at least"):
            charge_canceled(quoted, unfinished(*steps))


@given(orders, price_lists, st.data())
def test_no_charge_is_ever_above_the_quote(placed, prices, data):
    quoted = quote(placed, prices)
    skipped = st.integers(0, placed.steps)
    outcome = st.builds(lambda done, skip: ImageOutcome(done, placed.steps - skip, skip), st.booleans(), skipped)
    outcomes = data.draw(st.lists(outcome, max_size=placed.n))
    charged = charge(quoted, outcomes)
    assert 0 <= charged <= quoted.unit * sum(one.delivered for one in outcomes) <= quoted.total
    assert charged <= charge_canceled(quoted, outcomes) <= quoted.total


@given(orders, price_lists, st.data())
def test_a_skipped_step_never_costs_more_than_a_step_run(placed, prices, data):
    quoted = quote(placed, prices)
    fewer, more = sorted(data.draw(st.tuples(st.integers(0, placed.steps), st.integers(0, placed.steps))))
    prices_of = [charge(quoted, [ImageOutcome(True, placed.steps - skip, skip)]) for skip in (fewer, more)]
    assert prices_of[0] >= prices_of[1]


@given(st.integers(0, 10**18 - 1))
def test_tokens_are_written_and_read_without_loss(milli):
    assert amounts.parse_tokens(amounts.format_tokens(milli)) == milli
    assert Fraction(amounts.format_tokens(milli)) * 1000 == milli


@pytest.mark.parametrize(
    ("milli", "text"),
    [
        (13417, "13.417"),
        (15000, "15"),
        (500, "0.5"),
        (0, "0"),
        (-13417, "-13.417"),
        (100_000, "100"),
        (7, "0.007"),
    ],
)
def test_how_tokens_are_written(milli, text):
    assert amounts.format_tokens(milli) == text


@pytest.mark.parametrize(("text", "milli"), [("10", 10_000), ("0.5", 500), ("0.050", 50), ("0", 0)])
def test_how_tokens_are_read(text, milli):
    assert amounts.parse_tokens(text) == milli


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1\n", "+1", "-1", "1e3", "1.0001", "1.", ".5", "1,5", "1_000", "NaN", "Infinity", "0x1",
     "007", "１０", "٣", "1" * 16, "1" * 5000, 10, 1.5, None, True, b"1"],
)  # fmt: skip
def test_what_is_no_amount_of_tokens(text):
    with pytest.raises(ValueError, match="not an amount"):
        amounts.parse_tokens(text)


@pytest.mark.parametrize("value", [1.5, True, "1", None])
def test_only_whole_milli_tokens_are_written(value):
    with pytest.raises(TypeError):
        amounts.format_tokens(value)
