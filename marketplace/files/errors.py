"""Why a file is not kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QuotaReached(Exception):
    """The account keeps as many files, or as many MiB of them, as it may."""

    files: int
    mebibytes: int
