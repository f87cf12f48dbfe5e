"""What makers earn: each draw of their shares once, with its worth; refunds and debts take the same shares back."""

from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection
from hypothesis import given
from hypothesis import strategies as st

from billing import errors
from billing.models import PLATFORM_ID, Earning, Marketing
from billing.tokens import debts, earnings, lots, marketing, proof, rollups, takebacks, wallets
from billing.tokens.takebacks import Charged
from billing.tokens.wallets import Share
from tests.billing.books import HOUR, damage, nothing_moves, refused
from tests.threads import database_setting

pytestmark = pytest.mark.django_db


def charge(owner: UUID, *shares: tuple[UUID | str, int]) -> UUID:
    total = sum(amount for _, amount in shares)
    wallets.hold(owner, total, reference := uuid4(), HOUR)
    wallets.capture(reference, total, [Share(*share) for share in shares])
    return reference


def wallet(maker: UUID) -> int:
    """What a maker's transfers come to, as the books say too."""
    assert proof.check() == []
    found = rollups.balance(earnings.maker_of(maker))
    assert found is not None
    return found


def worth(maker: UUID) -> dict[str, tuple[int, int]]:
    """Tokens and money in each of a maker's purses."""
    marketing.weigh()
    return {each.currency: (each.amount, each.money_minor) for each in earnings.purses(earnings.maker_of(maker))}


def test_an_earning_is_worth_what_its_own_transfer_drew_from_paid_lots(bob, carol):
    wallets.grant(bob, 50, "gift")
    wallets.purchase(bob, 1_000, 300, "eur", "pi_1")
    charge(bob, ("platform", 100), (carol, 100))
    charge(bob, (carol, 10), ("platform", 90))
    assert Earning.objects.count() == 0  # captures wait for nothing
    lots.catch_up()
    assert list(Earning.objects.order_by("id").values_list("amount", "money_minor", "currency")) == [
        (100, 30, "eur"), (10, 3, "eur"),
    ]  # fmt: skip
    assert worth(carol) == {"eur": (110, 33)}
    assert wallet(carol) == 110


@pytest.mark.parametrize("unused", ["nestloop", "hashjoin", "mergejoin"])
def test_runs_and_the_fold_write_the_same_earnings_in_the_same_order_however_they_are_joined(bob, carol, unused):
    dave = uuid4()
    wallets.create(dave)
    for owner in (bob, dave):
        wallets.purchase(owner, 1_000, 777, "usd", f"pi {owner}")
        wallets.grant(owner, 35, f"gift {owner}")
        lots.position(owner)
        for number in range(9):
            charge(owner, (carol, 7 + number), ("platform", 20))
    with database_setting(f"enable_{unused}", "off"):
        lots.position(bob)  # the fold
        folded = Earning.objects.count()
        assert lots.catch_up() == 1  # a run
    columns = ("maker", "amount", "money_minor", "currency", "weighed")
    both = list(Earning.objects.order_by("id").values_list(*columns))
    assert both[:folded] == both[folded:]
    assert sum(row[1] for row in both) == 2 * sum(7 + number for number in range(9)) == wallet(carol)


def test_what_a_refund_takes_of_an_earning_is_worth_what_it_was_and_all_of_it_nothing(bob, carol):
    wallets.grant(bob, 30, "gift")
    wallets.purchase(bob, 1_000, 1_000, "eur", "pi_1")
    job = charge(bob, (carol, 100), ("platform", 100))
    wallets.refund(job, 50, "a quarter")
    assert worth(carol) == {"": (30, 0), "eur": (45, 45)}
    wallets.refund(job, 150, "the rest")
    assert worth(carol) == {"": (0, 0), "eur": (0, 0)}
    assert (wallet(carol), wallets.balance(bob).total) == (0, 1_030)


def test_a_refund_under_a_key_that_was_used_moves_nothing(bob, carol):
    wallets.purchase(bob, 1_000, 1_000, "eur", "pi_1")
    job, other = (charge(bob, (carol, 2), ("platform", 98)) for _ in range(2))
    assert wallets.refund(job, 60, "sorry") is True
    lots.catch_up()
    with nothing_moves():
        assert wallets.refund(job, 60, "sorry") is False
    refused(errors.IdempotencyMismatch, wallets.refund, job, 40, "sorry")
    refused(errors.IdempotencyMismatch, wallets.refund, other, 60, "sorry")
    refused(errors.RefundAboveCapture, wallets.refund, job, 41, "more")
    assert wallet(carol) == 3


def test_what_is_owed_for_a_lot_is_away_from_those_who_earned_it_until_the_debt_is_settled(bob, carol):
    lot = wallets.purchase(bob, 1_000, 500, "eur", "pi_1")
    charge(bob, (carol, 301), ("platform", 499))
    debt = debts.claw_back(lot, 500, "dispute", "du_1")
    assert (debt.collected, debt.owed) == (200, 800)
    assert worth(carol) == {"eur": (0, 0)}
    assert wallet(carol) == 0
    wallets.purchase(bob, 400, 200, "eur", "pi_2")  # pays half of the debt
    assert worth(carol) == {"eur": (151, 76)}  # half of 301 is away, and 74 of 150 cents with it
    assert wallet(carol) == 151
    debts.void(debt.id, "won")
    assert worth(carol) == {"eur": (301, 150)}
    assert wallet(carol) == 301


def test_a_waiver_is_the_operators_loss(bob, carol):
    lot = wallets.purchase(bob, 1_000, 500, "eur", "pi_1")
    charge(bob, (carol, 300), ("platform", 700))
    debt = debts.claw_back(lot, 500, "dispute", "du_1")
    assert wallet(carol) == 0
    debts.waive(debt.id, "a good customer")
    assert wallet(carol) == 300


