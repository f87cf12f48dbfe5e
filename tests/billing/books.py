"""What the tests of billing share: proof that nothing moved, and damage past the guards."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from billing.tokens import proof

HOUR = timedelta(hours=1)
CONSTRAINTS = {
    "billing_wallet": ("wallet_never_overdrawn", "wallet_summed_stores_nothing"),
    "billing_transfer": (
        "transfer_amount_positive",
        "transfer_between_two",
        "transfer_kind_has_reference",
        "transfer_of_a_customer_has_balance",
    ),
    "billing_hold": (
        "hold_captured_within_amount",
        "hold_refunded_within_captured",
        "hold_captured_says_so",
        "hold_resolved_has_time",
        "hold_amount_positive",
    ),
    "billing_lot": ("lot_within_amount", "lot_kind_has_price", "lot_empty_is_paid_for", "lot_spent_within_price"),
    "billing_draw": ("draw_money_follows_amount",),
    "billing_clawback": ("clawback_within_amount", "clawback_settled_says_how"),
    "billing_earning": ("earning_within_amount", "earning_within_worth", "earning_worth_has_currency"),
    "billing_purse": ("purse_in_range",),
    "billing_payout": ("payout_in_range", "payout_done_says_how"),
    "billing_exchange": ("exchange_in_range",),
    "billing_marketing": ("marketing_within_funds",),
    "billing_funding": ("funding_moves",),
}


def rows() -> list[Any]:
    """Every wallet, hold, transfer, lot, draw, claw-back, and what makers have, as text."""
    tables = ("wallet", "hold", "transfer", "lot", "draw", "clawback", "earning", "purse", "exchange", "payout",
              "marketing")  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(f"SELECT r::text FROM billing_{table} r" for table in tables) + " ORDER BY 1")
        return cursor.fetchall()


class _Undo(Exception):
    pass


@contextmanager
def nothing_moves() -> Iterator[None]:
    """Whatever was tried inside left the books as they were.

    What the database itself refused has broken its transaction; that is rolled back to where it began.
    """
    before = rows()
    try:
        with transaction.atomic():
            yield
            if connection.connection.info.transaction_status.name == "INERROR":
                raise _Undo
    except _Undo:
        pass
    assert rows() == before
    assert proof.check() == []


def lapse(*lots: UUID) -> None:
    """These lots, or all that ever expire, have expired just now."""
    chosen = "id = ANY (%s)" if lots else "expires_at IS NOT NULL"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        sql = f"UPDATE billing_lot SET expires_at = statement_timestamp() WHERE {chosen}"
        cursor.execute(sql, [list(lots)] if lots else [])
        cursor.execute("SET LOCAL session_replication_role = origin")


def damage(sql: str) -> None:
    """Runs `sql` past triggers and constraints, inside the test's own transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL session_replication_role = replica")
        for table, names in CONSTRAINTS.items():
            for name in names:
                cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        cursor.execute(sql)


def refused(error: type[Exception], verb: Any, *arguments: Any) -> None:
    """The verb raises exactly this error, and no row of the books differs afterwards."""
    before = rows()
    with pytest.raises(error) as caught, transaction.atomic():
        verb(*arguments)
    assert caught.type is error
    assert rows() == before


def repeat(verb: Any, *arguments: Any) -> None:
    """The verb says that this was done before, and no row of the books differs afterwards."""
    before = rows()
    assert verb(*arguments) is False
    assert rows() == before
