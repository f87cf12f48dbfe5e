"""The saboteur: causes faults by a plan that the seed decides."""

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench.chaos.site import Site
from bench.chaos.stripe_side import StripeSide

REQUESTS = ("error", "rate_limit", "drop", "slow", "error_after", "timeout_after", "drop_after")
WEBHOOKS = ("duplicate", "reorder", "delay", "lose")
PARTS = ("front", "streams", "web", "worker", "dispatcher", "deliverer", "trainer", "maintenance", "beat", "stripe")
KINDS = (
    *(f"{part} killed" for part in PARTS), "worker asked to end", "Redis flushed", "Redis killed",
    "PostgreSQL restarted", "PostgreSQL crashed", "Stripe's API ails", "Stripe is slow", "Stripe hangs",
    "Stripe is down", "webhooks go astray", "webhooks are lost",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A fault at so many seconds of chaos; what it kills starts again `pause` seconds later. `choice` is 0 to 1."""

    second: float
    kind: str
    pause: float
    choice: float


@dataclass
class Saboteur:
    """One who causes faults by a plan; all kinds come equally often, dealt like a deck of cards."""

    site: Site
    stripe: StripeSide
    seed: int
    gap: float
    struck: list[Fault] = field(default_factory=list)

    def plan(self) -> Iterator[Fault]:
        rng, second = random.Random(f"{self.seed}:faults"), 0.0
        while True:
            for kind in rng.sample(KINDS, len(KINDS)):
                second += self.gap * (0.5 + rng.random())
                yield Fault(second, kind, 0.2 + 2 * rng.random(), rng.random())

    def strike(self, fault: Fault) -> None:
        self.struck.append(fault)
        part = fault.kind.partition(" ")[0]
        special: dict[str, Callable[[], None]] = {
            "worker asked to end": lambda: self.site.end("worker"),
            "Redis flushed": self.site.flush_redis,
            "Redis killed": self.site.restart_redis,
            "PostgreSQL restarted": lambda: self.site.restart_postgres(signal.SIGINT),
            "PostgreSQL crashed": lambda: self.site.restart_postgres(signal.SIGQUIT),
            "Stripe's API ails": lambda: self._ail(fault.choice),
            "Stripe is slow": lambda: self._burden("slow", 2 + 5 * fault.choice),
            "Stripe hangs": lambda: self._burden("slow", 20),
            "Stripe is down": lambda: self._burden("error", 0),
            "webhooks go astray": lambda: self._misdirect(WEBHOOKS[int(fault.choice * 3)]),
            "webhooks are lost": lambda: self._misdirect("lose"),
        }
        special.get(fault.kind, lambda: self.site.kill(part))()

    def heal(self) -> None:
        """Remove all faults from the double, and start every part."""
        self.site.wait_ready()
        self.stripe.control("faults", "DELETE")

    def counted(self) -> dict[str, int]:
        return dict(Counter(fault.kind for fault in self.struck))

    def _ail(self, choice: float) -> None:
        kind = REQUESTS[int(choice * len(REQUESTS))]
        # an error after a refund is stored under its key for a day, so the event behind it would fail for a day
        match = "POST /v1/checkout/sessions*" if kind == "error_after" else "POST /v1/*"
        self.stripe.control("faults", kind=kind, match=match, count=3, seconds=3)

    def _burden(self, kind: str, seconds: float) -> None:
        """Let many requests in a row wait so long, or be refused; longer than Kiln waits is as good as no answer."""
        self.stripe.control("faults", kind=kind, match="* /v1/*", count=20, probability=0.7, seconds=seconds)

    def _misdirect(self, kind: str) -> None:
        self.stripe.control("faults", kind=kind, match="*", count=12, probability=0.7, seconds=4)
