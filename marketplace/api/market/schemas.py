"""The bodies of the market: what is published, ratings and reports."""

from __future__ import annotations

import re
from typing import Any

from rest_framework import serializers

from billing.amounts import format_fraction
from lora.models import Listing, Publication, Report
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Array, Choice, Identifier, Moment, Number, Text, Whole
from marketplace.api.pages import ListQuery

LICENCES = ["any-use", "non-commercial"]
TAG = r"^[a-z0-9]+(-[a-z0-9]+)*$"
SORTS = ["new", "uses", "rating"]


def _tag() -> Text:
    return Text(max_length=40, pattern=TAG)


class PublicationOrder(StrictSerializer):
    version = Whole(required=False, min_value=1, help_text="By default the newest.")
    fee = Text(max_length=6, pattern=r"^[0-9]+(\.[0-9]{1,3})?$", help_text="Of the price of a picture: `0.25` is 25 %.")
    licence = Choice(choices=LICENCES, help_text="What buyers may do with pictures that it draws.")
    tags = Array(child=_tag(), default=list, max_length=10, help_text="Small letters, digits and hyphens.")

    def validate_fee(self, text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,3})?", text):
            raise serializers.ValidationError("Must be a decimal with at most three places, such as 0.25.")
        whole, _, part = text.partition(".")
        return int(whole) * 1000 + int(part.ljust(3, "0") or 0)

    def validate_tags(self, tags: list[str]) -> list[str]:
        if any(not re.fullmatch(TAG, tag) for tag in tags):
            raise serializers.ValidationError("Must be small letters, digits and hyphens between them.")
        return list(dict.fromkeys(tags))


class PublicationBody(Body):
    id = Identifier()
    version = Whole(of="row.version.number")
    fee = Text(of=lambda row: format_fraction(row.fee, 3))
    licence = Text()
    tags = Array(child=Text())
    status = Choice(choices=Publication.Status.choices)
    reason = Text(of="row.reason or None", allow_null=True, help_text="Why it was refused or ended.")
    created_at = Moment()
    decided_at = Moment(allow_null=True)


class MarketQuery(ListQuery):
    search = Text(required=False, max_length=100, help_text="In name, description, words, tags and maker.")
    tag = Text(required=False, max_length=40)
    sort = Choice(choices=SORTS, default="new", help_text="`uses` and `rating` show the first 100 and have no cursor.")


class OfferBody(Body):
    name = Text()
    maker = Text(of="row.owner.handle")
    slug = Text()
    model = Text(of=lambda row: f"adapter/{row.owner.handle}/{row.slug}", help_text="For OpenAI's clients.")
    id = Identifier()
    description = Text()
    trigger_words = Array(child=Text())
    tags = Array(child=Text())
    base_model = Text()
    version = Whole(given=True)
    fee = Text(given=True, help_text="Of the price of a picture, paid to the maker and the platform.")
    surcharge = Text(given=True, help_text="Of the price of a picture, the platform's.")
    price = Text(given=True, help_text="Tokens of a picture with it at the model's default size, steps and class.")
    licence = Text(given=True)
    score = Number(given=True, allow_null=True)
    uses = Whole(help_text="Buyers' jobs that were charged.")
    rating = Number(given=True, allow_null=True, help_text="The mean of the stars.")
    ratings = Whole(given=True)
    samples = Text(given=True, allow_null=True, help_text="Where a picture of its samples is.")
    published_at = Moment(given=True)


class Market(Body):
    data = OfferBody(many=True, given=True)  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)


class RatingOrder(StrictSerializer):
    stars = Whole(min_value=1, max_value=5)


class RatingBody(Body):
    stars = Whole()
    rated_at = Moment()


class ReportOrder(StrictSerializer):
    reason = Choice(choices=Report.Reason.choices)
    text = Text(default="", max_length=2000, allow_blank=True, line=False)


class ReportBody(Body):
    id = Identifier()
    reason = Choice(choices=Report.Reason.choices)
    created_at = Moment()


def show_offer(adapter: Any, listing: Listing, price: str) -> dict[str, Any]:
    """Show a published adapter; `stars` and `rated` are annotated, `listing` has its version."""
    version = listing.version
    return OfferBody.show(
        adapter,
        version=version.number,
        fee=format_fraction(listing.fee, 3),
        surcharge=format_fraction(version.surcharge, 3),
        price=price,
        licence=listing.licence,
        score=None if version.score is None else version.score / 1000,
        rating=None if adapter.stars is None else round(float(adapter.stars), 2),
        ratings=adapter.rated,
        samples=f"/v1/market/{adapter.owner.handle}/{adapter.slug}/samples" if version.samples else None,
        published_at=Moment.show(listing.created_at),
    )
