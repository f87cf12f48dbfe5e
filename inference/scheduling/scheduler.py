"""Decides which requests run next: one denoising step and, beside it, one codec batch (a picture or prompts to read,
encode or decode) at a time.

Holds no tensors and runs no model; all it reads of a request is its class, account, batch key, phase, steps and token
count. Not thread-safe: the engine calls it under its lock.

Service classes take turns at leading by stride scheduling (Waldspurger and Weihl, 1995): each turn is charged the
tokens it ran, divided by the class's weight, and the class with the least charge leads next. Within a class
`fair_queue` says who is due, and that request fixes the batch key. Its own class fills the batch first, then the
others by weight, up to the cap; rows that do not fit keep their state and wait. Only the leader is charged, so every
class gets at least its share, and nothing starves.

Codec work is done one picture or prompt at a time beside the steps, which never wait for it. A batch that has not begun
waits until all its requests are encoded.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from inference.request import SERVICE_CLASSES, Phase, Request
from inference.scheduling.fair_queue import FairQueue

WEIGHTS: Mapping[str, int] = dict(zip(SERVICE_CLASSES, (6, 3, 1), strict=True))
# a slice: after so many steps of a full batch, a long request lets others of its class pass
SLICE_STEPS = 64
# requests of each class that are encoded ahead of those in the next batch
AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """Requests that run through one phase together; those of a denoising batch share one batch key."""

    phase: Phase
    requests: tuple[Request, ...]

    @property
    def image_tokens(self) -> int:
        return sum(request.image_tokens for request in self.requests)


class Scheduler:
    """Batches under a cap of image tokens per forward; a single request over the cap runs alone.

    `next_step` and `next_codec` begin a batch and `advance` ends it; there may be one of each at a time.
    """

    def __init__(self, max_batch_tokens: int, weights: Mapping[str, int] = WEIGHTS) -> None:
        assert max_batch_tokens > 0
        assert all(weight > 0 for weight in weights.values())
        self.max_batch_tokens = max_batch_tokens
        self._queues = {name: FairQueue(weight, SLICE_STEPS * max_batch_tokens) for name, weight in weights.items()}
        self._decoding: OrderedDict[Request, None] = OrderedDict()
        # what was given out and has not come back by `advance`
        self._step: Batch | None = None
        self._codec: Batch | None = None
        self._stepped: tuple[Request, ...] = ()
        # requests that still have pictures or prompts to read and encode
        self._unready: set[Request] = set()
        self._arrivals = 0
        self._now = 0.0

    def __bool__(self) -> bool:
        return bool(self._decoding) or any(self._queues.values())

    def __iter__(self) -> Iterator[Request]:
        return chain(self._decoding, *self._queues.values())

    def add(self, request: Request) -> None:
        """Take in a new request."""
        assert request not in self._decoding, "a request stands in one queue"
        queue = self._queues[request.service_class]
        if not queue:
            # a class that was idle has no claim on the past
            queue.charge = max(queue.charge, self._now)
        self._arrivals += 1
        queue.add(request, self._arrivals)
        self._unready.add(request)

    def discard(self, request: Request) -> None:
        """Remove a request, wherever it stands; unknown ones are ignored."""
        self._queues[request.service_class].discard(request)
        self._decoding.pop(request, None)
        self._unready.discard(request)
        assert self or not self._unready, "nobody is prepared who stands in no queue"

    def next_step(self) -> Batch | None:
        """Begin the next step, if there is one."""
        assert self._step is None, "one step at a time"
        self._step = self._pick_step()
        return self._step

    def _pick_step(self) -> Batch | None:
        """Return the step of the first batch that is ready or has begun, else of the one that ran last."""
        queues = self._by_charge()
        for queue in queues:
            rows = self._fill(queue, queue.due())
            ready = self._ready(rows)
            if ready == rows or any(row.steps_run for row in ready):
                return self._lead(queue, ready)
        for row in self._stepped:
            queue = self._queues[row.service_class]
            if row in queue:
                return self._lead(queue, self._ready(self._fill(queue, row)))
        return None

    def next_codec(self) -> Batch | None:
        """Begin the next codec batch: a picture to decode, else what a request due soon has to read or encode."""
        assert self._codec is None, "one codec batch at a time"
        begins = (row for row in self._due_soon() if row in self._unready) if self._unready else ()
        first = next(chain(self._decoding, begins), None)
        if first:
            assert not (self._step and first in self._step.requests), "a row is in one batch"
            self._codec = Batch(first.phase, (first,))
        return self._codec

    def advance(self, batch: Batch) -> None:
        """End a batch that ran: rows past their last step are queued for decoding, decoded ones leave."""
        if batch.phase is Phase.DENOISE:
            assert batch is self._step, "the step that was given out"
            self._step = None
            self._stepped = tuple(filter(self._requeue, batch.requests))
            return
        assert batch is self._codec, "the codec batch that was given out"
        self._codec = None
        for request in batch.requests:
            if batch.phase is Phase.DECODE:
                self.discard(request)
            elif request.phase not in (Phase.READ, Phase.ENCODE):
                self._unready.discard(request)
                self._requeue(request)

    def _requeue(self, request: Request) -> bool:
        """Move a request on after its batch, and return whether it has steps left."""
        queue = self._queues[request.service_class]
        if request not in queue:
            return False
        if request.phase is Phase.DECODE:
            queue.discard(request)
            self._decoding[request] = None
            return False
        queue.stepped(request)
        return True

    def _by_charge(self) -> list[FairQueue]:
        return sorted((queue for queue in self._queues.values() if queue), key=lambda queue: queue.charge)

    def _due_soon(self) -> Iterator[Request]:
        """Iterate over the requests that could be in the next steps, then a few that are due after them."""
        queues = self._by_charge()
        batches = [self._fill(queue, queue.due()) for queue in queues]
        ahead = (islice(queue.by_tag(), len(rows) + AHEAD) for queue, rows in zip(queues, batches, strict=True))
        return chain(*batches, *ahead)

    def _ready(self, rows: tuple[Request, ...]) -> tuple[Request, ...]:
        return tuple(row for row in rows if row not in self._unready)

    def _lead(self, leader: FairQueue, rows: tuple[Request, ...]) -> Batch:
        batch = Batch(Phase.DENOISE, rows)
        assert rows, "somebody leads"
        assert batch.image_tokens <= self.max_batch_tokens or len(rows) == 1, "no batch is over the cap"
        self._now = min(queue.charge for queue in self._queues.values() if queue)
        leader.charge += batch.image_tokens / leader.weight
        leader.took_turn(rows[0])
        return batch

    def _fill(self, leader: FairQueue, first: Request) -> tuple[Request, ...]:
        others = sorted(
            (queue for queue in self._queues.values() if queue is not leader), key=lambda queue: -queue.weight
        )
        candidates = chain.from_iterable(queue.with_key(first.batch_key) for queue in (leader, *others))
        batch_mates = (request for request in candidates if request is not first)
        return first, *islice(batch_mates, max(0, self.max_batch_tokens // first.image_tokens - 1))
