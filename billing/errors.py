"""The errors that billing raises, as one tree. Not for database errors: those stay Django's.

BillingError
├── NoWallet                 the owner has no wallet of that kind
├── AccountFrozen            a debt is open, so nothing new can be held
├── InsufficientTokens       less is available than the hold or the debt needs
├── SpendCapReached          a hold would exceed what its key or account may spend in a day or month
├── HoldError
│   ├── HoldExists           this reference is held, or was
│   ├── UnknownHold          no hold has this reference
│   ├── HoldResolved         captured, released or expired already
│   ├── HoldNotDue           a hold that cannot expire yet
│   ├── ChargeAboveHold      a charge larger than what was held
│   └── RefundAboveCapture   refunds would exceed what was captured
├── UnknownLot               no paid lot has this id
├── UnknownDebt              no claw-back has this id
├── ClawbackAbovePrice       more money is reported refunded or disputed than the lot cost
├── RefundAboveUnspent       a refund of more than the unspent Tokens of the top-up cost
├── NothingMatured           less has matured of a maker's earnings than is to leave
├── CountryNotPaid           Stripe moves no money to makers there
├── CountryKept              Stripe has an account of this maker in another country
├── NotAPayee                a maker whom Stripe does not pay, or not yet
├── PayoutBelowMinimum       less money has matured than is paid out
├── IdempotencyMismatch      an idempotency key used again for something else
├── UnknownPack              nothing is sold under this name
├── UnknownCurrency          the pack has no price in it
├── CapBelowPrice            a daily cap too low to buy the pack
├── PaymentsUnavailable      Stripe did not answer, or no key is set; a retry may succeed
│   └── PaymentInFlight      the same request is still being answered
├── PaymentsRefused          Stripe refused; a retry would not help
├── BadSignature             a webhook that Stripe did not sign, or signed too long ago
├── PaymentMismatch          the amount paid is not the top-up's price
├── UnknownOperation         (also a ValueError) the price list has no such operation
└── UnknownServiceClass      (also a ValueError) the price list has no such service class
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
    """A payment was refunded or disputed after its Tokens were spent; the debt must be settled first."""

    def __init__(self, owner: UUID) -> None:
        super().__init__(f"{owner} has a debt to settle")
        self.owner = owner


class InsufficientTokens(BillingError):
    """Too few Tokens: `available` and `needed` are milli-Tokens; `available` was read just after the refusal."""

    def __init__(self, available: int, needed: int) -> None:
        super().__init__(f"{needed} milli-Tokens are needed, {available} are available")
        self.available = available
        self.needed = needed


class SpendCapReached(BillingError):
    """A spend cap: `whose` ("key" or "account") may spend `cap` milli-Tokens per `period` ("day" or "month").

    `left` and `needed` are milli-Tokens; the period ends at `resets_at`.
    """

    def __init__(self, whose: str, period: str, cap: int, left: int, needed: int, resets_at: datetime) -> None:
        super().__init__(f"{needed} milli-Tokens are needed, {left} are left of the {whose}'s {cap} a {period}")
        self.whose = whose
        self.period = period
        self.cap = cap
        self.left = left
        self.needed = needed
        self.resets_at = resets_at


class HoldError(BillingError):
    """An operation that the state of the hold under `reference` does not allow."""

    problem = "is in the wrong state"

    def __init__(self, reference: UUID) -> None:
        super().__init__(f"hold {reference} {self.problem}")
        self.reference = reference


class HoldExists(HoldError):
    """A second hold under one reference. A transaction around the refused call must be rolled back."""

    problem = "exists already"


class UnknownHold(HoldError):
    """A reference under which nothing was ever held."""

    problem = "is unknown"


class HoldResolved(HoldError):
    """A hold that was resolved before; `status` says how."""

    def __init__(self, reference: UUID, status: str) -> None:
        self.problem = f"is {status} already"
        super().__init__(reference)
        self.status = status


class HoldNotDue(HoldError):
    """A hold whose time has not run out yet."""

    problem = "has not run out"


class ChargeAboveHold(HoldError):
    """A capture of more than was held."""

    problem = "is smaller than the charge"


class RefundAboveCapture(HoldError):
    """A refund that, with earlier ones, would exceed what the hold was charged."""

    problem = "was not charged that much"


class UnknownLot(BillingError):
    """An id of no paid lot. Granted lots count as unknown, since they have no payment to reverse."""

    def __init__(self, lot: UUID) -> None:
        super().__init__(f"{lot} is not a paid lot")
        self.lot = lot


class UnknownDebt(BillingError):
    """An id of no claw-back."""

    def __init__(self, debt: UUID) -> None:
        super().__init__(f"{debt} is not a debt")
        self.debt = debt


class ClawbackAbovePrice(BillingError):
    """A claw-back that, with earlier ones, would exceed the lot's price."""

    def __init__(self, lot: UUID) -> None:
        super().__init__(f"lot {lot} did not cost that much")
        self.lot = lot


