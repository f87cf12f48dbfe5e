"""The errors that adapters' books raise, as one tree.

LoraError
├── UnknownAdapter      no such adapter, or not one that this account may see or use
├── UnknownVersion      the adapter has no such version, or it cannot be used
├── SlugTaken           the account has another adapter under this name
├── HandleTaken         another maker has this handle
├── HandleKept          a handle that was chosen is kept
└── TooManyVersions     the account keeps as many versions, or bytes of them, as it may
"""

from __future__ import annotations


class LoraError(Exception):
    """Root of the tree."""


class UnknownAdapter(LoraError):
    """An adapter that does not exist for whoever asks."""


class UnknownVersion(LoraError):
    """A version that does not exist, or is not ready."""


class SlugTaken(LoraError):
    """A second adapter of one account under the same slug."""


class HandleTaken(LoraError):
    """A handle that another maker has."""


class HandleKept(LoraError):
    """A second choice of a handle, by which others may know the maker."""


class TooManyVersions(LoraError):
    """A version more than an account may keep: `most` of them, of `mebibytes` together."""

    def __init__(self, most: int, mebibytes: int) -> None:
        super().__init__(f"an account keeps {most} versions of {mebibytes} MiB at most")
        self.most = most
        self.mebibytes = mebibytes
