"""Who runs next: waiting and running requests in; out come a denoising step and a codec batch (pictures and prompts to
read, encode or decode) at a time.

Holds no tensors and runs no model; it reads of a request only its class, account, batch key, phase, steps and token
count.
Not thread-safe: the engine calls it under its lock.

Service classes take turns to lead by stride scheduling (Waldspurger and Weihl, 1995): each turn is charged
the tokens it ran, divided by the class's weight, and the class with the least charge leads next. Within a class
`fair_queue` says who is due, and that request fixes the batch key. Its own class fills the batch first, then the
others by weight, up to the cap; rows that find no room keep their state and wait. Only the leader is charged, so every
class moves at its share at least, and nothing starves.

Codec work is done one picture or prompt at a time beside the steps, which never wait for it. A batch that
has not begun waits for those who could begin with it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from inference.request import SERVICE_CLASSES, Phase, Request
from inference.scheduling.fair_queue import FairQueue

WEIGHTS: Mapping[str, int] = dict(zip(SERVICE_CLASSES, (6, 3, 1), strict=True))
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
        # whose pictures and prompts are not all read and encoded
        self._unready: set[Request] = set()
        self._arrivals = 0
        self._now = 0.0

    def __bool__(self) -> bool:
        return bool(self._decoding) or any(self._queues.values())

    def __iter__(self) -> Iterator[Request]:
        return chain(self._decoding, *self._queues.values())

    def add(self, request: Request) -> None:
        assert request not in self._decoding, "a request stands in one queue"
        queue = self._queues[request.service_class]
        if not queue:
            # a class that was idle has no claim on the past
            queue.charge = max(queue.charge, self._now)
        self._arrivals += 1
        queue.add(request, self._arrivals)
        self._unready.add(request)

    def discard(self, request: Request) -> None:
        """Forget a request wherever it stands; unknown ones are ignored."""
        self._queues[request.service_class].discard(request)
        self._decoding.pop(request, None)
        self._unready.discard(request)
        assert self or not self._unready, "nobody is prepared who stands in no queue"

    def next_step(self) -> Batch | None:
        """The next step: of the first batch that is ready or has begun, else of the one that ran last; or None."""
        assert self._step is None, "one step at a time"
        self._step = self._pick_step()
        return self._step

    def _pick_step(self) -> Batch | None:
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
        """The next picture to decode, else the next to read or encode of a request whose turn is near; or None."""
        assert self._codec is None, "one codec batch at a time"
        begins = (row for row in self._due_soon() if row in self._unready) if self._unready else ()
        first = next(chain(self._decoding, begins), None)
        if first:
            assert not (self._step and first in self._step.requests), "a row is in one batch"
            self._codec = Batch(first.phase, (first,))
        return self._codec

    def advance(self, batch: Batch) -> None:
        """Take note of a batch that ran: rows past their last step go to be decoded, decoded ones leave."""
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
        """Whether a request that ran has steps to go."""
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
        """Those who could be in the next steps, then a few that come after them, so that these find no step waiting."""
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
