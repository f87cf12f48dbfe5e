"""The storage of finished pictures, and links to them that expire.

Any Django storage will do (`STORAGES["images"]`): a folder by default, or an S3 bucket in production.
"""

from __future__ import annotations

import hashlib
import io
import time
from typing import IO

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages
from django.utils.crypto import constant_time_compare, salted_hmac
from PIL import Image as Pixels

from marketplace.jobs.models import Image, Job

FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def put(job: Job, index: int, pixels: Pixels.Image) -> Image:
    """Encode and store one picture; return its row, not saved yet.

    Each attempt writes under its own name, so that a worker that lost its lease cannot overwrite what its successor
    delivered.
    """
    kind = str(job.order["output_format"])
    encoded = io.BytesIO()
    quality = job.order.get("output_compression")
    pixels.save(encoded, format=kind.upper(), **({"quality": quality} if quality else {}))
    content = encoded.getvalue()
    path = _storage().save(_path(job, index), ContentFile(content))
    return Image(
        job=job,
        index=index,
        path=path,
        media_type=FORMATS[kind],
        sha256=hashlib.sha256(content).hexdigest(),
        width=pixels.width,
        height=pixels.height,
        size=len(content),
        seed=job.seed_of(index),
    )


def copy(job: Job, source: Image) -> Image:
    """Copy another job's picture to this job; return its row, unsaved. Raises OSError if it is lost or changed."""
    with open_image(source) as stored:
        content = stored.read()
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise OSError(f"{source.path} is not what was stored")
    path = _storage().save(_path(job, source.index), ContentFile(content))
    fields = ("index", "media_type", "sha256", "width", "height", "size", "seed")
    return Image(job=job, path=path, **{name: getattr(source, name) for name in fields})


def keep_only(job: Job, paths: set[str]) -> None:
    """Delete what earlier attempts of a job left behind."""
    try:
        _, names = _storage().listdir(_folder(job))
    except FileNotFoundError:
        return
    for name in names:
        if (path := f"{_folder(job)}/{name}") not in paths:
            _storage().delete(path)


def discard_attempt(job: Job) -> None:
    """Delete what this attempt has stored, and nothing of other attempts."""
    for index in range(job.n):
        _storage().delete(_path(job, index))


def open_image(image: Image) -> IO[bytes]:
    return _storage().open(image.path)


def signed_path(image: Image, now: float | None = None) -> tuple[str, int]:
    """Return the path of a link to the picture, and the Unix second at which it expires.

    The time is rounded up to a whole minute, so that repeated responses can be cached.
    """
    expires = (int(now or time.time()) + settings.IMAGE_URL_SECONDS) // 60 * 60 + 60
    suffix = image.path.rpartition(".")[2]
    return f"/images/{image.id}.{suffix}?expires={expires}&signature={_signature(image.id, expires)}", expires


def may_open(image_id: object, expires: int, signature: str) -> bool:
    """Return whether the signature is valid for this picture and expiry; the caller checks the time."""
    return constant_time_compare(_signature(image_id, expires), signature)


def _signature(image_id: object, expires: int) -> str:
    return salted_hmac("kiln.images", f"{image_id}:{expires}", algorithm="sha256").hexdigest()


def _path(job: Job, index: int) -> str:
    return f"{_folder(job)}/{job.attempt}-{index}.{job.order['output_format']}"


def _folder(job: Job) -> str:
    return f"{job.account_id}/{job.id}"


def _storage() -> Storage:
    return storages["images"]
