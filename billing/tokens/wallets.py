"""Wallets: hold, capture, release, expire, grant, purchase, refund. Amounts are integer milli-Tokens.

Every verb but `refund` is one SQL statement. It is atomic, or part of the transaction that it is called in. If it
changes nothing, a second statement finds out why and raises from the tree in `errors`. The hold is locked first, then
the wallet, and never the platform's row. Two rare things take more: what comes free in a frozen wallet pays its debts
(`debts`), in the same transaction if the caller holds one; and expired Tokens are taken (`lots`) before anything is
held. Not for prices (pricing) or for reading transfers (ledger).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, Literal
from uuid import UUID

from django.db import IntegrityError
from psycopg.errors import UniqueViolation

from billing.amounts import LARGEST
from billing.errors import (
    AccountFrozen,
    BillingError,
    ChargeAboveHold,
    HoldExists,
    HoldNotDue,
    HoldResolved,
    IdempotencyMismatch,
    InsufficientTokens,
    NoWallet,
    UnknownHold,
)
from billing.models import MINT_ID, PLATFORM_ID, Hold, Lot, Transfer, Wallet
from billing.prepared import run
from billing.tokens import debts, holds, ledger, lots, refunds
from billing.tokens.lots import Balance

KEY_LENGTH = 255


@dataclass(frozen=True)
class Captured:
    """The milli-Tokens of a hold that were charged, and those that went back to the wallet."""

    charged: int
    released: int


@dataclass(frozen=True)
class Share:
    """A part of a charge, in milli-Tokens, for the owner of a creator's wallet or for the platform."""

    owner: UUID | Literal["platform"]
    amount: int


_CREATE = """
INSERT INTO billing_wallet (owner, kind) VALUES (%(owner)s::uuid, %(kind)s) ON CONFLICT DO NOTHING
"""

_BALANCE = """
SELECT balance - held, held, balance FROM billing_wallet WHERE owner = %(owner)s::uuid AND kind = 'customer'
"""

_STANDING = """
SELECT frozen, balance - held FROM billing_wallet WHERE owner = %(owner)s::uuid AND kind = 'customer'
"""

_HOLD = f"WITH {holds.HOLD_CTE} SELECT id FROM new_hold"

_CAPTURE = f"""
WITH resolved AS (
    UPDATE billing_hold SET status = 'captured', captured = %(charge)s::bigint,
                            resolved_at = statement_timestamp()
    WHERE reference = %(reference)s::uuid AND status = 'held' AND amount >= %(charge)s::bigint
    RETURNING wallet_id, reference, amount, captured
),
paid AS (
    UPDATE billing_wallet SET balance = balance - resolved.captured, held = held - resolved.amount
    FROM resolved WHERE billing_wallet.id = resolved.wallet_id
    RETURNING billing_wallet.id, resolved.reference, billing_wallet.balance, frozen
),
{ledger.CAPTURES}
SELECT captured, amount - captured, paid.id, frozen FROM resolved, paid
"""

_FREE = """
WITH resolved AS (
    UPDATE billing_hold SET status = %(status)s::text, resolved_at = statement_timestamp()
    WHERE reference = %(reference)s::uuid AND status = 'held'
      AND (%(status)s::text = 'released' OR expires_at <= statement_timestamp())
    RETURNING wallet_id, amount
),
freed AS (
    UPDATE billing_wallet SET held = held - resolved.amount
    FROM resolved WHERE billing_wallet.id = resolved.wallet_id
    RETURNING billing_wallet.id, frozen
)
SELECT amount, freed.id, frozen FROM resolved, freed
"""

_ISSUE = f"""
WITH target AS (
    SELECT id, balance FROM billing_wallet WHERE owner = %(owner)s::uuid AND kind = 'customer' FOR NO KEY UPDATE
),
{ledger.ISSUE},
credited AS (
    UPDATE billing_wallet SET balance = balance + issued.amount
    FROM issued WHERE billing_wallet.id = issued.target_id
    RETURNING billing_wallet.id, frozen
)
SELECT lot.id, credited.id, frozen FROM lot, credited
"""


def create(owner: UUID, kind: Wallet.Kind = Wallet.Kind.CUSTOMER) -> None:
    """Give `owner` an empty wallet of this kind (customer or creator), unless there is one."""
    run(_CREATE, {"owner": owner, "kind": kind.value})


def balance(owner: UUID) -> Balance:
    """Return what the customer has, with expired Tokens not taken yet (`lots.position` takes them). Raises NoWallet."""
    row = run(_BALANCE, {"owner": owner})
    if row is None:
        raise NoWallet(owner)
    return Balance(*row)


