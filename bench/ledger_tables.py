"""The figures of `bench.ledger` summed up and as tables. Not how they are measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.ledger_books import DRY_PAIRS
from bench.ledger_clients import Latencies, Turn

CONTENDERS = ("kiln", "pgbench", "hordak")


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
