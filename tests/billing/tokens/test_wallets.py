"""Every verb of the wallet: what it does, what it refuses, and that a repeat or a refusal moves nothing."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import DataError, connection, transaction

from billing import amounts
from billing.errors import (
    ChargeAboveHold,
    HoldExists,
    HoldNotDue,
    HoldResolved,
    IdempotencyMismatch,
    InsufficientTokens,
    NoWallet,
    RefundAboveCapture,
    UnknownHold,
)
from billing.models import PLATFORM_ID, Hold, Transfer, Wallet
from billing.tokens import holds, ledger, proof, wallets
from billing.tokens.wallets import Balance, Captured, Share
from tests.billing.books import HOUR, nothing_moves

pytestmark = pytest.mark.django_db

MOMENT = timedelta(microseconds=1)


def transfers(reference) -> list[tuple[str, int, str]]:
    """(kind, milli-Tokens, the target's kind) of each transfer of a hold."""
    found = Transfer.objects.filter(reference=reference).order_by("id")
    return list(found.values_list("kind", "amount", "target__kind"))


def test_a_hold_sets_tokens_aside_and_moves_none(alice):
    before = Transfer.objects.count()
    wallets.hold(alice, 600_000, uuid4(), HOUR)
    assert wallets.balance(alice) == Balance(available=400_000, held=600_000, total=1_000_000)
    assert Transfer.objects.count() == before
    assert proof.check() == []


def test_the_last_milli_token_can_be_held(alice):
    wallets.hold(alice, 1_000_000, uuid4(), HOUR)
    assert wallets.balance(alice).available == 0
    with nothing_moves(), pytest.raises(InsufficientTokens):
        wallets.hold(alice, 1, uuid4(), HOUR)


def test_a_hold_larger_than_what_is_available_is_refused(alice, held):
    with nothing_moves(), pytest.raises(InsufficientTokens) as refused:
        wallets.hold(alice, 400_001, uuid4(), HOUR)
    assert (refused.value.available, refused.value.needed) == (400_000, 400_001)


def test_the_penniless_and_the_unknown_hold_nothing(bob):
    with nothing_moves(), pytest.raises(InsufficientTokens):
        wallets.hold(bob, 1, uuid4(), HOUR)
    with nothing_moves(), pytest.raises(NoWallet):
        wallets.hold(uuid4(), 1, uuid4(), HOUR)


def test_a_creators_wallet_can_neither_be_read_nor_held_nor_granted(carol):
    with nothing_moves():
        with pytest.raises(NoWallet):
            wallets.balance(carol)
        with pytest.raises(NoWallet):
            wallets.hold(carol, 1, uuid4(), HOUR)
        with pytest.raises(NoWallet):
            wallets.grant(carol, 1, "for carol")


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_hold_must_last(alice, seconds):
    with nothing_moves(), pytest.raises(ValueError, match="last"):
        wallets.hold(alice, 1, uuid4(), timedelta(seconds=seconds))


@pytest.mark.parametrize("ended", ["held", "captured", "released"])
def test_a_reference_is_held_once_in_its_life(alice, held, ended):
    if ended == "captured":
        wallets.capture(held, 1)
    elif ended == "released":
        wallets.release(held)
    with nothing_moves(), pytest.raises(HoldExists):
        wallets.hold(alice, 1, held, HOUR)


def test_a_capture_charges_and_releases_the_rest(alice, held):
    assert wallets.capture(held, 250_000) == Captured(charged=250_000, released=350_000)
    assert wallets.balance(alice) == Balance(available=750_000, held=0, total=750_000)
    assert transfers(held) == [("capture", 250_000, "platform")]
    assert proof.check() == []


def test_a_capture_of_everything_releases_nothing(alice, held):
    assert wallets.capture(held, 600_000) == Captured(charged=600_000, released=0)
    assert wallets.balance(alice) == Balance(available=400_000, held=0, total=400_000)


def test_a_charge_above_the_hold_is_refused_although_the_wallet_could_pay(held):
    with nothing_moves(), pytest.raises(ChargeAboveHold):
        wallets.capture(held, 600_001)


def test_other_holds_of_the_wallet_stay(alice, held):
    other = uuid4()
    wallets.hold(alice, 300_000, other, HOUR)
    wallets.capture(held, 500_000)
    assert wallets.balance(alice) == Balance(available=200_000, held=300_000, total=500_000)
    wallets.release(other)
    assert wallets.balance(alice) == Balance(available=500_000, held=0, total=500_000)


def test_a_released_hold_charges_nothing(alice, held):
    assert wallets.release(held) == 600_000
    assert wallets.balance(alice) == Balance(available=1_000_000, held=0, total=1_000_000)
    assert transfers(held) == []
    assert proof.check() == []


def test_a_hold_that_ran_out_is_due_and_charges_nothing(alice):
    reference = uuid4()
    wallets.hold(alice, 5, reference, MOMENT)
    assert holds.due() == [reference]
    assert wallets.expire(reference) == 5
    assert holds.due() == []
    assert wallets.balance(alice) == Balance(available=1_000_000, held=0, total=1_000_000)
    assert transfers(reference) == []


def test_due_names_the_longest_overdue_first_and_only_open_holds(alice, held):
    first, second, gone = uuid4(), uuid4(), uuid4()
    for reference in (first, gone, second):
        wallets.hold(alice, 1, reference, MOMENT)
    wallets.release(gone)
    assert holds.due() == [first, second]


def test_every_hold_that_is_due_is_named_however_many_there_are(alice):
    """Those whose jobs fail each time stay due, and must not hide the others."""
    wallets.hold(alice, 1, uuid4(), MOMENT)
    held = Hold.objects.values("wallet_id", "amount", "expires_at").first()
    Hold.objects.bulk_create(Hold(**held, reference=uuid4()) for _ in range(600))
    assert len(holds.due()) == 601


def test_a_hold_does_not_expire_ahead_of_its_time(held):
    with nothing_moves(), pytest.raises(HoldNotDue):
        wallets.expire(held)


def test_a_hold_past_its_time_can_be_captured_until_it_is_expired(alice):
    reference = uuid4()
    wallets.hold(alice, 5, reference, MOMENT)
    wallets.capture(reference, 5)
    with nothing_moves(), pytest.raises(HoldResolved):
        wallets.expire(reference)


RESOLVE = {
    "captured": lambda hold: wallets.capture(hold, 100),
    "released": wallets.release,
    "expired": wallets.expire,
}


@pytest.mark.parametrize("again", RESOLVE)
@pytest.mark.parametrize("once", RESOLVE)
def test_a_hold_is_resolved_once(alice, once, again):
    reference = uuid4()
    wallets.hold(alice, 100, reference, MOMENT)
    RESOLVE[once](reference)
    with nothing_moves(), pytest.raises(HoldResolved) as refused:
        RESOLVE[again](reference)
    assert refused.value.status == once


@pytest.mark.parametrize("verb", RESOLVE)
def test_a_hold_that_never_was_is_unknown(alice, verb):
    with nothing_moves(), pytest.raises(UnknownHold):
        RESOLVE[verb](uuid4())


def test_a_charge_is_shared_between_creators_and_platform(alice, carol, held):
    shares = [Share(carol, 100_000), Share("platform", 390_000), Share(carol, 10_000)]
    wallets.capture(held, 500_000, shares)
    assert sorted(transfers(held)) == [("capture", 110_000, "creator"), ("capture", 390_000, "platform")]
    assert wallets.balance(alice).total == 500_000
    assert proof.check() == []


@pytest.mark.parametrize("parts", [[499_999], [500_001], [250_000, 249_999], []])
def test_shares_that_do_not_sum_to_the_charge_are_refused(carol, held, parts):
    with nothing_moves(), pytest.raises(ValueError, match="sum"):
        wallets.capture(held, 500_000, [Share(carol, part) for part in parts])


def test_a_share_for_somebody_without_a_creators_wallet_is_refused(alice, bob, held):
    for owner in (alice, bob, uuid4()):
        with nothing_moves(), pytest.raises(NoWallet):
            wallets.capture(held, 500_000, [Share("platform", 400_000), Share(owner, 100_000)])


def test_a_share_that_takes_from_another_is_refused(carol, held):
    with nothing_moves(), pytest.raises(ValueError, match="share"):
        wallets.capture(held, 1, [Share("platform", 2), Share(carol, -1)])


def test_a_grant_comes_from_the_mint(bob):
    assert wallets.grant(bob, 7_500, "welcome", memo="a first kiln") is True
    assert wallets.balance(bob) == Balance(available=7_500, held=0, total=7_500)
    (entry,) = ledger.statement(bob)
    assert (entry.kind, entry.amount, entry.reference, entry.memo) == ("grant", 7_500, None, "a first kiln")
    assert proof.check() == []


def test_the_same_top_up_sent_twice_credits_once(bob):
    assert wallets.grant(bob, 7_500, "event 1") is True
    with nothing_moves():
        assert wallets.grant(bob, 7_500, "event 1", memo="again") is False
    assert wallets.grant(bob, 7_500, "event 2") is True
    assert wallets.balance(bob).total == 15_000


def test_a_grants_key_stands_for_one_wallet_and_amount(alice, bob):
    wallets.grant(bob, 7_500, "event 1")
    for owner, amount in ((bob, 7_501), (alice, 7_500)):
        with nothing_moves(), pytest.raises(IdempotencyMismatch):
            wallets.grant(owner, amount, "event 1")


def test_a_grant_to_nobody_is_refused_and_its_key_stays_free(bob):
    with nothing_moves(), pytest.raises(NoWallet):
        wallets.grant(uuid4(), 1, "event 1")
    assert wallets.grant(bob, 1, "event 1") is True


def test_a_grant_past_what_a_wallet_can_count_is_refused(alice):
    with nothing_moves(), pytest.raises(DataError):
        wallets.grant(alice, amounts.LARGEST, "too much")


def test_a_refund_comes_back_from_the_platform(alice, held):
    wallets.capture(held, 500_000)
    assert wallets.refund(held, 200_000, "sorry", memo="blurred") is True
    assert wallets.balance(alice) == Balance(available=700_000, held=0, total=700_000)
    assert transfers(held) == [("capture", 500_000, "platform"), ("refund", 200_000, "customer")]
    assert Transfer.objects.get(kind="refund").source_id == PLATFORM_ID
    assert proof.check() == []


def test_a_refund_takes_from_the_maker_what_the_charge_gave_them(alice, carol, held):
    wallets.capture(held, 500_000, [Share(carol, 100_001), Share("platform", 399_999)])
    wallets.refund(held, 250_000, "half")
    wallets.refund(held, 250_000, "the rest")
    assert wallets.balance(alice).total == 1_000_000
    given = Transfer.objects.filter(source__owner=carol).order_by("id").values_list("amount", flat=True)
    assert list(given) == [50_000, 50_001]
    assert proof.check() == []


def test_a_refund_sent_twice_pays_once(alice, held):
    wallets.capture(held, 500_000)
    assert wallets.refund(held, 300_000, "case 1") is True
    with nothing_moves():
        assert wallets.refund(held, 300_000, "case 1") is False
    assert wallets.balance(alice).total == 800_000


def test_the_last_refund_repeated_is_a_repeat_and_not_one_too_many(held):
    wallets.capture(held, 500_000)
    wallets.refund(held, 500_000, "case 1")
    with nothing_moves():
        assert wallets.refund(held, 500_000, "case 1") is False


def test_all_refunds_together_are_at_most_the_charge(alice, held):
    wallets.capture(held, 500_000)
    wallets.refund(held, 300_000, "case 1")
    with nothing_moves(), pytest.raises(RefundAboveCapture):
        wallets.refund(held, 200_001, "case 2")
    assert wallets.refund(held, 200_000, "case 2") is True
    assert wallets.balance(alice).total == 1_000_000
    with nothing_moves(), pytest.raises(RefundAboveCapture):
        wallets.refund(held, 1, "case 3")


def test_what_was_not_charged_is_not_refunded(held):
    with nothing_moves(), pytest.raises(RefundAboveCapture):
        wallets.refund(held, 1, "case 1")
    wallets.release(held)
    with nothing_moves(), pytest.raises(RefundAboveCapture):
        wallets.refund(held, 1, "case 1")
    with nothing_moves(), pytest.raises(UnknownHold):
        wallets.refund(uuid4(), 1, "case 1")


def test_a_refunds_key_stands_for_one_hold_and_amount(alice, held):
    other = uuid4()
    wallets.hold(alice, 100_000, other, HOUR)
    wallets.capture(held, 500_000)
    wallets.capture(other, 100_000)
    wallets.refund(held, 100_000, "case 1")
    for reference, amount in ((held, 99_999), (other, 100_000)):
        with nothing_moves(), pytest.raises(IdempotencyMismatch):
            wallets.refund(reference, amount, "case 1")


def test_keys_of_grants_and_refunds_never_meet(alice, held):
    wallets.capture(held, 500_000)
    assert wallets.grant(alice, 1, "same") is True
    assert wallets.refund(held, 1, "same") is True
    assert wallets.grant(alice, 1, f"capture:{held}:{PLATFORM_ID}") is True


@pytest.mark.parametrize("key", ["", "x" * 256, None, 7])
def test_a_key_has_1_to_255_characters(alice, held, key):
    wallets.capture(held, 500_000)
    with nothing_moves():
        with pytest.raises(ValueError, match="key"):
            wallets.grant(alice, 1, key)
        with pytest.raises(ValueError, match="key"):
            wallets.refund(held, 1, key)


def test_the_longest_key_in_the_widest_characters_fits(alice):
    assert wallets.grant(alice, 1, "\U0001f3fa" * 255) is True


@pytest.mark.parametrize(
    ("amount", "error"),
    [(0, ValueError), (-1, ValueError), (2**63, ValueError), (1.0, TypeError), (True, TypeError), ("1", TypeError)],
)
def test_amounts_are_positive_whole_numbers(alice, held, amount, error):
    with nothing_moves():
        with pytest.raises(error):
            wallets.hold(alice, amount, uuid4(), HOUR)
        with pytest.raises(error):
            wallets.capture(held, amount)
        with pytest.raises(error):
            wallets.grant(alice, amount, "key")
        with pytest.raises(error):
            wallets.refund(held, amount, "key")


def test_a_verb_is_planned_once_and_not_in_every_call(alice):
    def plans():
        """How often they were reused and made since this connection was opened."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT coalesce(sum(generic_plans), 0), coalesce(sum(custom_plans), 0) FROM pg_prepared_statements"
                " WHERE statement ~ '(held_wallet|resolved) AS'"
            )
            return cursor.fetchone()

    before = plans()
    for _ in range(20):
        wallets.hold(alice, 1_000, reference := uuid4(), HOUR)
        wallets.capture(reference, 400)
    reused, planned = (now - then for now, then in zip(plans(), before, strict=True))
    assert reused >= 30
    assert planned <= 2 * 5


def test_a_wallet_is_opened_once(alice, carol):
    with nothing_moves():
        wallets.create(alice)
        wallets.create(carol, Wallet.Kind.CREATOR)
    wallets.create(alice, Wallet.Kind.CREATOR)
    assert Wallet.objects.filter(owner=alice).count() == 2
    assert wallets.balance(alice).total == 1_000_000


def test_the_statement_is_newest_first_and_adds_up_to_the_balance(alice, bob, held):
    wallets.capture(held, 500_000)
    wallets.refund(held, 200_000, "sorry")
    wallets.grant(bob, 1, "not alice's")
    entries = ledger.statement(alice)
    assert [(entry.kind, entry.amount) for entry in entries] == [
        ("refund", 200_000), ("capture", -500_000), ("grant", 1_000_000),
    ]  # fmt: skip
    assert sum(entry.amount for entry in entries) == wallets.balance(alice).total
    assert ledger.statement(uuid4()) == []


def test_the_statement_is_read_page_by_page_without_gap_or_repeat(bob):
    for number in range(7):
        wallets.grant(bob, number + 1, f"grant {number}")
    pages, before = [], None
    while page := ledger.statement(bob, before_id=before, limit=3):
        pages.append([entry.amount for entry in page])
        before = page[-1].id
    assert pages == [[7, 6, 5], [4, 3, 2], [1]]


@pytest.mark.django_db(transaction=True)
def test_a_plan_made_while_the_books_were_empty_scans_no_table_later(alice):
    scans = "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE relname LIKE 'billing_%' ORDER BY 1"
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE billing_hold, billing_wallet, billing_transfer")
        with transaction.atomic():
            cursor.execute(scans)
            before = cursor.fetchall()
            for reference in [uuid4() for _ in range(20)]:
                wallets.hold(alice, 1, reference, HOUR)
                wallets.capture(reference, 1)
            cursor.execute(scans)
            assert cursor.fetchall() == before
