"""Which adapters an order may be drawn with, in which version, and under which terms.

An adapter that the account may not use is refused in the words in which one that does not exist is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from billing.prices.pricing import AdapterTerms
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


def choose(
    account_id: UUID, wanted: Sequence[Wanted], card: ModelCard, bought: Sequence[AdapterTerms] = ()
) -> tuple[tuple[Use, ...], Recipe]:
    """Return the versions that an order is drawn with, and what their recipes say together.

    `bought` are the terms of the job that the order's idempotency key bought before, if it did: for what is wanted
    again they hold, whatever became of the adapter since, so that the job is found.

    Raises NotUsable, and InvalidRequest if their recipes differ.
    """
    uses: list[Use] = []
    named: list[tuple[str, Recipe]] = []
    for index, each in enumerate(wanted):
        earlier = next((terms for terms in bought if _is(each, terms)), None)
        adapter = Adapter.objects.get(id=earlier.adapter) if earlier else _adapter(account_id, each)
        if adapter is None:
            raise NotUsable(index, "unknown_adapter", "There is no such adapter.")
        if any(use.adapter == str(adapter.id) for use in uses):
            raise NotUsable(index, "adapter_twice", "This adapter is there twice.")
        if (adapter.base_model, adapter.base_revision) != (card.name, card.revision):
            message = f"This adapter is for another model, or another revision of it, than {card.name} as it is served."
            raise NotUsable(index, "adapter_of_other_model", message)
        terms: Listing | AdapterTerms | None = earlier
        if earlier:
            version = Version.objects.get(adapter=adapter, number=earlier.version)
        else:
            version, terms = _version(account_id, adapter, each.version, index)
        uses.append(_use(adapter, version, terms, each))
        named.append((adapter.slug, recipes.parse(json.dumps(version.recipe))))
    return tuple(uses), recipes.agree(named)


def _is(wanted: Wanted, terms: AdapterTerms) -> bool:
    """Return whether an adapter with these terms is what is wanted."""
    if wanted.version not in (None, terms.version):
        return False
    if wanted.named:
        handle, slug = wanted.named
        return Adapter.objects.filter(id=terms.adapter, owner__handle=handle, slug=slug).exists()
    return wanted.id.lower() == terms.adapter


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


def _use(adapter: Adapter, version: Version, terms: Listing | AdapterTerms | None, wanted: Wanted) -> Use:
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
