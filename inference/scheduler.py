"""Who runs next: waiting and running requests in; a step and a piece, the work on a picture or a prompt, at a time out.

Holds no tensors and runs no model; it reads of a request only its class, account, batch key, phase, steps and token
count.
Not thread-safe: the engine calls it under its lock.

Service classes take turns to lead by stride scheduling (Waldspurger and Weihl, 1995): each turn is charged
the tokens it ran, divided by the class's weight, and the class with the least charge leads next. Within a class
`line` says who is due, and that request fixes the batch key. Its own class fills the batch first, then the others by
weight, up to the cap; rows that find no room keep their state and wait. Only the leader is charged, so every class
moves at its share at least, and nothing starves.

All other work, on pictures and prompts, is done piece by piece beside the steps, which never wait for it. A batch that
has not begun waits for those who could begin with it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from inference.line import Line
from inference.request import Phase, Request

WEIGHTS: Mapping[str, int] = {"interactive": 6, "standard": 3, "batch": 1}
# after how much work, in steps of a full batch, a long request lets others of its class by
SLICE_STEPS = 64
# requests of a class that are made ready beyond a batch
AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """Requests that run together through one phase; a denoising batch shares one key."""

    phase: Phase
    requests: tuple[Request, ...]

    @property
    def image_tokens(self) -> int:
        return sum(request.image_tokens for request in self.requests)


class Scheduler:
    """Batches under a cap of image tokens per forward; a single request over the cap runs alone.

    `next_step` and `next_piece` begin a batch and `advance` ends it; there may be one of each at a time.
    """

    def __init__(self, max_batch_tokens: int, weights: Mapping[str, int] = WEIGHTS) -> None:
        self.max_batch_tokens = max_batch_tokens
        self._lines = {name: Line(weight, SLICE_STEPS * max_batch_tokens) for name, weight in weights.items()}
        self._decoding: OrderedDict[Request, None] = OrderedDict()
        self._stepped: tuple[Request, ...] = ()
        # whose pictures and prompts are not all done with
        self._raw: set[Request] = set()
        self._arrivals = 0
        self._now = 0.0

    def __bool__(self) -> bool:
        return bool(self._decoding) or any(self._lines.values())

    def __iter__(self) -> Iterator[Request]:
        return chain(self._decoding, *self._lines.values())

    def add(self, request: Request) -> None:
        line = self._lines[request.service_class]
        if not line:
            # a class that was idle has no claim on the past
            line.charge = max(line.charge, self._now)
        self._arrivals += 1
        line.add(request, self._arrivals)
        self._raw.add(request)

    def discard(self, request: Request) -> None:
        """Forget a request wherever it stands; unknown ones are ignored."""
        self._lines[request.service_class].discard(request)
        self._decoding.pop(request, None)
        self._raw.discard(request)

    def next_step(self) -> Batch | None:
        """The next step: of the first batch that is ready or has begun, else of the one that ran last; or None."""
        lines = self._by_charge()
        for line in lines:
            rows = self._fill(line, line.due())
            ready = self._ready(rows)
            if ready == rows or any(row.steps_run for row in ready):
                return self._lead(line, ready)
        for row in self._stepped:
            line = self._lines[row.service_class]
            if row in line:
                return self._lead(line, self._ready(self._fill(line, row)))
        return None

    def next_piece(self) -> Batch | None:
        """The next picture to decode, or a picture to read or the prompts of one whose turn is near; or None."""
        begins = (row for row in self._near() if row in self._raw) if self._raw else ()
        first = next(chain(self._decoding, begins), None)
        return Batch(first.phase, (first,)) if first else None

    def advance(self, batch: Batch) -> None:
        """Take note of a batch that ran: rows past their last step go to be decoded, decoded ones leave."""
        if batch.phase is Phase.DENOISE:
            self._stepped = tuple(filter(self._goes_on, batch.requests))
            return
        for request in batch.requests:
            if batch.phase is Phase.DECODE:
                self.discard(request)
            elif request.phase not in (Phase.READ, Phase.ENCODE):
                self._raw.discard(request)
                self._goes_on(request)

    def _goes_on(self, request: Request) -> bool:
        """Whether a request that ran has steps to go."""
        line = self._lines[request.service_class]
        if request not in line:
            return False
        if request.phase is Phase.DECODE:
            line.discard(request)
            self._decoding[request] = None
            return False
        line.stepped(request)
        return True

    def _by_charge(self) -> list[Line]:
        return sorted((line for line in self._lines.values() if line), key=lambda line: line.charge)

    def _near(self) -> Iterator[Request]:
        """Those who could be in the next steps, then a few that come after them, so that these find no step waiting."""
        lines = self._by_charge()
        batches = [self._fill(line, line.due()) for line in lines]
        ahead = (islice(line.by_tag(), len(rows) + AHEAD) for line, rows in zip(lines, batches, strict=True))
        return chain(*batches, *ahead)

    def _ready(self, rows: tuple[Request, ...]) -> tuple[Request, ...]:
        return tuple(row for row in rows if row not in self._raw)

    def _lead(self, leader: Line, rows: tuple[Request, ...]) -> Batch:
        batch = Batch(Phase.DENOISE, rows)
        self._now = min(line.charge for line in self._lines.values() if line)
        leader.charge += batch.image_tokens / leader.weight
        leader.took_turn(rows[0])
        return batch

    def _fill(self, leader: Line, first: Request) -> tuple[Request, ...]:
        others = sorted((line for line in self._lines.values() if line is not leader), key=lambda line: -line.weight)
        candidates = chain.from_iterable(line.with_key(first.batch_key) for line in (leader, *others))
        mates = (request for request in candidates if request is not first)
        return first, *islice(mates, max(0, self.max_batch_tokens // first.image_tokens - 1))
