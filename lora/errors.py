"""The errors that adapters' books raise, as one tree.

LoraError
├── UnknownAdapter      no such adapter, or not one that this account may see or use
├── UnknownVersion      the adapter has no such version, or it cannot be used
├── SlugTaken           the account has another adapter under this name
├── HandleTaken         another maker has this handle
├── HandleKept          a handle that was chosen is kept
├── TooManyShared       the adapter is shared with as many accounts as it may be
├── TooManyVersions     the account keeps as many versions, or bytes of them, as it may
├── NotPublishable      a version that may not be published, and why
├── FeeOutsideBounds    a fee above what the operator allows
├── PublicationPending  the adapter waits for the operator's decision already
├── WordsKept           what is published keeps the words that the operator approved
├── NotBought           only those who bought pictures with an adapter rate it
├── UnknownTier         no tier of this name is on sale
└── OutsideTier         a training that the tier does not allow
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


class TooManyShared(LoraError):
    """One more account than an adapter may be shared with."""


class TooManyVersions(LoraError):
    """A version more than an account may keep: `most` of them, of `mebibytes` together."""

    def __init__(self, most: int, mebibytes: int) -> None:
        super().__init__(f"an account keeps {most} versions of {mebibytes} MiB at most")
        self.most = most
        self.mebibytes = mebibytes


class UnknownTier(LoraError):
    """A tier that is not on sale."""


class OutsideTier(LoraError):
    """A training whose `field` is outside of what its tier allows, `least` to `most`."""

    def __init__(self, field: str, least: int, most: int) -> None:
        super().__init__(f"{field} may be {least} to {most} in this tier")
        self.field = field
        self.least = least
        self.most = most


class NotPublishable(LoraError):
    """A version that may not be published; the message says why."""


class FeeOutsideBounds(LoraError):
    """A fee above `most` thousandths of a picture's price."""

    def __init__(self, most: int) -> None:
        super().__init__(f"a fee is {most} thousandths of a picture's price at most")
        self.most = most


class PublicationPending(LoraError):
    """A second wish to publish an adapter while the operator decides on the first."""


class WordsKept(LoraError):
    """Other words for an adapter that is published, or waits to be."""


class NotBought(LoraError):
    """A rating by somebody who bought no picture with the adapter."""