def hold(owner: UUID, amount: int, reference: UUID, expires_in: timedelta, spender: UUID | None = None) -> None:
    """Set `amount` aside under `reference`, in the name of `spender`.

    Raises InsufficientTokens, AccountFrozen, NoWallet or HoldExists. If the reference is being captured or released at
    that moment, the two may wait for each other; then PostgreSQL refuses one of them (OperationalError).
    """
    if expires_in <= timedelta(0):
        raise ValueError("a hold must last")
    values = {
        "owner": owner, "amount": _milli(amount), "reference": reference, "spender": spender,
        "expires_in": expires_in,
    }  # fmt: skip
    try:
        held = run(_HOLD, values)
        if held is None and lots.expire_of(owner):
            held = run(_HOLD, values)
    except IntegrityError as error:
        if not isinstance(error.__cause__, UniqueViolation):
            raise
        raise HoldExists(reference) from error
    if held is None:
        raise refusal(owner, amount)


def refusal(owner: UUID, amount: int) -> BillingError:
    """Return the error for a hold that was refused, to be raised: AccountFrozen, InsufficientTokens or NoWallet."""
    row = run(_STANDING, {"owner": owner})
    if row is None:
        return NoWallet(owner)
    frozen, available = row
    return AccountFrozen(owner) if frozen else InsufficientTokens(available, amount)


def capture(reference: UUID, charge: int, shares: Sequence[Share] | None = None) -> Captured:
    """Charge `charge` of what is held and release the rest, once.

    It goes to the platform or is split into `shares`. Raises ValueError if these do not sum to the charge, NoWallet if
    a creator has none, UnknownHold, HoldResolved or ChargeAboveHold. A hold whose time has run out can be captured
    until it is expired.
    """
    _milli(charge, "charge")
    shared = _whole(charge) if shares is None else _shared(charge, shares)
    row = run(_CAPTURE, {"reference": reference, "charge": charge, **shared})
    if row is None:
        raise _unresolvable(reference, otherwise=ChargeAboveHold(reference))
    charged, released, *wallet = row
    _pay_debts(*wallet)
    return Captured(charged, released)


def release(reference: UUID) -> int:
    """Give all of a hold back, once; return its milli-Tokens. Raises UnknownHold or HoldResolved."""
    return _free(reference, Hold.Status.RELEASED)


def expire(reference: UUID) -> int:
    """Give back a hold whose time has run out, as `release` does. Raises HoldNotDue if it has not."""
    return _free(reference, Hold.Status.EXPIRED)


def grant(
    owner: UUID,
    amount: int,
    key: str,
    memo: str = "",
    expires_at: datetime | None = None,
    reference: UUID | None = None,
) -> bool:
    """Give Tokens, as a lot of their own; return True, or False if this `key` already did.

    What is left at `expires_at` is taken back by `lots.expire`; `reference` names the payment that they are a bonus
    of. Raises NoWallet or IdempotencyMismatch.
    """
    return _issue(Transfer.Kind.GRANT, owner, amount, key, reference, memo, expires_at=expires_at) is not None


def purchase(
    owner: UUID,
    amount: int,
    price_minor: int,
    currency: str,
    key: str,
    expires_at: datetime | None = None,
    reference: UUID | None = None,
) -> UUID:
    """Add Tokens that were paid for, as a lot of their own; return its id, also if this `key` already made it.

    The price is in the currency's smallest unit, the currency as Stripe writes it (`eur`); `reference` names the
    payment. Raises NoWallet or IdempotencyMismatch.
    """
    if not isinstance(price_minor, int) or price_minor <= 0:
        raise ValueError("price_minor must be a positive int of the currency's smallest unit")
    if not re.fullmatch("[a-z]{3}", currency):
        raise ValueError("a currency is three small letters")
    lot = _issue(
        Transfer.Kind.PURCHASE, owner, amount, key, reference, price_minor=price_minor, currency=currency,
        expires_at=expires_at,
    )  # fmt: skip
    if lot is None:
        standing = Lot.objects.get(transfer__idempotency_key=_key("purchase", key))
        if (standing.price_minor, standing.currency) != (price_minor, currency):
            raise IdempotencyMismatch(key)
        lot = standing.id
    return lot


def refund(reference: UUID, amount: int, key: str, memo: str = "") -> bool:
    """Give back part or all of a charge, from whom it went to; return True, or False if this `key` already did.

    Raises UnknownHold, RefundAboveCapture (also if nothing was captured) or IdempotencyMismatch.
    """
    return refunds.make(refunds.Refund(reference, _milli(amount), _key("refund", key), memo))


