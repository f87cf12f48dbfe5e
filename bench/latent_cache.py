"""Measures what the caches save and what they lose: `python -m bench.latent_cache [--quick]`.

A whole Kiln except its web server: PostgreSQL, Redis and one worker with the house model, on one thread. Customers have
themes of their own, half of which repeat another with a single part changed, and order them by Zipf's law. In a first
pass every order uses words that its customer has not used before, in two languages, mostly for scenes that neither
training nor calibration saw; sixteen run at once. Later some orders are repeated as they were: those are for the exact
cache, and count for nothing else. For comparison, the same with the thresholds that Nirvana published, on the same
similarity and without the guard of wording. Several such traces, each with other customers and themes, are counted
together.

    steps saved     share of the first pass's steps
    followed        share of first-pass pictures that the judge finds right: all steps from the order's own seed, all
                    steps from the noise that the hit's picture began from, and as delivered
    lost, won       pictures that followed with all steps from that noise and not as delivered, and the other way round
    charged         Tokens of the first pass, as a share of what was quoted
    held            bytes of latents in the stores at the end
"""

import json
import math
import multiprocessing
import os
import random
import sqlite3
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image as Pixels

from devstack import parts, servers
from inference.house_model.captions import LANGUAGES, caption
from inference.house_model.judge import judge
from inference.house_model.world import Scene, draw_scene
from inference.latent_cache import mapping
from inference.latent_cache.mapping import Mapping, Point
from inference.latent_cache.reuse import Hit
from inference.models import catalog
from inference.request import TILE, Request
from inference.sampler import sigmas
from inference.training.latent_cache import other_scene

if TYPE_CHECKING:
    from marketplace.jobs.models import Job
    from marketplace.jobs.worker import Worker

SEEDS = (23, 24, 25, 26)
CUSTOMERS, THEMES, SIZES = 6, 20, ((128, 128), (192, 128))
TOGETHER = 16
# share of the first pass's orders that are repeated
REPEATED = 0.1
# similarity → share of the steps that is skipped (Agarwal et al. 2024, as MoDM copied it)
NIRVANA = {0.65: 0.1, 0.75: 0.2, 0.85: 0.3, 0.9: 0.4, 0.95: 0.5}


@dataclass(frozen=True)
class Order:
    customer: int
    scene: Scene
    prompt: str
    seed: int
    size: tuple[int, int]
    again: bool = False


@dataclass(frozen=True)
class Delivered:
    """One order's finished job; `began` is the seed of the noise that its picture goes back to."""

    order: Order
    tier: str
    skipped: int
    quoted: int
    captured: int
    began: int
    followed: bool


