"""The discrete-event simulation: machines, each with the engine's scheduler, behind the workers' queues.

A machine has as many slots for requests as a worker has threads. A request goes to the machine with the fewest in
progress; if there is no free slot it waits in the queue of its class, and a machine with a free slot takes the next one
by stride, as a worker does. With `affinity`, machines that have requests of the same batch key and room in their batch
come first; Celery's queues cannot do that.

A step and codec work that run beside each other share a GPU: each takes longer by the share that the other uses
meanwhile.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from bench.simulate.scaling import Rule, Signals
from bench.simulate.step_times import StepTimes
from bench.simulate.traces import CLASSES, Trace
from inference.request import BatchKey, Phase, Request
from inference.scheduling.scheduler import Batch, Scheduler
from marketplace.jobs.queues import StrideOrder

SLOTS = 16
TICK = 15.0
LOOK_AT = 8
_LATENTS = SimpleNamespace()


@dataclass(eq=False)
class Machine:
    """One GPU with its worker, paid for from when it is ordered. `running`: a step and codec work with their ends."""

    scheduler: Scheduler
    ordered: float
    running: dict[str, tuple[Batch, float]] = field(default_factory=dict)
    in_progress: int = 0
    keys: dict[BatchKey, int] = field(default_factory=dict)
    draining: bool = False


@dataclass(frozen=True)
class Moment:
    """The fleet at a tick: machines serving and starting, the busy share since the last tick, requests waiting."""

    at: float
    machines: int
    starting: int
    busy: float
    waiting: int


@dataclass
class Outcome:
    """The result of a run: `finished` by request, in seconds from the start; `busy` and `paid` in seconds of GPUs."""

    finished: NDArray[np.float64]
    busy: float = 0.0
    paid: float = 0.0
    batches: int = 0
    rows: int = 0
    steps: int = 0
    ended: float = 0.0
    history: list[Moment] = field(default_factory=list)


class Fleet:
    """A fleet that serves one trace; `run` it once."""

    def __init__(
        self,
        trace: Trace,
        times: StepTimes,
        rule: Rule,
        *,
        start_up: float = 180.0,
        slots: int = SLOTS,
        fewest: int = 2,
        affinity: bool = False,
    ) -> None:
        """Set up a fleet of `fewest` machines or more; `slots` is each one's limit of requests in progress.

        `start_up`: seconds from ordering a machine until it serves.
        """
        self._trace, self._times, self._rule = trace, times, rule
        self._start_up, self._slots, self._fewest, self._affinity = start_up, slots, fewest, affinity
        self.now = 0.0
        self._left = len(trace)
        self._outcome = Outcome(np.full(len(trace), np.nan))
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbered = 0
        # machines that serve, by their number of requests in progress; those that start, and those that drain
        self._serving: list[dict[Machine, None]] = [{} for _ in range(slots + 1)]
        self._starting: dict[Machine, None] = {}
        self._draining: dict[Machine, None] = {}
        self._with_room: dict[BatchKey, dict[Machine, None]] = {}
        self._waiting: dict[str, deque[Request]] = {name: deque() for name in CLASSES}
        self._order = StrideOrder(CLASSES)
        self._busy_before = 0.0

    def run(self) -> Outcome:
        """Serve the whole trace."""
        for _ in range(max(self._fewest, self._rule.first())):
            self._ready(self._machine())
        self._at(TICK, self._tick)
        arrivals = [*self._trace.arrivals.tolist(), float("inf")]
        index = 0
        while self._left:
            if arrivals[index] <= self._events[0][0]:
                self.now = arrivals[index]
                self._arrive(self._request(index))
                index += 1
            else:
                self.now, _, act = heappop(self._events)
                act()
        for machine in [*self._machines(), *self._starting, *self._draining]:
            self._outcome.paid += self.now - machine.ordered
        self._outcome.ended = self.now
        return self._outcome

    # requests

    def _request(self, index: int) -> Request:
        trace = self._trace
        side = int(trace.sides[index])
        return Request(
            "",
            width=side,
            height=side,
            steps=int(trace.steps[index]),
            guidance_scale=4.0 if trace.guided[index] else 1.0,
            seed=index,
            service_class=CLASSES[trace.classes[index]],
            account=str(trace.accounts[index]),
        )

    def _arrive(self, request: Request) -> None:
        request.ticket.submitted_at = self.now
        if machine := self._choose(request):
            self._assign(machine, request)
        else:
            self._waiting[request.service_class].append(request)

    def _choose(self, request: Request) -> Machine | None:
        if self._affinity and (machine := self._with_batch_mates(request)):
            return machine
        return next((next(iter(machines)) for machines in self._serving[: self._slots] if machines), None)

    def _with_batch_mates(self, request: Request) -> Machine | None:
        """Return, of a few machines that have such requests, the one with the fewest in progress."""
        candidates = islice(self._with_room.get(request.batch_key, ()), LOOK_AT)
        free = (machine for machine in candidates if machine.in_progress < self._slots)
        return min(free, key=lambda machine: machine.in_progress, default=None)

    def _assign(self, machine: Machine, request: Request) -> None:
        self._count(machine, request, +1)
        machine.scheduler.add(request)
        self._begin(machine)

    def _fill(self, machine: Machine) -> None:
        """Fill free slots from the queues."""
        while machine.in_progress < self._slots and not machine.draining:
            queue = next((name for name in self._order.consume(len(CLASSES)) if self._waiting[name]), None)
            if queue is None:
                return
            self._assign(machine, self._waiting[self._order.rotate(queue)].popleft())

    # batches

    def _begin(self, machine: Machine) -> None:
        for name, following in (("step", machine.scheduler.next_step), ("codec", machine.scheduler.next_codec)):
            if name not in machine.running and (batch := following()):
                self._run(machine, name, batch)

    def _run(self, machine: Machine, name: str, batch: Batch) -> None:
        seconds = self._times.seconds(batch)
        self._outcome.busy += seconds
        self._outcome.batches += 1
        for other, (beside, ends) in machine.running.items():
            longer = self._times.shared * min(seconds, ends - self.now)
            machine.running[other] = beside, ends + longer
            seconds += longer
        machine.running[name] = batch, self.now + seconds
        self._at(self.now + seconds, lambda: self._end(machine, name))

    def _end(self, machine: Machine, name: str) -> None:
        batch, ends = machine.running[name]
        if ends > self.now:  # another batch has begun beside it
            self._at(ends, lambda: self._end(machine, name))
            return
        del machine.running[name]
        if batch.phase is Phase.ENCODE:
            for request in batch.requests:
                request.state.latents = _LATENTS
                request.state.steps_skipped = request.state.step_index = int(self._trace.skipped[request.seed])
        elif batch.phase is Phase.DENOISE:
            self._outcome.steps += 1
            self._outcome.rows += len(batch.requests)
            for request in batch.requests:
                request.state.step_index += 1
        machine.scheduler.advance(batch)
        if batch.phase is Phase.DECODE:
            for request in batch.requests:
                assert np.isnan(self._outcome.finished[request.seed]), "a request finishes once"
                self._outcome.finished[request.seed] = self.now
                self._count(machine, request, -1)
                self._left -= 1
            self._fill(machine)
        self._begin(machine)
        if machine.draining and not machine.in_progress:
            self._retire(machine)

    def _count(self, machine: Machine, request: Request, change: int) -> None:
        """Record a change of a machine's requests in progress."""
        key = request.batch_key
        del self._listing(machine)[machine]
        machine.in_progress += change
        machine.keys[key] = machine.keys.get(key, 0) + change
        self._listing(machine)[machine] = None
        if self._affinity:
            alike = self._with_room.setdefault(key, {})
            if 0 < machine.keys[key] < self._times.max_batch_tokens // request.image_tokens and not machine.draining:
                alike[machine] = None
            else:
                alike.pop(machine, None)

    def _listing(self, machine: Machine) -> dict[Machine, None]:
        """Return the list that a machine is in: of those that drain, or of those with as many requests in progress."""
        return self._draining if machine.draining else self._serving[machine.in_progress]

    # machines

    def _machine(self) -> Machine:
        return Machine(Scheduler(self._times.max_batch_tokens), self.now)

    def _machines(self) -> list[Machine]:
        return [machine for machines in self._serving for machine in machines]

    def _ready(self, machine: Machine) -> None:
        self._serving[machine.in_progress][machine] = None
        self._fill(machine)

    def _started(self, machine: Machine) -> None:
        if machine in self._starting:
            del self._starting[machine]
            self._ready(machine)

    def _tick(self) -> None:
        """Give the rule its signals, and scale as it says."""
        serving = self._machines()
        busy = self._running_busy(serving)
        oldest = min((queue[0].ticket.submitted_at for queue in self._waiting.values() if queue), default=self.now)
        waiting = sum(map(len, self._waiting.values()))
        signals = Signals(
            now=self.now,
            machines=len(serving),
            starting=len(self._starting),
            busy=busy,
            slots_taken=sum(machine.in_progress for machine in serving) / (self._slots * max(1, len(serving))),
            waiting=waiting,
            waited=self.now - oldest,
        )
        self._outcome.history.append(Moment(self.now, len(serving), len(self._starting), busy, waiting))
        self._scale(serving, max(self._fewest, self._rule.wanted(signals)))
        self._at(self.now + TICK, self._tick)

    def _running_busy(self, serving: list[Machine]) -> float:
        before, self._busy_before = self._busy_before, self._outcome.busy
        return min(1.0, (self._outcome.busy - before) / (TICK * max(1, len(serving) + len(self._draining))))

    def _scale(self, serving: list[Machine], wanted: int) -> None:
        have = len(serving) + len(self._starting)
        for machine in list(self._draining)[: max(0, wanted - have)]:
            del self._draining[machine]
            machine.draining = False
            self._ready(machine)
            have += 1
        for _ in range(wanted - have):
            machine = self._machine()
            self._starting[machine] = None
            self._at(self.now + self._start_up, lambda machine=machine: self._started(machine))
        surplus = have - wanted
        for machine in list(reversed(self._starting))[: max(0, surplus)]:
            del self._starting[machine]
            self._outcome.paid += self.now - machine.ordered
            surplus -= 1
        # those with the fewest requests in progress go first
        for machine in serving[: max(0, surplus)]:
            self._drain(machine)

    def _drain(self, machine: Machine) -> None:
        del self._serving[machine.in_progress][machine]
        for machines in self._with_room.values():
            machines.pop(machine, None)
        machine.draining = True
        self._draining[machine] = None
        if not machine.in_progress:
            self._retire(machine)

    def _retire(self, machine: Machine) -> None:
        del self._draining[machine]
        self._outcome.paid += self.now - machine.ordered

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        self._numbered += 1
        heappush(self._events, (moment, self._numbered, act))
