"""Trainings of adapters over HTTP: parse, call one verb, show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet
from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.models import catalog
from lora import adapters, tiers
from lora.models import Adapter
from marketplace.accounts.authentication import caller
from marketplace.api.bodies import ObjectParser
from marketplace.api.catalogue.views import Public
from marketplace.api.headers import DESCRIBED_KEY, idempotency_key
from marketplace.api.pages import ListQuery, page
from marketplace.api.problems import not_found
from marketplace.api.trainings import schemas
from marketplace.api.trainings.schemas import (
    KeptBody,
    NewAdapterOrder,
    TierList,
    TrainingBody,
    TrainingList,
    TrainingOrderBody,
    TrainingQuoteBody,
    TrainingQuoteOrder,
)
from marketplace.identifiers import uuid7
from marketplace.trainings import lifecycle, orders, results, storage, submission
from marketplace.trainings.models import Training

ONCE = OpenApiParameter(
    "Idempotency-Key", DESCRIBED_KEY, "header", description="Sent again with the same body, it buys nothing more."
)


class Tiers(Public):
    @extend_schema(responses={200: TierList}, summary="List the tiers of trainings")
    def get(self, request: Request) -> Response:
        """Needs no API key. A training keeps the version of its tier that it was ordered in."""
        return Response(TierList.show(tiers.offered()))


class TrainingQuotes(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(
        request=TrainingQuoteOrder, responses={200: TrainingQuoteBody}, summary="See what a training would cost"
    )
    def post(self, request: Request) -> Response:
        """Costs nothing and stores nothing. The total is the product of the factors, rounded up."""
        body = TrainingQuoteOrder(data=request.data)
        body.is_valid(raise_exception=True)
        order = schemas.order(body.validated_data, caller(request).account_id)
        return Response(submission.quote(order)[1].as_json())


class Trainings(APIView):
    @extend_schema(parameters=[ListQuery], responses={200: TrainingList}, summary="List trainings, newest first")
    def get(self, request: Request) -> Response:
        return Response(listed(request, mine(request)))


class AdapterTrainings(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(
        request=TrainingOrderBody,
        responses={202: TrainingBody},
        parameters=[ONCE],
        summary="Train another version of an adapter",
    )
    def post(self, request: Request, adapter_id: UUID) -> Response:
        """Holds the price and queues the training; what comes of it is the adapter's next version."""
        body = TrainingOrderBody(data=request.data)
        body.is_valid(raise_exception=True)
        account_id, target = caller(request).account_id, {"further version of": str(adapter_id)}
        return buy(request, body.validated_data, target, lambda: adapters.find(account_id, adapter_id))

    @extend_schema(parameters=[ListQuery], responses={200: TrainingList}, summary="List an adapter's trainings")
    def get(self, request: Request, adapter_id: UUID) -> Response:
        adapter = adapters.find(caller(request).account_id, adapter_id)
        return Response(listed(request, mine(request).filter(adapter=adapter)))


class OneTraining(APIView):
    @extend_schema(responses={200: TrainingBody}, summary="See a training")
    def get(self, request: Request, training_id: UUID) -> Response:
        return Response(schemas.show(find(request, training_id)))


class CancelTraining(APIView):
    @extend_schema(request=None, responses={200: TrainingBody}, summary="Cancel a training")
    def post(self, request: Request, training_id: UUID) -> Response:
        """A queued training ends at once for nothing; a running one stops within seconds, delivers its best adapter so
        far, if one was measured, and costs the steps done (`cancel_cost`)."""
        lifecycle.cancel(caller(request).account_id, training_id)
        return Response(schemas.show(find(request, training_id)))


class TrainingSamples(APIView):
    @extend_schema(responses={(200, "image/png"): OpenApiTypes.BINARY}, summary="Download the samples of a step")
    def get(self, request: Request, training_id: UUID, step: int) -> FileResponse:
        """The pictures of the sample prompts as the adapter of that step draws them, in one picture."""
        found = [each for each in find(request, training_id).evaluations if each["step"] == step and each["samples"]]
        if not found:
            raise not_found("sample")
        try:
            return FileResponse(storage.open_file(found[0]["samples"]), content_type="image/png")
        except FileNotFoundError:
            raise not_found("sample") from None


class KeepStep(APIView):
    @extend_schema(request=None, responses={202: KeptBody}, summary="Make the adapter of another step a version")
    def post(self, request: Request, training_id: UUID, step: int) -> Response:
        """The training's own version is the one with the least loss; you may like another better. Costs nothing, and is
        ready within a minute or so, as a file that is sent (`GET /v1/adapters/{adapter_id}`)."""
        version = results.keep(caller(request).account_id, training_id, step)
        return Response(KeptBody.show(version), status=202)


def buy(request: Request, values: dict[str, Any], target: dict[str, Any], adapter: Callable[[], Adapter]) -> Response:
    """Answer an order of a training, checked already; what was bought before is not looked at again."""
    key, account_id, digest = idempotency_key(request), caller(request).account_id, orders.digest(values | target)
    submitted = submission.replay(account_id, digest, key) or submission.submit(
        account_id,
        schemas.order(values, account_id),
        digest,
        adapter,
        key_id=caller(request).key_id,
        idempotency_key=key,
    )
    headers = {"Location": f"/v1/trainings/{submitted.training.id}"}
    if submitted.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(schemas.show(find(request, submitted.training.id)), status=202, headers=headers)


def train_new(request: Request) -> Response:
    """Answer an order of an adapter that is to be trained."""
    body = NewAdapterOrder(data=request.data)
    body.is_valid(raise_exception=True)
    values = body.validated_data
    account_id, card = caller(request).account_id, catalog.card(settings.MODEL)
    named = {name: values[name] for name in ("slug", "name", "description", "trigger_words")}

    def make() -> Adapter:
        return adapters.create(uuid7(), account_id, base_model=card.name, base_revision=card.revision, **named)

    return buy(request, values, named, make)


def mine(request: Request) -> QuerySet[Training]:
    found = Training.objects.filter(account_id=caller(request).account_id)
    return found.select_related("adapter", "tier", "version")


def find(request: Request, training_id: UUID) -> Training:
    found = mine(request).filter(id=training_id).first()
    if found is None:
        raise not_found("training")
    return found


def listed(request: Request, found: QuerySet[Training]) -> dict[str, Any]:
    query = ListQuery(data=request.query_params.dict())
    query.is_valid(raise_exception=True)
    rows, following = page(found.order_by("-id"), query.validated_data)
    return TrainingList.show(data=[schemas.show(row) for row in rows], next_cursor=following)
