"""Schedules played through without a model: requests, and what a runner would do with them."""

import types
from random import Random

from PIL import Image

from inference.request import Phase, Request
from inference.scheduling.scheduler import Batch, Scheduler

LATENTS = types.SimpleNamespace()
IMAGE = Image.new("RGB", (64, 64))


def accepted(*arguments, condition_grids=(), **values) -> Request:
    """Make a request as the engine queues it: an edit knows the sizes of its pictures."""
    request = Request(*arguments, images=(IMAGE,) * len(condition_grids), **values)
    request.state.condition_grids = condition_grids
    return request


def order(service_class: str = "standard", **changes) -> Request:
    values = {"width": 64, "height": 64, "steps": 4, "guidance_scale": 1.0, "seed": 0} | changes
    return accepted("a prompt", service_class=service_class, **values)


def run(scheduler: Scheduler) -> Batch | None:
    """Schedule one batch, codec work before a step, and do what a runner would."""
    batch = scheduler.next_codec() or scheduler.next_step()
    if batch:
        end(scheduler, batch)
    return batch


def end(scheduler: Scheduler, batch: Batch) -> None:
    """Do with a batch what a runner would, and end it."""
    for request in batch.requests:
        assert request.phase is batch.phase
        if batch.phase is Phase.READ:
            request.state.posteriors += (LATENTS,)
        elif batch.phase is Phase.ENCODE:
            request.state.latents = LATENTS
        elif batch.phase is Phase.DENOISE:
            request.state.step_index += 1
    scheduler.advance(batch)


class Threads:
    """An engine's two threads, each running a batch or none; `turn` lets one of them begin or end its batch."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.following = {"steps": scheduler.next_step, "codec": scheduler.next_codec}
        self.running: dict[str, Batch] = {}

    def turn(self, thread: str) -> Batch | None:
        """Let a thread end its batch or begin one; return the batch that it ended."""
        if ended := self.running.pop(thread, None):
            end(self.scheduler, ended)
        elif begun := self.following[thread]():
            assert not any(set(begun.requests) & set(other.requests) for other in self.running.values())
            self.running[thread] = begun
        return ended

    def drain(self, dice: Random) -> list[Batch]:
        """Run all batches, with either thread ahead, until nothing is left."""
        ended = []
        while self.scheduler or self.running:
            ended.append(self.turn(dice.choice(list(self.following))))
        return [batch for batch in ended if batch]


def step(scheduler: Scheduler) -> Batch:
    """Run batches up to the next denoising step."""
    return next(batch for batch in iter(lambda: run(scheduler), None) if batch.phase is Phase.DENOISE)


def drain(scheduler: Scheduler) -> list[Batch]:
    return list(iter(lambda: run(scheduler), None))