def test_a_refund_of_a_job_whose_lot_is_owed_takes_nothing_twice(bob, carol):
    lot = wallets.purchase(bob, 1_000, 500, "eur", "pi_1")
    job = charge(bob, (carol, 300), ("platform", 700))
    debts.claw_back(lot, 500, "dispute", "du_1")
    wallets.refund(job, 500, "half")
    assert wallets.balance(bob).total == 0  # it paid half of the debt
    assert wallet(carol) == 0
    wallets.purchase(bob, 500, 250, "eur", "pi_2")
    assert wallet(carol) == 150
    assert worth(carol) == {"eur": (150, 75)}


def test_granted_tokens_are_worth_what_the_marketing_account_pays_as_far_as_it_goes(bob, carol):
    wallets.grant(bob, 10_000, "gift")
    early = charge(bob, (carol, 1_500), ("platform", 500))
    lots.catch_up()
    assert worth(carol) == {"": (1_500, 0)}  # there was no account
    assert marketing.fund("eur", 7_000, 12, "first") is True
    assert marketing.fund("eur", 7_000, 12, "first") is False
    with pytest.raises(errors.IdempotencyMismatch):
        marketing.fund("eur", 7_000, 13, "first")
    job = charge(bob, (carol, 1_100), ("platform", 900))
    charge(bob, (carol, 1_900), ("platform", 100))
    lots.catch_up()
    assert worth(carol) == {"": (1_500, 0), "eur": (3_000, 12)}  # 7 and, of 14, the 5 that are left
    assert Marketing.objects.get().used_minor == 12
    wallets.refund(job, 2_000, "sorry")
    wallets.refund(early, 2_000, "sorry too")
    assert worth(carol) == {"": (0, 0), "eur": (1_900, 5)}
    assert Marketing.objects.get().used_minor == 5
    assert proof.check() == []


def test_shares_below_a_cent_add_up_in_the_marketing_account(bob, carol):
    marketing.fund("eur", 10_000, 1_000, "first")
    wallets.grant(bob, 10_000, "gift")
    for _ in range(40):
        charge(bob, (carol, 25), ("platform", 75))
    lots.catch_up()
    assert worth(carol) == {"eur": (1_000, 10)}


def test_the_marketing_account_is_not_emptied_below_what_it_paid(bob, carol):
    marketing.fund("eur", 10_000, 10, "first")
    wallets.grant(bob, 1_000, "gift")
    charge(bob, (carol, 500), ("platform", 500))
    lots.catch_up()
    assert worth(carol) == {"eur": (500, 5)}
    refused(IntegrityError, marketing.fund, "eur", 10_000, -6, "too much")
    assert marketing.fund("eur", 10_000, -5, "what is left") is True
    assert proof.check() == []


CHARGES = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@given(CHARGES, st.booleans(), st.data())
def test_parts_of_a_refund_sum_to_it_and_all_of_them_to_the_charge(amounts, with_platform, data):
    ids = [PLATFORM_ID if with_platform and not number else 100 + number for number in range(len(amounts))]
    back = dict.fromkeys(ids, 0)
    shares = dict(zip(ids, amounts, strict=True))
    left, total = sum(amounts), sum(amounts)
    while left:
        amount = data.draw(st.integers(1, left))
        given_now = takebacks.apportion([Charged(each, shares[each], back[each]) for each in ids], amount)
        assert sum(given_now.values()) == amount
        assert all(part > 0 for part in given_now.values())
        for each, part in given_now.items():
            back[each] += part
        left -= amount
        for each in ids:
            fair = shares[each] * (total - left) / total
            assert 0 <= back[each] <= shares[each]
            assert abs(back[each] - fair) <= len(ids)
            if PLATFORM_ID in shares and each != PLATFORM_ID and len(ids) == 2:
                assert back[each] == shares[each] * (total - left) // total
    assert back == shares


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM billing_earning", "the earnings say 0"),
        ("UPDATE billing_earning SET amount = amount + 1", "draws say"),
        ("UPDATE billing_earning SET money_minor = money_minor + 1", "draws say"),
        ("UPDATE billing_earning SET back = back + 1", "draws say"),
        ("UPDATE billing_earning SET currency = 'usd'", "draws say"),
        ("UPDATE billing_earning SET owed = 1", "1 are away from its earnings, 0 are owed"),
        ("DELETE FROM billing_transfer WHERE kind = 'refund'", "the earnings say"),
    ],
)
def test_damage_to_earnings_is_found(bob, carol, sql, said):
    wallets.purchase(bob, 1_000, 1_000, "eur", "pi_1")
    wallets.refund(charge(bob, (carol, 100), ("platform", 100)), 50, "sorry")
    assert proof.check() == []
    damage(sql)
    found = [line for line in proof.check() if not line.startswith("constraint")]
    assert [line for line in found if said in line], found


def test_a_guard_keeps_the_terms_of_an_earning(bob, carol):
    wallets.purchase(bob, 1_000, 1_000, "eur", "pi_1")
    charge(bob, (carol, 100), ("platform", 100))
    lots.catch_up()
    for column in ("amount = 1", "money_minor = 1", "currency = 'usd'", "maker_id = 2", "back = -1"):
        with nothing_moves(), pytest.raises(Exception, match="keeps its terms"), connection.cursor() as cursor:
            cursor.execute(f"UPDATE billing_earning SET {column}")
