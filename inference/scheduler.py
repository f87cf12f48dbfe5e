"""Who runs next: waiting and running requests in, one batch at a time out.

Holds no tensors and runs no model; it reads of a request only its class, batch key, phase, step index and token
count, and whether it has images.
Not thread-safe: the engine calls it under its lock.

Service classes take turns to lead by stride scheduling (Waldspurger and Weihl, 1995): each turn is charged
the tokens it ran, divided by the class's weight, and the class with the least charge leads next. The
leader's oldest request fixes the batch key; its own class fills the batch first, then the others by weight,
oldest first, up to the cap. Only the leader is charged, so the oldest request of every class moves at its
class's share at least, and nothing starves.

Input pictures take long to read, so they are read one at a time, and between two of them a batch that has begun goes
a step. One that has not waits for the pictures of those who could begin with it.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from inference.request import BatchKey, Phase, Request

WEIGHTS: Mapping[str, int] = {"interactive": 6, "standard": 3, "batch": 1}


@dataclass(frozen=True)
class Batch:
    """Requests that run together through one phase; a denoising batch shares one key."""

    phase: Phase
    requests: tuple[Request, ...]

    @property
    def image_tokens(self) -> int:
        return sum(request.image_tokens for request in self.requests)


class _Line:
    """The requests of one service class, oldest first, by batch key."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.charge = 0.0
        self._by_key: dict[BatchKey, OrderedDict[Request, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def __iter__(self) -> Iterator[Request]:
        return chain.from_iterable(self._by_key.values())

    def add(self, request: Request, arrival: int) -> None:
        self._by_key.setdefault(request.batch_key, OrderedDict())[request] = arrival

    def discard(self, request: Request) -> None:
        queue = self._by_key.get(request.batch_key, OrderedDict())
        queue.pop(request, None)
        if not queue:
            self._by_key.pop(request.batch_key, None)

    def oldest(self) -> Request:
        heads = (next(iter(queue.items())) for queue in self._by_key.values())
        return min(heads, key=lambda head: head[1])[0]

    def with_key(self, key: BatchKey) -> Iterator[Request]:
        return iter(self._by_key.get(key, ()))


class Scheduler:
    """Batches under a cap of image tokens per forward; a single request over the cap runs alone."""

    def __init__(self, max_batch_tokens: int, weights: Mapping[str, int] = WEIGHTS) -> None:
        self.max_batch_tokens = max_batch_tokens
        self._lines = {name: _Line(weight) for name, weight in weights.items()}
        self._decoding: deque[Request] = deque()
        self._step_owed = False
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

    def discard(self, request: Request) -> None:
        """Forget a request wherever it stands; unknown ones are ignored."""
        self._lines[request.service_class].discard(request)
        if request in self._decoding:
            self._decoding.remove(request)

    def schedule(self) -> Batch | None:
        """The next batch, or None where nothing waits. Finished rows are decoded first, one at a time."""
        if self._decoding:
            return Batch(Phase.DECODE, (self._decoding[0],))
        lines = sorted((line for line in self._lines.values() if line), key=lambda line: line.charge)
        if not lines:
            return None
        for leader in lines:
            rows = self._fill(leader, leader.oldest())
            if prompts := tuple(row for row in rows if row.phase is Phase.ENCODE and not row.images):
                return Batch(Phase.ENCODE, prompts)
            if not self._step_owed and (batch := self._with_pictures(rows)):
                return batch
            ready = tuple(row for row in rows if row.phase is Phase.DENOISE)
            if ready == rows or any(row.step_index for row in ready):
                return self._lead(leader, ready)
        return self._with_pictures(self._fill(lines[0], lines[0].oldest()))

    def advance(self, batch: Batch) -> None:
        """Take note of a batch that ran: rows past their last step go to be decoded, decoded ones leave."""
        for request in batch.requests:
            if batch.phase is Phase.DECODE:
                self.discard(request)
            elif request.phase is Phase.DECODE:
                self._lines[request.service_class].discard(request)
                self._decoding.append(request)

    def _with_pictures(self, rows: tuple[Request, ...]) -> Batch | None:
        """The next piece of work, a picture or the prompts, of the first row that has pictures and waits for it."""
        for row in rows:
            if row.phase in (Phase.READ, Phase.ENCODE):
                self._step_owed = True
                return Batch(row.phase, (row,))
        return None

    def _lead(self, leader: _Line, rows: tuple[Request, ...]) -> Batch:
        batch = Batch(Phase.DENOISE, rows)
        self._step_owed = False
        self._now = min(line.charge for line in self._lines.values() if line)
        leader.charge += batch.image_tokens / leader.weight
        return batch

    def _fill(self, leader: _Line, first: Request) -> tuple[Request, ...]:
        others = sorted((line for line in self._lines.values() if line is not leader), key=lambda line: -line.weight)
        candidates = chain.from_iterable(line.with_key(first.batch_key) for line in (leader, *others))
        return tuple(islice(candidates, max(1, self.max_batch_tokens // first.image_tokens)))
