"""The market over HTTP: publishing, the catalogue, ratings and reports."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import F
from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.amounts import format_tokens
from billing.prices import price_lists, pricing
from billing.prices.pricing import AdapterTerms
from inference.models import catalog
from inference.request import Operation
from lora import adapters, market, opinions, publications
from lora.models import Adapter, Listing
from marketplace.accounts.authentication import caller
from marketplace.adapters import storage
from marketplace.api.bodies import ObjectParser
from marketplace.api.catalogue.views import Public
from marketplace.api.market import schemas
from marketplace.api.market.schemas import (
    Market,
    MarketQuery,
    OfferBody,
    PublicationBody,
    PublicationOrder,
    RatingBody,
    RatingOrder,
    ReportBody,
    ReportOrder,
)
from marketplace.api.pages import page
from marketplace.api.problems import not_found
from marketplace.audit import trail
from marketplace.identifiers import uuid7

MOST_SORTED = 100


class OnePublication(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(request=PublicationOrder, responses={202: PublicationBody}, summary="Ask to publish an adapter")
    def post(self, request: Request, adapter_id: UUID) -> Response:
        """The operator decides. From then on everybody may use the version under these terms, which stay for what was
        ordered; other terms are another publication."""
        found = adapters.find(caller(request).account_id, adapter_id)
        order = PublicationOrder(data=request.data)
        order.is_valid(raise_exception=True)
        values = dict(order.validated_data)
        asked = publications.ask(uuid7(), found, values.pop("version", None), most=settings.MARKET_FEE_MOST, **values)
        return Response(PublicationBody.show(asked), status=202)

    @extend_schema(responses={200: PublicationBody}, summary="See what became of an adapter's publication")
    def get(self, request: Request, adapter_id: UUID) -> Response:
        found = publications.latest(adapters.find(caller(request).account_id, adapter_id))
        if found is None:
            raise not_found("publication")
        return Response(PublicationBody.show(found))

    @extend_schema(responses={204: None}, summary="End an adapter's publication")
    def delete(self, request: Request, adapter_id: UUID) -> Response:
        """Nobody orders with it from now on but you and those it is shared with; what was ordered is still drawn."""
        account_id = caller(request).account_id
        with trail.acting(f"account {account_id}"):
            publications.withdraw(adapters.find(account_id, adapter_id))
        return Response(status=204)


class Catalogue(Public):
    @extend_schema(parameters=[MarketQuery], responses={200: Market}, summary="Look through the published adapters")
    def get(self, request: Request) -> Response:
        """Needs no API key. Order with one as any adapter: by its id, or as a model of OpenAI's clients."""
        query = MarketQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        values = query.validated_data
        found = market.offered().filter(market.search(values.get("search", "")))
        if tag := values.get("tag"):
            found = found.filter(tags__contains=[tag])
        if values["sort"] == "new":
            rows, following = page(found.order_by("-id"), values)
        else:
            order = F("uses" if values["sort"] == "uses" else "stars").desc(nulls_last=True)
            rows, following = list(found.order_by(order, "-id")[: min(values["limit"], MOST_SORTED)]), None
        listings = market.listings(rows)
        return Response(
            Market.show(
                data=[_shown(row, listings[row.id]) for row in rows if row.id in listings], next_cursor=following
            )
        )


class OneOffer(Public):
    @extend_schema(responses={200: OfferBody}, summary="See a published adapter")
    def get(self, request: Request, handle: str, slug: str) -> Response:
        """Needs no API key."""
        return Response(_shown(*_offer(handle, slug)))


class OfferSamples(Public):
    @extend_schema(
        responses={(200, "image/png"): OpenApiTypes.BINARY}, summary="Download a published adapter's samples"
    )
    def get(self, request: Request, handle: str, slug: str) -> FileResponse:
        """Needs no API key."""
        _, listing = _offer(handle, slug)
        try:
            return FileResponse(storage.open_file(listing.version.samples[-1]["path"]), content_type="image/png")
        except (IndexError, FileNotFoundError):
            raise not_found("sample") from None


class OfferRating(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(request=RatingOrder, responses={200: RatingBody}, summary="Rate an adapter that you bought with")
    def put(self, request: Request, handle: str, slug: str) -> Response:
        """Only those who bought pictures with it; again replaces what you said before."""
        found = market.find(handle, slug)
        order = RatingOrder(data=request.data)
        order.is_valid(raise_exception=True)
        return Response(
            RatingBody.show(opinions.rate(found, caller(request).account_id, order.validated_data["stars"]))
        )

    @extend_schema(responses={204: None}, summary="Take your rating back")
    def delete(self, request: Request, handle: str, slug: str) -> Response:
        opinions.forget_rating(market.find(handle, slug), caller(request).account_id)
        return Response(status=204)


class OfferReports(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(request=ReportOrder, responses={202: ReportBody}, summary="Report an adapter to the operator")
    def post(self, request: Request, handle: str, slug: str) -> Response:
        """While your report is open, another one is the same."""
        found = market.find(handle, slug)
        order = ReportOrder(data=request.data)
        order.is_valid(raise_exception=True)
        made = opinions.report(uuid7(), found, caller(request).account_id, **order.validated_data)
        return Response(ReportBody.show(made), status=202)


def _offer(handle: str, slug: str) -> tuple[Adapter, Listing]:
    adapter = market.find(handle, slug)
    listing = market.listings([adapter]).get(adapter.id)
    if listing is None:
        raise not_found("adapter")
    return adapter, listing


def _shown(adapter: Adapter, listing: Listing) -> dict[str, Any]:
    card = catalog.card(settings.MODEL)
    version = listing.version
    terms = AdapterTerms(
        adapter=str(adapter.id),
        version=version.number,
        surcharge=version.surcharge,
        fee=listing.fee,
        share=listing.share,
    )
    order = pricing.Order(
        operation=Operation.GENERATE,
        width=card.default_width,
        height=card.default_height,
        steps=version.recipe.get("steps") or card.default_steps,
        prompt="",
        adapters=(terms,),
    )
    price = format_tokens(pricing.quote(order, price_lists.current()).total)
    return schemas.show_offer(adapter, listing, price)
