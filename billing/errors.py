"""Everything that billing refuses, as one tree. Not for database faults: those stay Django's.

BillingError
├── NoWallet                 the owner has no wallet of that kind
├── AccountFrozen            a debt is open, so nothing new can be held
├── InsufficientTokens       less is available than the hold or the debt needs
├── SpendCapReached          a hold would spend more than its key or account may in a day or month
├── HoldError
│   ├── HoldExists           this reference is held, or was
│   ├── UnknownHold          no hold has this reference
│   ├── HoldResolved         captured, released or expired already
│   ├── HoldNotDue           expired ahead of its time
│   ├── ChargeAboveHold      a charge larger than what was held
│   └── RefundAboveCapture   refunds would exceed what was captured
├── UnknownLot               no paid lot has this id
├── UnknownDebt              no claw-back has this id
├── ClawbackAbovePrice       more money is said to have gone back than the lot cost
├── RefundAboveUnspent       a refund of more money than the unspent Tokens of the top-up had cost
├── IdempotencyMismatch      a key used again for something else
├── UnknownPack              nothing is sold under this name
├── UnknownCurrency          the pack has no price in it
├── CapBelowPrice            a daily cap under which nothing can be bought
├── PaymentsUnavailable      Stripe did not answer, or no key is set; try again
│   └── PaymentInFlight      the same request is still being answered
├── PaymentsRefused          Stripe will not do this
├── BadSignature             a webhook that Stripe did not sign, or not lately
├── PaymentMismatch          what was paid is not what the top-up costs
├── UnknownOperation         (also a ValueError) the price list does not name it
└── UnknownServiceClass      (also a ValueError) the price list does not name it
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID


class BillingError(Exception):
    """Root of the tree."""


class NoWallet(BillingError):
    """The owner has no wallet."""

    def __init__(self, owner: UUID) -> None:
        super().__init__(f"{owner} has no wallet")
        self.owner = owner


class AccountFrozen(BillingError):
    """A payment went back and what it had bought was spent; the debt must be settled first."""

    def __init__(self, owner: UUID) -> None:
        super().__init__(f"{owner} has a debt to settle")
        self.owner = owner


class InsufficientTokens(BillingError):
    """`available` and `needed` are milli-Tokens; `available` was read just after the refusal."""

    def __init__(self, available: int, needed: int) -> None:
        super().__init__(f"{needed} milli-Tokens are needed, {available} are available")
        self.available = available
        self.needed = needed


class SpendCapReached(BillingError):
    """`whose` ("key" or "account") may spend `cap` milli-Tokens in a `period` ("day" or "month") up to `resets_at`."""

    def __init__(self, whose: str, period: str, cap: int, left: int, needed: int, resets_at: datetime) -> None:
        super().__init__(f"{needed} milli-Tokens are needed, {left} are left of the {whose}'s {cap} a {period}")
        self.whose = whose
        self.period = period
        self.cap = cap
        self.left = left
        self.needed = needed
        self.resets_at = resets_at


class HoldError(BillingError):
    """The verb does not fit the state of the hold named by `reference`."""

    problem = "is in the wrong state"

    def __init__(self, reference: UUID) -> None:
        super().__init__(f"hold {reference} {self.problem}")
        self.reference = reference


class HoldExists(HoldError):
    """A reference is held once. The transaction around the refused call, if any, must be rolled back."""

    problem = "exists already"


class UnknownHold(HoldError):
    """Nothing was ever held under the reference."""

    problem = "is unknown"


class HoldResolved(HoldError):
    """`status` says how the hold ended."""

    def __init__(self, reference: UUID, status: str) -> None:
        self.problem = f"is {status} already"
        super().__init__(reference)
        self.status = status


class HoldNotDue(HoldError):
    """Its time has not run out yet."""

    problem = "has not run out"


class ChargeAboveHold(HoldError):
    """A capture takes at most what was held."""

    problem = "is smaller than the charge"


class RefundAboveCapture(HoldError):
    """All refunds of a hold together are at most its charge."""

    problem = "was not charged that much"


class UnknownLot(BillingError):
    """Granted lots are not known either: no payment of theirs can go back."""

    def __init__(self, lot: UUID) -> None:
        super().__init__(f"{lot} is no paid lot")
        self.lot = lot


class UnknownDebt(BillingError):
    """Nothing was clawed back under this id."""

    def __init__(self, debt: UUID) -> None:
        super().__init__(f"{debt} is no debt")
        self.debt = debt


class ClawbackAbovePrice(BillingError):
    """All that goes back of a payment is at most the lot's price."""

    def __init__(self, lot: UUID) -> None:
        super().__init__(f"lot {lot} did not cost that much")
        self.lot = lot


class RefundAboveUnspent(BillingError):
    """`refundable_minor` is what the unspent Tokens had cost, in the smallest unit of the currency."""

    def __init__(self, refundable_minor: int) -> None:
        super().__init__(f"the unspent Tokens of this top-up had cost {refundable_minor} in the smallest unit")
        self.refundable_minor = refundable_minor


class IdempotencyMismatch(BillingError):
    """The key already stands for another wallet, hold, lot, amount or price."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key!r} was used for something else")
        self.key = key


class UnknownPack(BillingError):
    """No version of it is active."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no pack {name!r} is sold")
        self.name = name


class UnknownCurrency(BillingError):
    """`known` are the currencies that it has a price in."""

    def __init__(self, currency: str, known: list[str]) -> None:
        super().__init__(f"no price in {currency!r}")
        self.known = known


class CapBelowPrice(BillingError):
    """`price_minor` is what one top-up costs."""

    def __init__(self, price_minor: int) -> None:
        super().__init__(f"the daily cap is below the price, {price_minor}")
        self.price_minor = price_minor


class PaymentsUnavailable(BillingError):
    """Nothing is known to have happened. `kept` where Stripe would give the same answer to the same key again."""

    def __init__(self, message: str, kept: bool = False) -> None:
        super().__init__(message)
        self.kept = kept


class PaymentInFlight(PaymentsUnavailable):
    """Stripe has the same request in hand; its answer can be had in a moment."""


class PaymentsRefused(BillingError):
    """Trying again changes nothing. `code` and `request_id` are Stripe's, where it was Stripe that refused."""

    def __init__(self, message: str, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class BadSignature(BillingError):
    """Nothing in it can be believed."""


class PaymentMismatch(BillingError):
    """The money is there and nothing was credited: somebody must look."""


class NotPriced(BillingError, ValueError):
    """The price list has no factor under this name; there is no fallback price."""

    what = "name"

    def __init__(self, name: Any) -> None:
        super().__init__(f"{self.what} {name!r} is not in the price list")
        self.name = name


class UnknownOperation(NotPriced):
    what = "operation"


class UnknownServiceClass(NotPriced):
    what = "service class"
