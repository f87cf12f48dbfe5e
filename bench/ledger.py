"""Measures how fast Tokens are held and captured, beside pgbench and django-hordak: `python -m bench.ledger [--quick]`.

A pair is a hold of 100 Tokens and its capture at 80, each committed on its own, on a PostgreSQL of the
benchmark's own with fsync and synchronous_commit on. Eight clients, each with one connection kept open:

    kiln      eight Python processes calling `wallets.hold` and `wallets.capture` through Django's settings
    pgbench   the same two statements, prepared, from PostgreSQL's own C client: what the database can do
    hordak    eight Python processes moving Money between django-hordak accounts, with a lock and a balance check

Statistics are gathered once, after a round to warm up. Kiln's connections stay open and keep their plans; on a table
that was analysed while empty they keep a sequential scan until it is analysed again (by autovacuum). pgbench connects,
and plans, anew for each turn.

All take turns in each round, so that ratios compare neighbours in time; a ratio is the median over the rounds. After
the rounds of a scenario the lots follow everything that Kiln captured in it; "with lots" is the rate of all of Kiln's
pairs over its turns and that time together, as if nothing else ran meanwhile.

`--transfers 10000000` also measures on a second server that already has so many transfers; both take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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

from django.db import connection, transaction

from bench.ledger_books import CHARGED, DRY_OWNER, DRY_PAIRS, HELD, WALLETS, configure
from devstack import postgres, servers
from marketplace import addresses

CLIENTS = 8
BY_CLIENTS = (1, 2, 4, 8, 16)
HOUR = timedelta(hours=1)
SCENARIOS = ("1,000 wallets", "one hot wallet")
CONTENDERS = ("kiln", "pgbench", "hordak")

Latencies = list[int]
"""Microseconds, one for each pair."""
Turn = tuple[float, Latencies]
"""Pairs a second, and how long each took."""


def main(quick: bool = False, transfers: int = 0) -> dict[str, Any]:
    """Measure, print a table, and return it JSON-ready. Raises CalledProcessError if the books do not add up."""
    results = contend(quick, transfers)
    print(table(results))
    return results


def contend(quick: bool, transfers: int) -> dict[str, Any]:
    """Measure everything that `main` returns."""
    configure("")  # only for the text of the statements; other processes use the database
    rounds, seconds = (3, 2) if quick else (10, 2)
    histories = {"empty": 0} | ({f"{transfers:,} transfers": transfers} if transfers else {})
    with contextlib.ExitStack() as stops:
        contests = {name: stops.enter_context(contest(history)) for name, history in histories.items()}
        for each in contests.values():
            for scenario in SCENARIOS:
                each.run_round(scenario, 1)
            each.books("analyze")
        found: dict[str, Any] = {name: {"setup": each.setup, "scenarios": {}} for name, each in contests.items()}
        for scenario in SCENARIOS:
            measured: dict[str, list[dict[str, Turn]]] = {name: [] for name in contests}
            for each in contests.values():
                each.books("trace")
            for _ in range(rounds):
                for name, each in contests.items():
                    measured[name].append(each.run_round(scenario, seconds))
            for name, each in contests.items():
                traced = each.books("trace")["seconds"]
                found[name]["scenarios"][scenario] = summary(measured[name], seconds, traced, measured["empty"])
        for name, each in contests.items():
            found[name]["p99 ms by clients"] = {
                scenario: each.by_clients(scenario, 1 if quick else 3 * seconds) for scenario in SCENARIOS
            }
            found[name]["books"] = each.run_dry()
        return found


@contextlib.contextmanager
def contest(transfers: int) -> Any:
    """Run a contest on a server of its own, with its books and all clients."""
    with servers.temporary_home() as home:
        server = postgres.Postgres(home / "postgres", durable=True)
        try:
            with Contest(server.start(), transfers) as contest:
                yield contest
        finally:
            server.stop()


class Contest:
    """The waiting clients of all contenders, and their turns; hordak's tables have no history."""

    def __init__(self, url: str, transfers: int) -> None:
        self.url = url
        self.setup = self.books("prepare", transfers)
        self.contenders = CONTENDERS[:2] if transfers else CONTENDERS
        counts = {"kiln": max(BY_CLIENTS)} | ({} if transfers else {"hordak": CLIENTS})
        self.clients = {name: [Client(name, url) for _ in range(count)] for name, count in counts.items()}
        self.turns = 0

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *_: object) -> None:
        for clients in self.clients.values():
            for client in clients:
                client.stop()

    def books(self, verb: str, *number: int) -> dict[str, Any]:
        """Call a function of `ledger_books` in a process of its own, since Django has one configuration a process."""
        command = [sys.executable, "-m", "bench.ledger_books", verb, self.url, *map(str, number)]
        done = subprocess.run(command, cwd=addresses.ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def run_round(self, scenario: str, seconds: int) -> dict[str, Turn]:
        """Give each contender a turn; the first one rotates."""
        self.turns += 1
        count = len(self.contenders)
        order = [self.contenders[(self.turns + offset) % count] for offset in range(count)]
        return {name: self.run(name, scenario, seconds) for name in order}

    def run(self, contender: str, scenario: str, seconds: int, clients: int = CLIENTS) -> Turn:
        count = 1 if scenario == SCENARIOS[1] else WALLETS
        if contender == "pgbench":
            return run_pgbench(self.url, count, seconds, clients)
        latencies = ask(self.clients[contender][:clients], {"wallets": count, "seconds": seconds})
        return len(latencies) / seconds, latencies

    def by_clients(self, scenario: str, seconds: int) -> dict[str, dict[str, Any]]:
        """Measure Kiln and pgbench with so many clients at once."""
        found: dict[str, dict[str, Any]] = {}
        for clients in BY_CLIENTS:
            row: dict[str, Any] = {}
            for name in CONTENDERS[:2]:
                rate, latencies = self.run(name, scenario, seconds, clients)
                row |= {f"{name}, pairs a second": round(rate), f"{name}, p99 ms": percentile(latencies, 99)}
            found[f"{clients} clients"] = row
        return found

    def run_dry(self) -> dict[str, Any]:
        """Have clients empty one wallet that pays for exactly DRY_PAIRS pairs; then prove all the books."""
        bought = len(ask(self.clients["kiln"][:CLIENTS], {"dry": True, "seconds": 60}))
        return self.books("prove", bought)


class Client:
    """A client: a process with its own connection that measures when asked."""

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
    """Have all clients measure from the same moment on, and return their latencies."""
    task["start"] = time.monotonic() + 0.2
    for client in clients:
        client.say(task)
    return [latency for client in clients for latency in client.hear()]


def serve(contender: str, url: str) -> None:
    """Run a client's process: take tasks and send latencies until the parent hangs up."""
    configure(url)
    verb = VERBS[contender]()
    connection.ensure_connection()
    print("0", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(verb, json.loads(line))), flush=True)