class Full:
    """Whether an order's picture follows its prompt with all steps, from any seed; each is drawn once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Order, int], bool] = {}

    def draw(self, worker: "Worker", wanted: Sequence[tuple[Order, int]]) -> list[bool]:
        missing = [each for each in dict.fromkeys(wanted) if each not in self._known]
        futures = [worker.engine.submit(request(worker.card, *each)) for each in missing]
        for each, future in zip(missing, futures, strict=True):
            self._known[each] = judge(each[0].scene, np.asarray(future.result().image)).followed
        return [self._known[each] for each in wanted]


Row = tuple[list[Delivered], list[Delivered], Counter[str]]
"""What was delivered, first and again, and counts of what it is compared with."""


def main(quick: bool = False) -> dict[str, Any]:
    """Measure both mappings on the same orders; return the figures, JSON-ready."""
    card = catalog.card()
    own = mapping.load(card)
    if own is None:
        sys.exit(f"calibrate first: python -m inference.training.latent_cache ({card.name} has other weights now)")
    seeds, count = (SEEDS[:1], 24) if quick else (SEEDS, 480)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context, max_tasks_per_child=1) as processes:
        traces = list(processes.map(serve, seeds, [count] * len(seeds)))
    pooled = {name: [trace[name] for trace in traces] for name in traces[0]}
    return {
        "traces": len(seeds),
        "first-pass orders": count * len(seeds),
        "customers": CUSTOMERS * len(seeds),
        "steps": card.default_steps,
        "entered from similarity, at sigma": ", ".join(f"{one.similarity:.4f} {one.sigma:.3f}" for one in own.points),
        "first pass": {name: first_pass(rows) for name, rows in pooled.items()},
        "orders sent again": {name: sent_again(rows) for name, rows in pooled.items()},
    }


def serve(seed: int, count: int) -> dict[str, Row]:
    """Serve one trace with either mapping, in a process of its own."""
    torch.set_num_threads(1)
    orders = trace(count, seed)
    with servers.temporary_home() as home, servers.running(home, durable=False) as found:
        os.environ.update(parts.environment(home, found))
        Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir()
        set_up()
        full = Full()
        rows = {"Kiln": run(home / "kiln.sqlite3", orders, full)}
        with (
            patch.object(mapping, "load", nirvana),
            patch("inference.latent_cache.cache.signature", lambda prompt: ""),
        ):
            rows["Nirvana's thresholds"] = run(home / "nirvana.sqlite3", orders, full)
    return rows


def trace(count: int, seed: int) -> list[Order]:
    """Draw the orders of a seed: a first pass, and later some of them again."""
    dice = random.Random(seed)
    themes = [list(draw_themes(dice)) for _ in range(CUSTOMERS)]
    popularity = [1 / rank for rank in range(1, THEMES + 1)]
    used: set[tuple[int, str]] = set()
    orders: list[Order] = []
    while len(orders) < count:
        customer = dice.randrange(CUSTOMERS)
        (scene,) = dice.choices(themes[customer], popularity)
        usual, other = LANGUAGES if customer % 2 else LANGUAGES[::-1]
        prompt = caption(scene, dice, usual if dice.random() < 0.8 else other)
        if (customer, prompt) not in used:
            used.add((customer, prompt))
            orders.append(Order(customer, scene, prompt, len(orders), SIZES[customer % len(SIZES)]))
    return orders + [replace(order, again=True) for order in dice.sample(orders, round(REPEATED * count))]


def draw_themes(dice: random.Random) -> Iterator[Scene]:
    for _ in range(THEMES // 2):
        scene = draw_scene(dice, held_out=True)
        yield scene
        yield other_scene(scene, dice)


def nirvana(card: catalog.ModelCard) -> Mapping:
    config = json.loads((Path(card.path) / "scheduler" / "scheduler_config.json").read_text())
    schedule = sigmas(config, card.default_steps, card.default_width * card.default_height // TILE**2)
    points = (Point(similarity, schedule[round(share * card.default_steps)]) for similarity, share in NIRVANA.items())
    return Mapping(card.revision, tuple(points), drift=float("inf"))


def set_up() -> None:
    """Set up the tables and customers with plenty of Tokens."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def run(store: Path, orders: Sequence[Order], full: Full) -> Row:
    """Run all orders with a new store, as new customers."""
    began: dict[str, int] = {}
    with working(store, began) as worker:
        accounts = [funded(f"{store.stem}-{number}@example.com") for number in range(CUSTOMERS)]
        with ThreadPoolExecutor(TOGETHER) as pool:
            first = [order for order in orders if not order.again]
            jobs = list(pool.map(lambda order: buy(worker, accounts[order.customer], order), first))
            repeats = [order for order in orders if order.again]
            copies = list(pool.map(lambda order: buy(worker, accounts[order.customer], order), repeats))
        delivered = [outcome(order, job, began) for order, job in zip(first, jobs, strict=True)]
        again = [outcome(order, job, began) for order, job in zip(repeats, copies, strict=True)]
        plain = full.draw(worker, [(each.order, each.order.seed) for each in delivered])
        same_noise = full.draw(worker, [(each.order, each.began) for each in delivered])
        worker.reuse[0].flush()  # type: ignore[index]
    with sqlite3.connect(store) as file:
        entries, held = file.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM entry").fetchone()
    both = list(zip(same_noise, delivered, strict=True))
    counts = Counter(
        plain=sum(plain),
        same_noise=sum(same_noise),
        lost=sum(drawn and not each.followed for drawn, each in both),
        won=sum(each.followed and not drawn for drawn, each in both),
        entries=entries,
        held=held,
    )
    print(f"  {store.stem}: {first_pass([(delivered, again, counts)])}", file=sys.stderr, flush=True)
    return delivered, again, counts


