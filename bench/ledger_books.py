"""The books that `bench.ledger` measures on: sets them up, fills them with a long history, traces lots, proves them."""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction

from marketplace import environment

WALLETS = 1_000
HELD, CHARGED = 100_000, 80_000
FUNDS = 10**12
DRY_PAIRS = 200
DRY_OWNER = UUID(int=WALLETS + 1)
CHUNK = 500_000

# Capture number n (from 0) is of wallet n modulo WALLETS. References ascend, like those of jobs.
_HISTORY = f"""
WITH pair AS (
    SELECT n, payer.id AS wallet, payer.transfer, ('01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS job,
           {FUNDS} - {CHARGED} * (n / {WALLETS} + 1) AS balance
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
    JOIN bench_payer AS payer ON payer.number = n %% {WALLETS}
),
held AS (
    INSERT INTO billing_hold (wallet_id, reference, amount, status, captured, expires_at, resolved_at)
    SELECT wallet, job, {HELD}, 'captured', {CHARGED}, now(), now() FROM pair
),
moved AS (
    INSERT INTO billing_transfer (source_id, target_id, amount, kind, reference, idempotency_key, memo, balance)
    SELECT wallet, 2, {CHARGED}, 'capture', job, 'capture:' || job || ':2', '', balance FROM pair ORDER BY n
    RETURNING id, source_id, amount
)
INSERT INTO billing_draw (lot_id, transfer_id, amount, money_minor)
SELECT lot.id, moved.id, moved.amount, 0 FROM moved JOIN billing_lot AS lot ON lot.wallet_id = moved.source_id
"""
_PAYERS = f"""
CREATE TEMPORARY TABLE bench_payer AS
SELECT wallet.id, ('x' || right(owner::text, 12))::bit(48)::bigint - 1 AS number, lot.transfer_id AS transfer
FROM billing_wallet AS wallet JOIN billing_lot AS lot ON lot.wallet_id = wallet.id
WHERE ('x' || right(owner::text, 12))::bit(48)::bigint <= {WALLETS}
"""
_CLOSE = f"""
UPDATE billing_wallet AS wallet SET balance = {FUNDS} - moved.sum FROM (
    SELECT source_id, sum(amount) AS sum FROM billing_transfer WHERE kind = 'capture' GROUP BY 1) AS moved
WHERE moved.source_id = wallet.id;
UPDATE billing_lot AS lot SET remaining = wallet.balance FROM billing_wallet AS wallet
WHERE wallet.id = lot.wallet_id AND wallet.id IN (SELECT id FROM bench_payer);
INSERT INTO billing_lotcursor (wallet_id, last_transfer_id)
SELECT source_id, max(id) FROM billing_transfer WHERE kind = 'capture' GROUP BY 1;
INSERT INTO billing_spending (wallet_id, quarter, amount)
SELECT wallet_id, date_bin('15 minutes', resolved_at, 'epoch'), sum(captured) FROM billing_hold
WHERE status = 'captured' GROUP BY 1, 2
"""
_SECONDARY = """
SELECT indexrelid::regclass::text, indexdef FROM pg_index JOIN pg_indexes ON indexname = indexrelid::regclass::text
WHERE indrelid = ANY (ARRAY['billing_transfer', 'billing_hold', 'billing_draw']::regclass[])
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


def configure(url: str) -> None:
    """Configure Django with billing and hordak, on the marketplace's database settings."""
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "mptt", "hordak", "billing"],
        DATABASES={"default": environment.database(url)},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DEFAULT_CURRENCY="EUR",
        USE_TZ=True,
    )
    django.setup()


def prepare(transfers: int) -> dict[str, Any]:
    """Set up the tables, rich wallets and so many past captures; return what the machine and the server are."""
    call_command("migrate", verbosity=0)
    with transaction.atomic():
        _open_wallets()
    history = fill(transfers) if transfers else {}
    with connection.cursor() as cursor:
        shown = {}
        for name in ("server_version", "fsync", "synchronous_commit", "wal_sync_method"):
            cursor.execute(f"SHOW {name}")
            shown[name] = cursor.fetchone()[0]
    assert shown["fsync"] == shown["synchronous_commit"] == "on"
    versions = {"python": platform.python_version(), "django": django.get_version()}
    return shown | versions | {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)} | history


