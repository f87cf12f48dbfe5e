"""The wallets beside a model of a few dictionaries: after every step of every story both say the same."""

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from books import HOUR, rows
from django.db import transaction
from django.db.models import Sum
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from billing import errors, ledger, wallets
from billing.models import Hold, Transfer, Wallet
from billing.wallets import Balance, Captured, Share

MOMENT = timedelta(microseconds=1)
OWNERS = (UUID(int=1), UUID(int=2))
CREATOR = UUID(int=3)
LARGEST = 6
amounts = st.integers(1, LARGEST)
owners = st.sampled_from(OWNERS)
keys = st.sampled_from("abcd")


class Books(RuleBasedStateMachine):
    """Every rule works out from the model what must happen, has it done, and compares.

    The model: Tokens that each wallet has, each hold by reference, and what each idempotency key stands for.
    """

    references = Bundle("references")
    charged = Bundle("charged")

    def __init__(self) -> None:
        super().__init__()
        self.story = transaction.atomic()
        self.story.__enter__()
        self.total = dict.fromkeys(OWNERS, 0)
        self.holds: dict[UUID, dict[str, Any]] = {}
        self.keys: dict[tuple[str, str], tuple[Any, int]] = {}
        self.summed: Counter[str] = Counter()
        self.moves = 0
        for owner in OWNERS:
            wallets.open(owner)
            self.grant(owner, 2 * LARGEST, f"start {owner}")
        wallets.open(CREATOR, Wallet.Kind.CREATOR)

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.story.__exit__(None, None, None)

    def available(self, owner: UUID) -> int:
        held = sum(hold["amount"] for hold in self.open_holds() if hold["owner"] == owner)
        return self.total[owner] - held

    def open_holds(self) -> list[dict[str, Any]]:
        return [hold for hold in self.holds.values() if hold["status"] == "held"]

    def refused(self, error: type[Exception], verb: Any, *arguments: Any) -> None:
        """The verb raises exactly this error, and no row of the books differs afterwards."""
        before = rows()
        with pytest.raises(error) as caught, transaction.atomic():
            verb(*arguments)
        assert caught.type is error
        assert rows() == before

    @rule(owner=owners, amount=amounts, key=keys)
    def grant(self, owner, amount, key):
        standing = self.keys.get(("grant", key))
        if standing is None:
            assert wallets.grant(owner, amount, key) is True
            self.keys["grant", key] = (owner, amount)
            self.total[owner] += amount
            self.summed["mint"] -= amount
            self.moves += 1
        elif standing == (owner, amount):
            self.repeat(wallets.grant, owner, amount, key)
        else:
            self.refused(errors.IdempotencyMismatch, wallets.grant, owner, amount, key)

    def repeat(self, verb: Any, *arguments: Any) -> None:
        before = rows()
        assert verb(*arguments) is False
        assert rows() == before

    @rule(target=references, owner=owners, amount=amounts, expires_in=st.sampled_from([MOMENT, HOUR]))
    def hold(self, owner, amount, expires_in):
        reference = uuid4()
        if self.available(owner) < amount:
            self.refused(errors.InsufficientTokens, wallets.hold, owner, amount, reference, expires_in)
            return multiple()
        wallets.hold(owner, amount, reference, expires_in)
        self.holds[reference] = {
            "owner": owner,
            "amount": amount,
            "status": "held",
            "captured": 0,
            "refunded": 0,
            "due": expires_in is MOMENT,
        }
        return reference

    @rule(reference=references, owner=owners, amount=amounts)
    def hold_again(self, reference, owner, amount):
        short = self.available(owner) < amount
        error = errors.InsufficientTokens if short else errors.HoldExists
        self.refused(error, wallets.hold, owner, amount, reference, HOUR)

    @rule(target=charged, reference=references, charge=amounts, share=st.integers(0, LARGEST - 1))
    def capture(self, reference, charge, share):
        share = min(share, charge - 1)
        shares = [Share(CREATOR, share), Share("platform", charge - share)] if share else None
        arguments = (reference, charge, shares)
        hold = self.holds[reference]
        if hold["status"] != "held":
            self.refused(errors.HoldResolved, wallets.capture, *arguments)
        elif charge > hold["amount"]:
            self.refused(errors.ChargeAboveHold, wallets.capture, *arguments)
        else:
            assert wallets.capture(*arguments) == Captured(charge, hold["amount"] - charge)
            hold |= {"status": "captured", "captured": charge}
            self.total[hold["owner"]] -= charge
            self.summed.update(creator=share, platform=charge - share)
            self.moves += 2 if share else 1
            return reference
        return multiple()

    @rule(reference=references)
    def release(self, reference):
        hold = self.holds[reference]
        if hold["status"] != "held":
            self.refused(errors.HoldResolved, wallets.release, reference)
        else:
            assert wallets.release(reference) == hold["amount"]
            hold["status"] = "released"

    @rule(reference=references)
    def expire(self, reference):
        hold = self.holds[reference]
        if hold["status"] != "held":
            self.refused(errors.HoldResolved, wallets.expire, reference)
        elif not hold["due"]:
            self.refused(errors.HoldNotDue, wallets.expire, reference)
        else:
            assert wallets.expire(reference) == hold["amount"]
            hold["status"] = "expired"

    @rule(reference=charged, amount=st.integers(1, 3), key=keys)
    def refund(self, reference, amount, key):
        hold = self.holds[reference]
        standing = self.keys.get(("refund", key))
        if standing == (reference, amount):
            self.repeat(wallets.refund, reference, amount, key)
        elif standing is not None:
            self.refused(errors.IdempotencyMismatch, wallets.refund, reference, amount, key)
        elif hold["refunded"] + amount > hold["captured"]:
            self.refused(errors.RefundAboveCapture, wallets.refund, reference, amount, key)
        else:
            assert wallets.refund(reference, amount, key) is True
            self.keys["refund", key] = (reference, amount)
            hold["refunded"] += amount
            self.total[hold["owner"]] += amount
            self.summed["platform"] -= amount
            self.moves += 1

    @invariant()
    def every_balance_is_the_models(self):
        for owner, total in self.total.items():
            free = self.available(owner)
            assert wallets.balance(owner) == Balance(available=free, held=total - free, total=total)
            assert free >= 0

    @invariant()
    def every_hold_is_the_models(self):
        found = Hold.objects.values_list("reference", "wallet__owner", "amount", "status", "captured", "refunded")
        names = ("owner", "amount", "status", "captured", "refunded")
        assert {row[0]: row[1:] for row in found} == {
            reference: tuple(hold[name] for name in names) for reference, hold in self.holds.items()
        }

    @invariant()
    def what_is_due_is_what_the_model_has_left_open_for_too_long(self):
        assert set(wallets.due()) == {
            reference for reference, hold in self.holds.items() if hold["status"] == "held" and hold["due"]
        }

    @invariant()
    def the_transfers_add_up_to_the_models_sums(self):
        assert Transfer.objects.count() == self.moves
        for owner, total in self.total.items():
            assert sum(entry.amount for entry in ledger.statement(owner, limit=1_000)) == total
        came, went = (self.sums(side) for side in ("target", "source"))
        came.subtract(went)
        assert +came == +self.summed
        assert -came == -self.summed
        assert sum(self.summed.values()) + sum(self.total.values()) == 0

    @staticmethod
    def sums(side: str) -> Counter[str]:
        """milli-Tokens by the kind of the wallet on this side of a transfer, customers' left out."""
        summed = Transfer.objects.exclude(**{f"{side}__kind": "customer"}).values_list(f"{side}__kind")
        return Counter(dict(summed.annotate(Sum("amount"))))

    @invariant()
    def the_ledger_proves_itself(self):
        assert ledger.check() == []


@pytest.mark.django_db
def test_every_story_ends_as_the_model_says():
    run_state_machine_as_test(
        Books,
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
