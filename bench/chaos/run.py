"""One run of a site with its clients, the saboteur and the accountant, and its report."""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from bench.chaos import logs, trainings
from bench.chaos.accountant import Accountant
from bench.chaos.clients import Client
from bench.chaos.listener import Listener
from bench.chaos.memory import Customer, Memory
from bench.chaos.saboteur import KINDS, Fault, Saboteur
from bench.chaos.site import Site
from bench.chaos.stripe_side import StripeSide
from devstack import servers

ACCOUNTS = 12
LOOK_SECONDS = 5.0
START_TOKENS = 60
CAP_OF_KEYS = 40
MAKERS = 5
OWN_MONEY = {"eur": 100_000, "usd": 100_000}
"""Of the platform's, from which makers are paid while customers' money is on its way."""
MARKETING = 2_000_000, 500
"""Cents for 1,000 Tokens that were given away, and how many there are."""
PACK = {"tokens": 17, "bonus": 3, "prices": {"eur": 101, "usd": 113}}


@dataclass
class Report:
    """What was done, the faults that were caused, what the web server logged of them, and the violations found."""

    seed: int
    seconds: float
    operations: dict[str, dict[str, int]]
    faults: dict[str, int]
    figures: dict[str, Any]
    errors: dict[str, int]
    violations: list[str] = field(default_factory=list)

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each kind of operation, the most frequent outcome first."""
        return [
            {"operation": name, "times": sum(outcomes.values()),
             "outcomes": ", ".join(f"{outcome} {times}" for outcome, times in sorted(outcomes.items(), key=_rarest))}
            for name, outcomes in sorted(self.operations.items())
        ]  # fmt: skip

    def tell(self) -> int:
        """Print the report, and return the exit code."""
        total = sum(row["times"] for row in self.table())
        print(f"{total} operations in {self.seconds:.0f} s of chaos, seed {self.seed}")
        for row in self.table():
            print(f"  {row['operation']:30} {row['times']:6}   {row['outcomes']}")
        print(f"{sum(self.faults.values())} faults")
        for name, number in sorted(self.faults.items()):
            print(f"  {name:30} {number:6}")
        print(f"{sum(self.errors.values())} errors of the web server")
        for name, number in sorted(self.errors.items()):
            print(f"  {number:6} {name}")
        for name, figure in self.figures.items():
            print(f"{name}: {figure}")
        for line in self.violations:
            print(f"VIOLATED {line}")
        print(f"{len(self.violations)} violations", flush=True)
        return 1 if self.violations else 0


def main(quick: bool = False, seconds: float = 300, seed: int = 1) -> dict[str, Any]:
    """Return the figures for `python -m bench`. Raises SystemExit if something was violated."""
    report = run(20 if quick else seconds, seed, 60, 32)
    if report.violations:
        sys.exit(report.tell())
    faults = {"faults": report.faults, "errors": report.errors, "violations": len(report.violations)}
    return {"seconds of chaos": report.seconds, "operations": report.table(), **report.figures, **faults}


def run(seconds: float, seed: int, round_seconds: float, number: int) -> Report:
    """Run so many seconds of chaos by this seed, in rounds that end with a full audit; return the report."""
    with servers.temporary_home() as home:
        site = Site(home, seed)
        try:
            site.start()
            return _run(site, seconds, seed, round_seconds, number)
        finally:
            site.stop()


def _run(site: Site, seconds: float, seed: int, round_seconds: float, number: int) -> Report:
    listener = Listener(seed)
    accounts = _open_shop(listener)
    memory, stripe = Memory(), StripeSide(site.stripe)
    accountant = Accountant(stripe, memory, accounts, listener)
    saboteur = Saboteur(site, stripe, seed, gap=min(3.0, round_seconds / (len(KINDS) + 1)))
    payers = list(islice(cycle(accounts), number))
    clients = [Client(each, seed, payers[each], (site.url, stripe), memory) for each in range(number)]
    site.wait_ready()
    stripe.fund(OWN_MONEY)
    _stock(clients[:MAKERS])
    for client in clients:
        client.start()
    plan, chaos, violations = saboteur.plan(), 0.0, []
    fault = next(plan)
    while chaos < seconds and not violations:
        length = min(round_seconds, seconds - chaos)
        _let(clients, go=True)
        fault, found = _round(saboteur, accountant, plan, fault, (chaos, chaos + length))
        chaos += length
        saboteur.heal()
        _let(clients, go=False)
        violations = [*found, *accountant.audit(), *memory.violations]
        print(f"  {chaos:.0f} s: {sum(memory.operations.values())} operations, {len(saboteur.struck)} faults, "
              f"{len(violations)} violations", file=sys.stderr, flush=True)  # fmt: skip
    for client in clients:
        client.finished.set()
    operations: dict[str, dict[str, int]] = defaultdict(dict)
    for (name, outcome), count in memory.operations.items():
        operations[name][outcome] = count
    if violations:
        print(site.logs(), *saboteur.struck[-20:], sep="\n", file=sys.stderr)
        print(f"the logs are kept in {logs.keep(site.log_folder)}", file=sys.stderr, flush=True)
    figures = accountant.figures | {"times that check_ledger was asked": accountant.looks,
                                    "seconds that clocks were ahead": site.clocks}  # fmt: skip
    errors = dict(logs.errors(site.log_folder))
    return Report(seed, chaos, operations, saboteur.counted(), figures, errors, violations)


def _open_shop(listener: Listener) -> list[Customer]:
    """Set up poor customers who want to be told how their jobs end, a pack so small that wallets run dry, an operator.

    Return the customers.
    """
    import django

    django.setup()
    from billing.prices import packs
    from billing.tokens import marketing, wallets
    from lora import tiers
    from lora.training_prices import Terms
    from marketplace.accounts import customers, keys
    from marketplace.accounts.models import Person
    from marketplace.webhooks import endpoints

    Person.objects.create_superuser("chaos-operator@example.com")
    packs.publish("chaos", **PACK)  # type: ignore[arg-type]
    tiers.publish(trainings.TIER, "For a moment.", Terms(**trainings.TERMS))  # type: ignore[arg-type]
    marketing.fund("eur", *MARKETING, "chaos")
    accounts = [customers.create(f"chaos-{number}@example.com") for number in range(ACCOUNTS)]
    for account in accounts:
        wallets.grant(account.id, START_TOKENS, f"start of {account.id}")
        types = ["job.succeeded", "job.failed", "job.canceled"]
        listener.secrets[f"/{account.id}"] = endpoints.create(account.id, f"{listener.url}/{account.id}", types)[1]
    return [
        Customer(each.id, keys.issue(each.id, "chaos")[1], keys.issue(each.id, "capped", daily_cap=CAP_OF_KEYS)[1])
        for each in accounts
    ]


def _stock(makers: list[Client]) -> None:
    """Have some adapters published before the first fault."""
    for client in makers:
        client.maker.stock()
        client.maker.publish()


def _round(
    saboteur: Saboteur, accountant: Accountant, plan: Iterator[Fault], fault: Fault, span: tuple[float, float]
) -> tuple[Fault, list[str]]:
    """Run the plan from one second to another; return the first fault left, and what the accountant saw."""
    begun, look_at, violations = time.monotonic() - span[0], span[0] + LOOK_SECONDS, list[str]()
    back: list[tuple[float, None]] = []
    while (now := time.monotonic() - begun) < span[1] and not violations:
        if fault.second <= now:
            saboteur.strike(fault)
            back.append((now + fault.pause, None))
            fault = next(plan)
        elif back and back[0][0] <= now:
            back.pop(0)
            saboteur.site.revive()
        elif look_at <= now:
            violations = accountant.look()
            look_at = time.monotonic() - begun + LOOK_SECONDS
        else:
            time.sleep(0.05)
    return fault, violations


def _let(clients: list[Client], go: bool) -> None:
    """Let the clients go on, or wait until each has ended its operation."""
    for client in clients:
        (client.may_go.set if go else client.may_go.clear)()
    for client in clients if not go else []:
        client.idle.clear()
    for client in clients if not go else []:
        if not client.idle.wait(90):
            client.complain("still waits for an answer")


def _rarest(entry: tuple[str, int]) -> int:
    return -entry[1]