def measure(pair: Callable[[UUID, int], None], task: dict[str, Any]) -> Latencies:
    """Make pairs until the time is over or, if that is the task, until the wallet is empty."""
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
    from billing.tokens import wallets

    def pair(owner: UUID, charge: int) -> None:
        reference = uuid4()
        wallets.hold(owner, HELD, reference, HOUR)
        wallets.capture(reference, charge)

    return pair


def hordak() -> Callable[[UUID, int], None]:
    """Hold: wallet → held, if the locked wallet has enough. Capture: held → revenue, the rest → wallet."""
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


def run_pgbench(url: str, count: int, seconds: int, clients: int) -> Turn:
    """Run the very statements of `wallets`, prepared, on so many connections; connecting is not counted."""
    program = postgres.programs() / "pgbench"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pair.sql").write_text(pgbench_script(count))
        command = [
            program,
            "-n",
            "-M",
            "prepared",
            "-c",
            str(clients),
            "-j",
            str(min(2, clients)),
            "-T",
            str(seconds),
            "-l",
        ]
        done = subprocess.run(
            [*command, "-f", "pair.sql", url], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        logs = [line.split() for log in folder.glob("pgbench_log.*") for line in log.read_text().splitlines()]
    rate = re.search(r"tps = ([0-9.]+) \(without initial connection time\)", done.stdout)
    assert rate, done.stdout
    return float(rate[1]), [int(fields[2]) for fields in logs]


def pgbench_script(count: int) -> str:
    from billing.models import PLATFORM_ID
    from billing.tokens import holds, wallets

    hold = f"WITH {holds.HOLD_CTE} SELECT reference FROM new_hold" % {
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


def summary(
    rounds: Sequence[dict[str, Turn]], seconds: int, traced: float, empty: Sequence[dict[str, Turn]]
) -> dict[str, Any]:
    """Return each contender's median rate, its ratio to pgbench's in the same round, and its latencies.

    For Kiln also the rate with its lots' time, and the ratio to its own rate on the empty server.
    """
    found: dict[str, Any] = {}
    for name in (each for each in CONTENDERS if each in rounds[0]):
        latencies = [latency for measured in rounds for latency in measured[name][1]]
        ratios = [measured[name][0] / measured["pgbench"][0] for measured in rounds]
        found[name] = {
            "pairs_per_second": round(statistics.median(measured[name][0] for measured in rounds)),
            "to_pgbench": round(statistics.median(ratios), 2),
            "to_pgbench_range": [round(min(ratios), 2), round(max(ratios), 2)],
            "p50_ms": percentile(latencies, 50),
            "p99_ms": percentile(latencies, 99),
        }
        slowed = [now[name][0] / then[name][0] for now, then in zip(rounds, empty, strict=True)]
        if rounds is not empty:
            found[name]["to_empty"] = round(statistics.median(slowed), 2)
        if name == "kiln":
            pairs = {each: sum(len(measured[each][1]) for measured in rounds) for each in CONTENDERS[:2]}
            traced *= pairs["kiln"] / sum(pairs.values())  # pgbench captured from the same wallets
            spent = seconds * len(rounds)
            found[name]["lots_seconds"] = round(traced, 1)
            found[name]["to_pgbench_with_lots"] = round(found[name]["to_pgbench"] * spent / (spent + traced), 2)
    return found


def percentile(latencies: Latencies, which: int) -> float:
    """Return a percentile in milliseconds."""
    return round(statistics.quantiles(latencies, n=100)[which - 1] / 1000, 1)


def table(results: dict[str, Any]) -> str:
    """Format the figures as Markdown for `docs/benchmarks.md`."""
    lines = [
        "| hold + capture, 8 clients | pairs/s | of pgbench (range) | with lots | of empty | p50 ms | p99 ms |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for history, measured in results.items():
        for scenario, contenders in measured["scenarios"].items():
            for name, row in contenders.items():
                low, high = row["to_pgbench_range"]
                lines.append(
                    f"| {history}, {scenario}: {name} | {row['pairs_per_second']} | {row['to_pgbench']:.2f} "
                    f"({low:.2f}–{high:.2f}) | {row.get('to_pgbench_with_lots', '')} | {row.get('to_empty', '')} "
                    f"| {row['p50_ms']} | {row['p99_ms']} |"
                )
    for history, measured in results.items():
        lines += ["", *_by_clients(history, measured["p99 ms by clients"]), "", _books(history, measured)]
    return "\n".join(lines)


def _by_clients(history: str, found: dict[str, Any]) -> list[str]:
    lines = [
        f"| {history}, by clients | kiln, pairs/s | p99 ms | pgbench, pairs/s | p99 ms |",
        "| --- |" + " --: |" * 4,
    ]
    for scenario, rows in found.items():
        for clients, row in rows.items():
            lines.append(f"| {scenario}, {clients} | {' | '.join(str(value) for value in row.values())} |")
    return lines


def _books(history: str, measured: dict[str, Any]) -> str:
    books, setup = measured["books"], measured["setup"]
    filled = (
        f" Filled in {setup['fill_seconds']} s, {setup['gigabytes']} GB; rolled up in {setup['roll_up_seconds']} s, "
        f"the platform's balance then read in {setup['balance_read_ms']} ms."
        if "fill_seconds" in setup
        else ""
    )
    return (
        f"{history}: overdrafts {books['overdrafts']}; {books['holds']} holds and {books['transfers']} transfers, "
        f"checked in {books['check_seconds']} s: {books['violations']} violations. A wallet with the price of "
        f"{DRY_PAIRS} pairs, emptied by all clients at once, paid for {books['ran_dry_after']}.{filled} PostgreSQL "
        f"{setup['server_version']}, fsync and synchronous_commit on ({setup['wal_sync_method']}); {setup['cores']} "
        f"cores shared by server and clients, load {setup['load']} at the start; Python {setup['python']}, "
        f"Django {setup['django']}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description="Holds and captures a second.")
    parser.add_argument("--quick", action="store_true", help="three rounds instead of ten")
    parser.add_argument("--transfers", type=int, default=0, help="of a second server's history (none)")
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        serve(*arguments.client)
    else:
        main(arguments.quick, arguments.transfers)
