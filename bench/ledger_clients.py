"""The clients of `bench.ledger`, each in a process of its own, and pgbench: they make pairs and time each."""

from __future__ import annotations

import json
import random
import re
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

from bench.ledger_books import CHARGED, DRY_OWNER, HELD, configure
from devstack import postgres
from marketplace import addresses

HOUR = timedelta(hours=1)

Latencies = list[int]
"""Microseconds, one for each pair."""
Turn = tuple[float, Latencies]
"""Pairs a second, and how long each took."""


class Client:
    """A client: a process with its own connection that measures when asked."""

    def __init__(self, contender: str, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.ledger_clients", contender, url],
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


if __name__ == "__main__":
    serve(*sys.argv[1:])
