"""Jobs that are forgotten on request: their words, pictures, inputs and latents go, the books stay.

What the database has goes at once, in one transaction, so that from then on nobody is shown any of it. What storages
have goes right after that, and again later: whatever cannot be reached now, or is written by a worker that is late.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now

from marketplace.jobs import inputs, reuse, storage
from marketplace.jobs.errors import NotEnded, NotFound
from marketplace.jobs.models import Image, Job

# By then no worker writes anything of a job that has ended.
SETTLED = timedelta(minutes=2)
NUMBERS = {
    "width", "height", "steps", "guidance_scale", "deterministic", "output_format", "output_compression", "cache",
    "strength", "extend", "box",
}  # fmt: skip
"""What stays of an order."""
FILES = {"images", "mask"}
"""What stays of it until they are removed."""

logger = logging.getLogger(__name__)


@transaction.atomic
def forget(account_id: UUID, job_id: UUID) -> Job:
    """Forget a job that has ended, and return it for `erase`; forgetting it again changes nothing.

    Raises NotFound or NotEnded.
    """
    job = Job.objects.select_for_update().filter(id=job_id, account_id=account_id).first()
    if job is None:
        raise NotFound
    if not job.is_final:
        raise NotEnded
    if job.forgotten_at is None:
        _strip(job)
    return job


def erase(job: Job) -> bool:
    """Remove what storages have of a forgotten job, outside of transactions; return False if some cannot be reached."""
    try:
        inputs.forget(job)
        storage.keep_only(job, set())
        reuse.forget_latents(job.account_id, job.id)
    except Exception:
        logger.exception("job %s is forgotten, and not erased yet", job.id)
        return False
    settled = Job.objects.filter(id=job.id, finished_at__lt=Now() - SETTLED)
    settled.update(to_erase=False, order=_without_words(job, NUMBERS))
    return True


def keep() -> None:
    """Erase what could not be erased before; a job that cannot be erased now holds up no other."""
    for job in Job.objects.filter(to_erase=True).order_by("id"):
        erase(job)


def _strip(job: Job) -> None:
    """Remove a job's words from its row, and the rows of its pictures. What it cost and when stays."""
    job.order = _without_words(job, NUMBERS | FILES)
    Image.objects.filter(job=job).delete()
    Job.objects.filter(id=job.id).update(
        order=job.order,
        order_digest=bytes(32),
        metadata={},
        error_message="",
        picture_key=None,
        forgotten_at=Now(),
        to_erase=True,
    )


def _without_words(job: Job, kept: set[str]) -> dict[str, object]:
    words = {"prompt": "", "negative_prompt": ""}
    return {name: value for name, value in job.order.items() if name in kept} | words
