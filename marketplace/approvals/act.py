"""What an act of operators is: its arguments, its limit, and how it is carried out. The kinds are in `acts`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db.models import Model

from billing.amounts import MILLI


class Reference(NamedTuple):
    """A row that an act is about, shown as `text`."""

    model: type[Model]
    key: object
    text: str


Lines = list[tuple[str, str | Reference]]


class Impossible(Exception):
    """An act cannot be carried out; the message tells the operator why."""


@dataclass(frozen=True)
class Act(ABC):
    """One kind of act with its arguments."""

    kind: ClassVar[str]
    title: ClassVar[str]
    permission: ClassVar[str]
    has_finish: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """How much this act counts towards `limit`."""
        return 0

    @property
    def limit(self) -> int | None:
        """How much of this one person may do alone in 24 hours; None if it always takes a second person."""
        return None

    @property
    def counted_with(self) -> dict[str, Any]:
        """Which earlier acts of this kind count towards the same limit, as a filter of requests; all by default."""
        return {}

    @abstractmethod
    def check(self) -> None:
        """Check that the act could be carried out now. Raises Impossible if it could not."""

    @abstractmethod
    def carry_out(self, request: UUID) -> str:
        """Do it in the caller's transaction, once for each request, and return the outcome in words."""

    def finish(self, request: UUID) -> str:
        """Do the part outside our database, after the commit, and return the outcome. Safe to call again."""
        raise NotImplementedError

    @abstractmethod
    def lines(self) -> Lines:
        """Describe to people what is asked for."""


class TokensAct(Act):
    """An act about an `amount` of milli-Tokens."""

    amount: int

    @property
    def size(self) -> int:
        return self.amount

    @property
    def limit(self) -> int:
        return settings.REFUND_LIMIT * MILLI