def first_pass(rows: Sequence[Row]) -> dict[str, Any]:
    delivered = [each for first, _, _ in rows for each in first]
    counts = sum((counts for _, _, counts in rows), Counter[str]())
    count = len(delivered)
    changed, change = counts["lost"] + counts["won"], counts["lost"] - counts["won"]
    return {
        "hit rate": round(statistics.fmean(each.tier == "latent" for each in delivered), 4),
        "steps saved": saved(delivered),
        "followed, own seed": round(counts["plain"] / count, 4),
        "followed, hit's noise": round(counts["same_noise"] / count, 4),
        "followed": round(statistics.fmean(each.followed for each in delivered), 4),
        "lost": counts["lost"],
        "won": counts["won"],
        "points lost": round(100 * change / count, 2),
        "two standard deviations, points": round(200 * math.sqrt(changed - change**2 / count) / count, 2),
        "charged": charged(delivered),
        "entries": counts["entries"],
        "held": counts["held"],
    }


def sent_again(rows: Sequence[Row]) -> dict[str, Any]:
    again = [each for _, sent, _ in rows for each in sent]
    return {
        "orders": len(again),
        "exact hits": sum(each.tier == "exact" for each in again),
        "steps saved": saved(again),
        "charged": charged(again),
    }


@contextmanager
def working(store: Path, began: dict[str, int]) -> Iterator["Worker"]:
    """Run a worker with its latents in that store; record in `began` from which seed each hit's picture came."""
    from django.conf import settings

    from marketplace.jobs.worker import Worker, engine_from_settings

    settings.LATENT_CACHE = str(store)
    worker = Worker(*engine_from_settings())
    worker.start()
    assert worker.reuse is not None
    cache, shadow = worker.reuse[0], worker.reuse[0].on_hit

    def note(request: Request, hit: Hit) -> None:
        began[request.reference.partition("/")[0]] = hit.seed
        if shadow:
            shadow(request, hit)

    cache.on_hit = note
    try:
        yield worker
    finally:
        worker.drain(0)


def funded(email: str) -> Any:
    from billing.tokens import wallets
    from marketplace.accounts import customers

    account = customers.create(email)
    wallets.grant(account.id, 10**12, f"bench {account.id}")
    return account


def buy(worker: "Worker", account: Any, order: Order) -> "Job":
    """Buy an order's job and run it in this thread, as in a Celery worker's."""
    from django.db import connection

    from marketplace.jobs import submission
    from marketplace.jobs.models import Job, Status
    from marketplace.jobs.orders import JobOrder

    card = worker.card
    wanted = JobOrder(
        operation="generate",
        model=card.name,
        prompt=order.prompt,
        negative_prompt="",
        width=order.size[0],
        height=order.size[1],
        steps=card.default_steps,
        guidance_scale=card.default_guidance_scale,
        seed=order.seed,
        n=1,
        service_class="standard",
        output_format="png",
        cache="on",
    )
    try:
        job = submission.submit(account.id, wanted).job
        worker.fire(job.id)
        job = Job.objects.get(id=job.id)
    finally:
        connection.close()
    assert job.status == Status.SUCCEEDED, job.status
    return job


def request(card: catalog.ModelCard, order: Order, seed: int) -> Request:
    """Return the request that the worker would make without a cache, from that seed."""
    return Request(
        order.prompt,
        width=order.size[0],
        height=order.size[1],
        steps=card.default_steps,
        guidance_scale=card.default_guidance_scale,
        seed=seed,
    )


def outcome(order: Order, job: "Job", began: dict[str, int]) -> Delivered:
    from marketplace.jobs import storage

    assert job.receipt is not None
    (image,) = job.receipt["images"]
    with storage.open_image(job.images.get()) as file, Pixels.open(file) as picture:
        followed = judge(order.scene, np.asarray(picture.convert("RGB"))).followed
    seed = began.get(str(job.id), order.seed)
    assert job.captured is not None
    return Delivered(order, image["tier"], image["steps_skipped"], job.quoted, job.captured, seed, followed)


def saved(some: Sequence[Delivered]) -> float:
    return round(statistics.fmean(each.skipped for each in some) / catalog.card().default_steps, 4)


def charged(some: Sequence[Delivered]) -> float:
    return round(sum(each.captured for each in some) / sum(each.quoted for each in some), 4)


if __name__ == "__main__":
    print(json.dumps(main("--quick" in sys.argv), indent=2))