def _open_wallets() -> None:
    from hordak.models import Account
    from moneyed import Money

    from billing.tokens import wallets

    for number in range(1, WALLETS + 1):
        wallets.create(UUID(int=number))
        wallets.grant(UUID(int=number), FUNDS, str(number))
    wallets.create(DRY_OWNER)
    wallets.grant(DRY_OWNER, DRY_PAIRS * HELD + 1, "dry")
    capital = Account.objects.create(name="capital", type="EQ", currencies=["EUR"])
    Account.objects.create(name="revenue", type="AS", currencies=["EUR"])
    for number in range(1, WALLETS + 1):
        account = Account.objects.create(name=f"wallet {number}", type="AS", currencies=["EUR"])
        Account.objects.create(name=f"held {number}", type="AS", currencies=["EUR"])
        capital.transfer_to(account, Money(FUNDS // 10_000, "EUR"))


def fill(transfers: int) -> dict[str, Any]:
    """Write a history of so many captures with holds, draws, lots and cursors; return seconds, and GB on disk."""
    from billing.models import PLATFORM_ID
    from billing.tokens import rollups

    begun = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off; SET maintenance_work_mem = '512MB'; SET enable_seqscan = on")
        cursor.execute("SET session_replication_role = replica")  # no foreign keys, no triggers
        cursor.execute(_PAYERS)
        with _without_indexes(cursor):
            for first in range(0, transfers, CHUNK):
                cursor.execute(_HISTORY, {"first": first, "last": min(first + CHUNK, transfers) - 1})
        cursor.execute(_CLOSE)
        cursor.execute("RESET ALL")
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")
        filled = time.monotonic()
        rollups.roll_up()
        rolled = time.monotonic()
        assert rollups.balance(PLATFORM_ID) == transfers * CHARGED
        read = time.monotonic()
        cursor.execute("SELECT pg_database_size(current_database())")
        (size,) = cursor.fetchone()
    connection.close()  # its settings differ from the clients'
    return {
        "fill_seconds": round(filled - begun),
        "gigabytes": round(size / 1e9, 1),
        "roll_up_seconds": round(rolled - filled, 1),
        "balance_read_ms": round(1000 * (read - rolled), 1),
    }


@contextmanager
def _without_indexes(cursor: Any) -> Iterator[None]:
    """Drop the indexes that are not constraints, and build them again afterwards, which is quicker."""
    cursor.execute(_SECONDARY)
    found = cursor.fetchall()
    for name, _ in found:
        cursor.execute(f"DROP INDEX {name}")
    yield
    for _, definition in found:
        cursor.execute(definition)


def trace() -> dict[str, Any]:
    """Let the lots follow all recent captures, like the periodic task; return the seconds it took."""
    from billing.tokens import lots

    begun = time.monotonic()
    return {"wallets": lots.catch_up(), "seconds": time.monotonic() - begun}


def prove(bought: int) -> dict[str, Any]:
    """Prove that the emptied wallet paid for `bought` pairs and no more, and that all the books add up."""
    from billing.models import Hold, Transfer
    from billing.tokens import proof, wallets

    left = wallets.balance(DRY_OWNER)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM billing_wallet WHERE balance < held OR held < 0")
        (overdrafts,) = cursor.fetchone()
        cursor.execute("SET enable_seqscan = on")
    assert bought == DRY_PAIRS, f"{bought} pairs were bought for the price of {DRY_PAIRS}"
    assert (left.total, left.held) == (1, 0), left
    assert overdrafts == 0, f"{overdrafts} overdrafts"
    begun = time.monotonic()
    violations = proof.check()
    assert not violations, violations
    counted = {"holds": Hold.objects.count(), "transfers": Transfer.objects.count()}
    found = {"overdrafts": overdrafts, "violations": len(violations), "ran_dry_after": bought}
    return found | counted | {"check_seconds": round(time.monotonic() - begun, 1)}


def analyze() -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One verb on the books at a database, for bench.ledger.")
    parser.add_argument("verb", choices=["prepare", "analyze", "trace", "prove"])
    parser.add_argument("url")
    parser.add_argument("number", type=int, nargs="?")
    given = parser.parse_args()
    configure(given.url)
    verbs: dict[str, Any] = {"prepare": prepare, "analyze": analyze, "trace": trace, "prove": prove}
    print(json.dumps(verbs[given.verb](*([] if given.number is None else [given.number]))))