class RefundAboveUnspent(BillingError):
    """A refund above `refundable_minor`: what the unspent Tokens cost, in the currency's smallest unit."""

    def __init__(self, refundable_minor: int) -> None:
        super().__init__(f"the unspent Tokens of this top-up cost {refundable_minor} in the smallest unit")
        self.refundable_minor = refundable_minor


class NothingMatured(BillingError):
    """Earnings that are not there to leave; `ready` milli-Tokens are."""

    def __init__(self, ready: int) -> None:
        super().__init__(f"{ready} milli-Tokens have matured")
        self.ready = ready


class CountryNotPaid(BillingError):
    """A country that Stripe moves no money to; what was earned can be spent as Tokens."""

    def __init__(self, country: str) -> None:
        super().__init__(f"nothing is paid out in {country!r}")
        self.country = country


class CountryKept(BillingError):
    """Another country than that of the account which Stripe has."""

    def __init__(self, country: str) -> None:
        super().__init__(f"the account at Stripe is in {country!r}")
        self.country = country


class NotAPayee(BillingError):
    """A maker who has not told Stripe where to pay, or whom it does not pay any more."""

    def __init__(self, owner: UUID) -> None:
        super().__init__(f"{owner} is not paid by Stripe")
        self.owner = owner


class PayoutBelowMinimum(BillingError):
    """Matured money, in the currency's smallest unit, below the `least` that is paid out."""

    def __init__(self, currency: str, ready_minor: int, least: int) -> None:
        super().__init__(f"{ready_minor} of {currency} have matured, {least} are paid out at least")
        self.currency = currency
        self.ready_minor = ready_minor
        self.least = least


class IdempotencyMismatch(BillingError):
    """An idempotency key that was used with another wallet, hold, lot, amount or price."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key!r} was used for something else")
        self.key = key


class UnknownPack(BillingError):
    """A pack that has no active version."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no pack named {name!r} is sold")
        self.name = name


class UnknownCurrency(BillingError):
    """A currency that the pack has no price in; `known` are those that it has."""

    def __init__(self, currency: str, known: list[str]) -> None:
        super().__init__(f"no price in {currency!r}")
        self.known = known


class CapBelowPrice(BillingError):
    """A daily cap below `price_minor`, the price of one top-up in the currency's smallest unit."""

    def __init__(self, price_minor: int) -> None:
        super().__init__(f"the daily cap is below the price, {price_minor}")
        self.price_minor = price_minor


class PaymentsUnavailable(BillingError):
    """A request with an unknown outcome. `kept`: Stripe stored the error and would repeat it for the same key."""

    def __init__(self, message: str, kept: bool = False) -> None:
        super().__init__(message)
        self.kept = kept


class PaymentInFlight(PaymentsUnavailable):
    """A request that Stripe is still processing under the same key; a retry soon gets its answer."""


class PaymentsRefused(BillingError):
    """A refusal that a retry would not change. `code` and `request_id` are Stripe's, if Stripe refused."""

    kept = True

    def __init__(self, message: str, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class BadSignature(BillingError):
    """A webhook whose content cannot be trusted."""


class PaymentMismatch(BillingError):
    """A payment that arrived but was not credited: the operator must look into it."""


class NotPriced(BillingError, ValueError):
    """A name that the price list has no factor for; there is no fallback price."""

    what = "name"

    def __init__(self, name: Any) -> None:
        super().__init__(f"{self.what} {name!r} is not in the price list")
        self.name = name


class UnknownOperation(NotPriced):
    what = "operation"


class UnknownServiceClass(NotPriced):
    what = "service class"
