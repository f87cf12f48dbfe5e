"""Why a file is not kept, or not found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class QuotaReached(Exception):
    """The account keeps as many files, or as many MiB of them, as it may; fewer where it has no Tokens."""

    files: int
    mebibytes: int
    funded: bool = True


class UnknownFile(Exception):
    """There is no such file in this account."""
