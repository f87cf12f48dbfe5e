"""The accountant of the stories is not blind: each kind of loss is noticed."""

import pytest

from tests.billing.payments.accountant import BONUS, TOKEN, Accountant, Cap, Debt, Line, Month, Order, Paper, Shown

PAID = Order("paid", 100, "eur", True, "pi_1", 0)
WORTH = 100 * (TOKEN + BONUS)


def event(kind, **fields):
    return {"type": kind, "data": {"object": fields}}


def charge(payment="pi_1", top_up="one", at=1_000_000):
    return {"status": "succeeded", "payment_intent": payment, "metadata": {"top_up": top_up}, "created": at,
            "amount": 100, "currency": "eur"}  # fmt: skip


def shown(balance=WORTH, available=None, debts=(), top_ups=None, held=0):
    available = balance - held if available is None else available
    paid = max(0, available - 100 * BONUS)
    return Shown(balance, held, available, paid, bool(debts), list(debts), top_ups or {"one": PAID}, 0)


@pytest.fixture
def accountant():
    made = Accountant(caps=[Cap(0, "eur", 100)])
    metadata = {"top_up": "one", "automatic": "true"}
    made.hears(event("payment_intent.succeeded", id="pi_1", metadata=metadata, amount_received=100, currency="eur"), 1)
    return made


def refund(status="succeeded", amount=40, **more):
    return event("refund.updated", id="re_1", payment_intent="pi_1", amount=amount, status=status, **more)


def test_what_is_right_is_not_complained_about(accountant):
    assert accountant.check([charge()], shown()) == []


@pytest.mark.parametrize("balance", [0, WORTH - 1, 2 * WORTH])
def test_tokens_that_were_lost_or_credited_twice_are_noticed(accountant, balance):
    assert len(accountant.check([charge()], shown(balance))) == 1


@pytest.mark.parametrize("status", ["expired", "failed"])
def test_a_charge_for_a_top_up_that_was_written_off_is_noticed(status):
    told_nothing = Accountant(caps=[Cap(0, "eur", 100)])
    written_off = {"one": Order(status, 100, "eur", True, "pi_1", 0)}
    (wrong,) = told_nothing.check([charge()], shown(0, top_ups=written_off))
    assert wrong == f"100 were charged for a top-up that is {status}"


def test_two_charges_within_a_day_are_noticed_if_the_cap_is_one(accountant):
    again = {"top_up": "two", "automatic": "true"}
    accountant.hears(
        event("payment_intent.succeeded", id="pi_2", metadata=again, amount_received=100, currency="eur"), 2
    )
    both = {"one": PAID, "two": PAID._replace(payment="pi_2")}
    late = [charge(), charge("pi_2", "two", 1_000_000 + 24 * 3600)]
    assert accountant.check(late, shown(2 * WORTH, top_ups=both)) == []
    soon = [charge(), charge("pi_2", "two", 1_000_000 + 23 * 3600)]
    (wrong,) = accountant.check(soon, shown(2 * WORTH, top_ups=both))
    assert wrong == "200 eur were charged automatically in 24 hours, allowed were 100"


def test_a_refund_whose_tokens_were_not_taken_is_noticed_and_one_that_failed_takes_none(accountant):
    accountant.hears(refund(), 2)
    assert len(accountant.check([charge()], shown())) == 2
    accountant.hears(refund("failed"), 3)
    assert accountant.check([charge()], shown()) == []


def test_an_older_state_of_a_refund_does_not_replace_a_newer_one(accountant):
    accountant.hears(refund("failed"), 3)
    accountant.hears(refund("succeeded"), 2)
    assert accountant.check([charge()], shown()) == []


def test_a_debt_beside_paid_tokens_that_are_free_is_noticed(accountant):
    (wrong,) = accountant.check([charge()], shown(WORTH + 500, debts=[Debt(500, 0)]))
    assert wrong == "500 are owed, and 100500 that can pay for it are free"


def test_what_stripe_has_and_kiln_was_never_told_is_noticed_at_rest(accountant):
    stripe = {"charge": [charge(), charge("pi_2", "two")], "refund": [], "dispute": []}
    assert accountant.settle(stripe, set()) == ["Kiln was never told of 1 payments"]


INVOICE = Paper("invoice", "INV-000001", "eur", 100, [Line("one", 100, "")])
NOTE = Paper("credit_note", "CN-000001", "eur", 40, [Line("one", 40, "INV-000001")])


@pytest.fixture
def refunded(accountant):
    """40 of a payment of the first month were refunded in the second, and came back in the third."""
    accountant.hears(refund(), 2, 15)
    accountant.hears(refund("failed"), 3, 25)
    return accountant


def months(*papers):
    return [Month(first, first + 10, list(each)) for first, each in zip((0, 10, 20), papers, strict=True)]


AGAIN = Paper("invoice", "INV-000002", "eur", 40, [Line("one", 40, "")])


def test_documents_that_are_right_are_not_complained_about(refunded):
    assert refunded.read(months([INVOICE], [NOTE], [AGAIN])) == []


@pytest.mark.parametrize(
    "papers",
    [
        ([INVOICE], [], [AGAIN]),
        ([], [INVOICE, NOTE], [AGAIN]),
        ([INVOICE], [NOTE], []),
        ([INVOICE], [NOTE], [AGAIN._replace(name="INV-000003")]),
        ([INVOICE], [NOTE._replace(lines=[Line("one", 40, "INV-000002")])], [AGAIN]),
        ([INVOICE], [NOTE._replace(currency="jpy")], [AGAIN]),
        ([INVOICE._replace(total=10_000)], [NOTE], [AGAIN]),
    ],
)
def test_documents_that_lack_something_or_say_it_elsewhere_are_noticed(refunded, papers):
    assert len(refunded.read(months(*papers))) >= 1
