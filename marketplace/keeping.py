"""For how long files are kept: until they expire, or are deleted, and no job or training needs them any more."""

from __future__ import annotations

from uuid import UUID

from marketplace.files import uploads
from marketplace.files.models import File
from marketplace.jobs import inputs
from marketplace.trainings import pictures


def in_use(account_id: UUID | None = None) -> set[UUID]:
    """Return the files that jobs and trainings which have not ended need, of one account or of all."""
    return inputs.in_use(account_id) | pictures.in_use(account_id)


def delete(file: File) -> None:
    """Delete a customer's file; what was ordered with it keeps it until it ends."""
    uploads.delete(file, in_use(file.account_id))


def expire() -> int:
    """Remove the files that have expired and that nothing needs, and return how many."""
    return uploads.expire(in_use())
