"""Schedules played through without a model: requests, and what a runner would do to them."""

import types

from PIL import Image

from inference.request import Phase, Request
from inference.scheduler import Batch, Scheduler

LATENTS = types.SimpleNamespace()
IMAGE = Image.new("RGB", (64, 64))


def accepted(*arguments, condition_grids=(), **values) -> Request:
    """A request as the engine has it queued: an edit knows the sizes of its pictures."""
    request = Request(*arguments, images=(IMAGE,) * len(condition_grids), **values)
    request.condition_grids = condition_grids
    return request


def order(service_class: str = "standard", **changes) -> Request:
    values = {"width": 64, "height": 64, "steps": 4, "guidance_scale": 1.0, "seed": 0} | changes
    return accepted("a prompt", service_class=service_class, **values)


class Clock:
    """Seconds as batches take them: a step one, any other work two."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(scheduler: Scheduler, clock: Clock | None = None) -> Batch | None:
    """Schedule one batch and do to its requests what a runner would."""
    batch = scheduler.schedule()
    if batch and clock:
        clock.now += 1 if batch.phase is Phase.DENOISE else 2
    for request in batch.requests if batch else ():
        assert request.phase is batch.phase
        if batch.phase is Phase.READ:
            request.posteriors += (LATENTS,)
        elif batch.phase is Phase.ENCODE:
            request.latents = LATENTS
        elif batch.phase is Phase.DENOISE:
            request.step_index += 1
    if batch:
        scheduler.advance(batch)
    return batch


def step(scheduler: Scheduler) -> Batch:
    """Run batches up to the next denoising step."""
    return next(batch for batch in iter(lambda: run(scheduler), None) if batch.phase is Phase.DENOISE)


def drain(scheduler: Scheduler) -> list[Batch]:
    return list(iter(lambda: run(scheduler), None))