def issued(keys: Iterable[str]) -> set[str]:
    """Return those of the keys under which Tokens were granted or purchased."""
    kinds = (Transfer.Kind.GRANT, Transfer.Kind.PURCHASE)
    stored = {_key(kind.value, key): key for key in keys for kind in kinds}
    found = Transfer.objects.filter(idempotency_key__in=stored)
    return {stored[key] for key in found.values_list("idempotency_key", flat=True)}


def _issue(
    kind: Transfer.Kind,
    owner: UUID,
    amount: int,
    key: str,
    reference: UUID | None = None,
    memo: str = "",
    price_minor: int | None = None,
    currency: str = "",
    expires_at: datetime | None = None,
) -> UUID | None:
    """Return the new lot's id, or None if the same was issued under this key before."""
    stored_key = _key(kind.value, key)
    values = {
        "source": MINT_ID, "owner": owner, "amount": _milli(amount), "kind": kind.value, "key": stored_key,
        "memo": memo, "reference": reference, "price_minor": price_minor, "currency": currency,
        "expires_at": expires_at,
    }  # fmt: skip
    if (row := run(_ISSUE, values)) is not None:
        lot_id, *wallet = row
        _pay_debts(*wallet)
        return lot_id  # type: ignore[no-any-return]
    _expect(stored_key, key, (owner, reference, amount), otherwise=NoWallet(owner))
    return None


def _free(reference: UUID, status: Hold.Status) -> int:
    row = run(_FREE, {"reference": reference, "status": status.value})
    if row is None:
        raise _unresolvable(reference, otherwise=HoldNotDue(reference))
    amount, *wallet = row
    _pay_debts(*wallet)
    return int(amount)


def _pay_debts(wallet_id: int, frozen: bool) -> None:
    if frozen:
        debts.pay(wallet_id)


def _unresolvable(reference: UUID, otherwise: BillingError) -> BillingError:
    """Return the error for a hold that could not be resolved: it is unknown, resolved, or `otherwise`."""
    status = Hold.objects.filter(reference=reference).values_list("status", flat=True).first()
    if status is None:
        return UnknownHold(reference)
    return otherwise if status == Hold.Status.HELD else HoldResolved(reference, status)


def _expect(stored_key: str, key: str, wanted: tuple[UUID, UUID | None, int], otherwise: BillingError) -> None:
    """Raise `otherwise` if there is no transfer under the key, or IdempotencyMismatch if it is not the one wanted."""
    standing = ledger.standing(stored_key)
    if standing is None:
        raise otherwise
    if standing != wanted:
        raise IdempotencyMismatch(key)


def _whole(charge: int) -> dict[str, str]:
    """Return shares that give all of the charge to the platform, as `_CAPTURE` reads them."""
    return {"targets": f"{{{PLATFORM_ID}}}", "amounts": f"{{{charge}}}", "laters": "{0}"}


def _shared(charge: int, shares: Sequence[Share]) -> dict[str, str]:
    split = _split(shares)
    if sum(split.values()) != charge:
        raise ValueError("the shares do not sum to the charge")
    return {
        "targets": _array(split),
        "amounts": _array(split.values()),
        "laters": _array(charge - taken for taken in accumulate(split.values())),
    }


def _split(shares: Sequence[Share]) -> dict[int, int]:
    """Return what each wallet gets, by id. Ids never change, so they can safely be read ahead."""
    owners = [share.owner for share in shares if share.owner != "platform"]
    found = Wallet.objects.filter(owner__in=owners, kind=Wallet.Kind.CREATOR).values_list("owner", "id")
    ids: dict[Any, int] = {"platform": PLATFORM_ID, **dict(found)} if owners else {"platform": PLATFORM_ID}
    split: dict[int, int] = {}
    for share in shares:
        if share.owner not in ids:
            raise NoWallet(UUID(str(share.owner)))
        wallet = ids[share.owner]
        split[wallet] = split.get(wallet, 0) + _milli(share.amount, "share")
    return split


def _array(values: Iterable[int]) -> str:
    """Write an array for PostgreSQL; psycopg would take longer over three lists than over the rest of a capture."""
    return f"{{{','.join(map(str, values))}}}"


def _key(verb: str, key: str) -> str:
    """Return the key as it is stored, so that keys of different verbs never meet."""
    if not isinstance(key, str) or not 0 < len(key) <= KEY_LENGTH:
        raise ValueError(f"a key has 1 to {KEY_LENGTH} characters")
    return f"{verb}:{key}"


def _milli(amount: int, name: str = "amount") -> int:
    """Return the amount if it is a whole, positive number of milli-Tokens that the database can store."""
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise TypeError(f"{name} must be an int of milli-Tokens, not {type(amount).__name__}")
    if not 0 < amount <= LARGEST:
        raise ValueError(f"{name} must be between 1 and {LARGEST} milli-Tokens, not {amount}")
    return amount
