"""The pictures that orders bring: from where they come, how they are kept, and for how long.

An order names each by the id of a file, or brings it as a data URL, or says at which https address it is. What it
brings is kept as a file of the account, so that the workers find all of them in one place, and the order is known by
their content.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db.models import Q

from inference import picture_files, pictures
from inference.card import ModelCard
from inference.errors import InvalidPicture
from marketplace.files import uploads
from marketplace.files.models import File
from marketplace.files.remote import Downloader
from marketplace.jobs.models import Job, Status
from marketplace.jobs.orders import Input, JobOrder

if TYPE_CHECKING:
    from PIL import Image as Pixels

DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,", re.ASCII | re.IGNORECASE)
FETCH_SECONDS = 10.0
_UNFINISHED = Q(status__in=[Status.QUEUED, Status.RUNNING])
FETCHES, OF_ACCOUNT = 4, 2
"""How many pictures a process fetches at once: each occupies a thread for up to FETCH_SECONDS."""
_fetches: Counter[UUID] = Counter()
_fetches_lock = threading.Lock()


class Busy(Exception):
    """So many pictures are being fetched that this one must wait."""


def look(account_id: UUID, source: str | bytes, card: ModelCard) -> Input:
    """Return what an order says, a file's id, a data URL or an https address, or brings, as an input.

    What is no file yet is not kept yet.

    Raises UnknownFile, InvalidPicture, Unreachable and Busy.
    """
    if isinstance(source, bytes):
        content = source
    elif source[:5].lower() == "data:":
        content = _decoded(source)
    elif source[:8].lower() == "https://":
        with _fetching(account_id):
            content = Downloader(max_bytes=settings.FILE_MB * 1024**2, seconds=FETCH_SECONDS).get(source)
    else:
        return _of(uploads.find(account_id, source))
    _check_length(len(content))
    file = uploads.check(content, card)
    return Input(sha256=file.sha256, width=file.width, height=file.height, content=content)


def check(order: JobOrder, card: ModelCard) -> None:
    """Check that an order's pictures and terms fit each other and the model.

    Raises InvalidRequest, and InvalidPicture if the mask cannot be one.
    """
    sizes = [(each.width, each.height) for each in order.images]
    pictures.check_terms(order, sizes, (order.mask.width, order.mask.height) if order.mask else None)
    if order.mask:
        content = order.mask.content or uploads.read(UUID(order.mask.file))
        pictures.check_white(picture_files.read_mask_or_holes(content, card))


def keep(account_id: UUID, order: JobOrder) -> JobOrder:
    """Keep the pictures that an order brings, and return the order with the ids of their files.

    Raises QuotaReached.
    """
    if not any(each.content for each in order.inputs):
        return order
    mask = order.mask and _kept(account_id, order.mask)
    return replace(order, images=tuple(_kept(account_id, each) for each in order.images), mask=mask)


def load(job: Job, card: ModelCard) -> tuple[tuple[Pixels.Image, ...], Pixels.Image | None]:
    """Return the pixels of a job's pictures and its mask, white where it paints. Raises FileNotFoundError."""
    images = tuple(
        picture_files.read_image(uploads.read(UUID(each["file"])), card) for each in job.order.get("images", ())
    )
    mask = job.order.get("mask")
    return images, mask and picture_files.read_mask_or_holes(uploads.read(UUID(mask["file"])), card)


def in_use(account_id: UUID | None = None) -> set[UUID]:
    """Return the files that jobs which have not ended need, of one account or of all."""
    unfinished = Job.objects.filter(_UNFINISHED).exclude(operation="generate")
    if account_id:
        unfinished = unfinished.filter(account_id=account_id)
    return {file for order in unfinished.values_list("order", flat=True).iterator() for file in _files(order)}


def adapters_in_use() -> set[tuple[str, int]]:
    """Return the adapters, with the numbers of their versions, that jobs which have not ended are drawn with."""
    orders = Job.objects.filter(_UNFINISHED, order__has_key="adapters").values_list("order", flat=True)
    return {(each["id"], each["version"]) for order in orders.iterator() for each in order["adapters"]}


def forget(job: Job) -> None:
    """Delete the pictures that came with a job's order, but not those that other jobs need or that were uploaded."""
    for file in File.objects.filter(account_id=job.account_id, id__in=_files(job.order), inline=True):
        uploads.delete(file, in_use(job.account_id))


def _files(order: dict[str, object]) -> list[UUID]:
    images, mask = order.get("images") or [], order.get("mask")
    return [UUID(each["file"]) for each in [*images, *([mask] if mask else [])]]  # type: ignore[misc,index]


def _of(file: File) -> Input:
    return Input(sha256=file.sha256, width=file.width, height=file.height, file=str(file.id))


def _kept(account_id: UUID, given: Input) -> Input:
    if given.content is None:
        return given
    file = File(
        media_type=picture_files.media_type(given.content),
        sha256=given.sha256,
        size=len(given.content),
        width=given.width,
        height=given.height,
    )
    return _of(uploads.receive_inline(account_id, file, given.content))


def _decoded(source: str) -> bytes:
    beginning = DATA_URL.match(source[:200])
    if beginning is None:
        raise InvalidPicture("it is a data URL, and those must say `data:image/png;base64,` or the like")
    packed = source[beginning.end() :]
    _check_length(len(packed) * 3 // 4)
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidPicture("it is a data URL that is not base64") from error


@contextmanager
def _fetching(account_id: UUID) -> Iterator[None]:
    """Take one of the few places for fetching; no account takes all of them. Raises Busy."""
    with _fetches_lock:
        if _fetches.total() >= FETCHES or _fetches[account_id] >= OF_ACCOUNT:
            raise Busy
        _fetches[account_id] += 1
    try:
        yield
    finally:
        with _fetches_lock:
            _fetches[account_id] -= 1
            if not _fetches[account_id]:
                del _fetches[account_id]


def _check_length(length: int) -> None:
    if length > settings.FILE_MB * 1024**2:
        raise InvalidPicture(f"it has more than {settings.FILE_MB} MiB")
