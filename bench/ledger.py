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
import subprocess
import sys
from typing import Any

from bench.ledger_books import WALLETS, configure
from bench.ledger_clients import Client, Turn, ask, run_pgbench
from bench.ledger_tables import CONTENDERS, percentile, summary, table
from devstack import postgres, servers
from marketplace import addresses

CLIENTS = 8
BY_CLIENTS = (1, 2, 4, 8, 16)
SCENARIOS = ("1,000 wallets", "one hot wallet")


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description="Holds and captures a second.")
    parser.add_argument("--quick", action="store_true", help="three rounds instead of ten")
    parser.add_argument("--transfers", type=int, default=0, help="of a second server's history (none)")
    arguments = parser.parse_args()
    main(arguments.quick, arguments.transfers)
