"""The reuse of earlier work: stored pictures of the same order (the exact cache), and the engine's latent cache.

Each account reuses its own work only, except that the pictures of the operator's templates account are open to all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings

from inference.card import ModelCard
from marketplace.jobs import storage
from marketplace.jobs.models import Image, Job, Status

if TYPE_CHECKING:
    from inference.latent_cache.cache import LatentCache
    from inference.latent_cache.mapping import Mapping
    from inference.latent_cache.stores import Store

logger = logging.getLogger(__name__)

ON, EXACT, OFF = MODES = ("on", "exact", "off")
"""Pictures and latents, pictures only, or neither."""
NO_PICTURE = ("cache", "webhook_url")
"""What an order says that its pictures do not follow from."""


def picture_key(job: Job, revision: str, *, from_latents: bool = False) -> bytes:
    """Hash (SHA-256) everything that determines a job's pictures, and whether they began from cached latents.

    Of its input pictures and its adapters that is their content, whichever files it is in.
    """
    order = {name: value for name, value in job.order.items() if name not in NO_PICTURE}
    if "images" in order:
        mask = order["mask"]
        order |= {"images": [each["sha256"] for each in order["images"]], "mask": mask and mask["sha256"]}
    if "adapters" in order:
        order["adapters"] = [[each["sha256"], each["scale"]] for each in order["adapters"]]
    made_of = [job.operation, job.model, revision, job.seed, job.n, order, *(["latents"] if from_latents else [])]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).digest()


def stored_pictures(job: Job, revision: str) -> tuple[list[Image], bytes] | None:
    """Copy the pictures that the same order made before; return the unsaved rows and their key.

    Returns None if there are none, or not all of them can be read. Pictures that began from cached latents are only
    given to jobs that accept latents.
    """
    if job.order.get("cache", OFF) == OFF:
        return None
    keys = [
        picture_key(job, revision),
        *([picture_key(job, revision, from_latents=True)] if takes_latents(job) else []),
    ]
    owners = [str(job.account_id), *_templates()]
    same = Job.objects.filter(account_id__in=owners, picture_key__in=keys, status=Status.SUCCEEDED)
    earlier = same.prefetch_related("images").order_by("-id").first()
    if earlier is None or len(earlier.images.all()) != job.n:
        return None
    try:
        assert earlier.picture_key is not None
        return [storage.copy(job, image) for image in earlier.images.all()], bytes(earlier.picture_key)
    except Exception as error:  # noqa: BLE001 - each storage has its own errors; the engine makes the pictures instead
        logger.warning("the pictures of job %s cannot be reused: %r", earlier.id, error)
        with suppress(Exception):
            storage.discard_attempt(job)
        return None


def takes_latents(job: Job) -> bool:
    """Return whether a job accepts cached latents; pictures ordered together must differ, so they do not."""
    return bool(job.order.get("cache", OFF) == ON and job.n == 1)


def latent_cache(card: ModelCard, calibration: Mapping | None = None) -> tuple[LatentCache, Store] | None:
    """Open the workers' latent cache; None if it is off, or was not calibrated for this model.

    Without a `calibration`, the model's stored one is loaded.
    """
    from inference.latent_cache import mapping
    from inference.latent_cache.cache import LatentCache
    from inference.latent_cache.stores import MIB, Limits, open_store

    if settings.LATENT_CACHE == OFF:
        return None
    calibration = calibration or mapping.load(card)
    if calibration is None:
        logger.warning("the latent cache is off: run `python -m inference.training.latent_cache` for %s", card.name)
        return None
    limits = Limits(settings.LATENT_CACHE_ACCOUNT_MB * MIB, settings.LATENT_CACHE_MB * MIB)
    store = open_store(settings.LATENT_CACHE, limits)
    return LatentCache(store, calibration, shared=_templates()), store


def forget_latents(account_id: UUID, job_id: UUID | None = None) -> None:
    """Remove the latents that a job left, or all that an account's jobs left. Raises StoreUnavailable."""
    from inference.latent_cache import stores

    if settings.LATENT_CACHE != OFF:
        # only the first picture of a job leaves any: `takes_latents`
        reference = reference_of(job_id, 0) if job_id else None
        stores.forget(stores.open_store(settings.LATENT_CACHE), str(account_id), reference)


def reference_of(job_id: UUID, index: int) -> str:
    """Return what the engine calls picture `index` of a job."""
    return f"{job_id}/{index}"


def _templates() -> list[str]:
    return [str(settings.TEMPLATES_ACCOUNT)] if settings.TEMPLATES_ACCOUNT else []
