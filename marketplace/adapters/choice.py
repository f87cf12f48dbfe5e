"""Which adapters an order may be drawn with, in which version, and under which terms.

An adapter that the account may not use is refused in the words in which one that does not exist is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from inference.adapters import recipes
from inference.adapters.recipes import Recipe
from inference.card import ModelCard
from lora import adapters, listings, versions
from lora.errors import UnknownVersion
from lora.models import Adapter, Listing, Shared, Version
from marketplace.adapters.uses import Use, Wanted


@dataclass(eq=False)
class NotUsable(Exception):
    """The adapter at this place of an order cannot be used, and why."""

    index: int
    code: str
    message: str


def choose(account_id: UUID, wanted: Sequence[Wanted], card: ModelCard) -> tuple[tuple[Use, ...], Recipe]:
    """Return the versions that an order is drawn with, and what their recipes say together.

    Raises NotUsable, and InvalidRequest if their recipes differ.
    """
    uses: list[Use] = []
    named: list[tuple[str, Recipe]] = []
    for index, each in enumerate(wanted):
        adapter = _adapter(account_id, each)
        if adapter is None:
            raise NotUsable(index, "unknown_adapter", "There is no such adapter.")
        if any(use.adapter == str(adapter.id) for use in uses):
            raise NotUsable(index, "adapter_twice", "This adapter is there twice.")
        if (adapter.base_model, adapter.base_revision) != (card.name, card.revision):
            message = f"This adapter is for another model, or another revision of it, than {card.name} as it is served."
            raise NotUsable(index, "adapter_of_other_model", message)
        version, terms = _version(account_id, adapter, each.version, index)
        uses.append(_use(adapter, version, terms, each))
        named.append((adapter.slug, recipes.parse(json.dumps(version.recipe))))
    return tuple(uses), recipes.agree(named)


def _adapter(account_id: UUID, wanted: Wanted) -> Adapter | None:
    if wanted.named:
        handle, slug = wanted.named
        return adapters.usable(account_id).filter(owner__handle=handle, slug=slug).first()
    try:
        return adapters.usable(account_id).filter(id=UUID(wanted.id)).first()
    except ValueError:
        return None


def _version(account_id: UUID, adapter: Adapter, number: int | None, index: int) -> tuple[Version, Listing | None]:
    """Return the version, and the terms under which others than its owner and those it is shared with use it."""
    free = adapter.owner_id == account_id or Shared.objects.filter(adapter=adapter, account=account_id).exists()
    try:
        version = versions.pick(adapter, number, listed=not free)
    except UnknownVersion as error:
        message = "This adapter has no such version that is ready." if number else "No version of it is ready."
        raise NotUsable(index, "unknown_version", message) from error
    return version, None if free else listings.terms(version)


def _use(adapter: Adapter, version: Version, terms: Listing | None, wanted: Wanted) -> Use:
    return Use(
        adapter=str(adapter.id),
        version=version.number,
        surcharge=version.surcharge,
        fee=terms.fee if terms else 0,
        share=terms.share if terms else 0,
        maker=str(adapter.owner_id),
        sha256=version.sha256,
        scale=wanted.scale,
        asked=wanted.version,
    )
