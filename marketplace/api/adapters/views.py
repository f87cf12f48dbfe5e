"""Adapters over HTTP: sent as files, seen, changed, shared, downloaded, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.http import FileResponse, QueryDict
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.models import catalog
from lora import adapters, makers, versions
from marketplace.accounts.authentication import caller
from marketplace.adapters import uploads
from marketplace.api.adapters import schemas
from marketplace.api.adapters.schemas import (
    AdapterChange,
    AdapterForm,
    AdapterList,
    MakerBody,
    MakerChange,
    OneAdapterBody,
    VersionBody,
    VersionForm,
)
from marketplace.api.bodies import ObjectParser, StrictSerializer
from marketplace.api.images import forms
from marketplace.api.pages import ListQuery, page
from marketplace.api.problems import Problem, invalid, not_found
from marketplace.api.trainings import views as trainings
from marketplace.api.trainings.schemas import NewAdapterOrder, TrainingBody
from marketplace.audit import trail
from marketplace.identifiers import uuid7

MADE = PolymorphicProxySerializer(
    component_name="MadeAdapter", serializers=[OneAdapterBody, TrainingBody], resource_type_field_name=None
)


class Adapters(APIView):
    parser_classes = [MultiPartParser, ObjectParser]

    @extend_schema(
        request={"multipart/form-data": AdapterForm, "application/json": NewAdapterOrder},
        responses={202: MADE},
        parameters=[trainings.ONCE],
        summary="Make an adapter, from a file or by a training",
    )
    def post(self, request: Request) -> Response:
        """With a form, from its file: its first version is checked after the answer, and becomes `ready` or `refused`
        within a minute or so; webhooks tell of it (`adapter.ready`, `adapter.refused`).

        With JSON, by a training: its price is held and it is queued; the adapter can be used once it has succeeded.
        """
        if not isinstance(request.data, QueryDict):
            return trainings.train_new(request)
        account_id, sent = caller(request).account_id, _fields(request, AdapterForm())
        card, file = catalog.card(settings.MODEL), sent.pop("file")
        _check_size(file)
        recipe, configuration = sent.pop("recipe"), sent.pop("configuration", "")
        with transaction.atomic():
            made = adapters.create(uuid7(), account_id, base_model=card.name, base_revision=card.revision, **sent)
            version = uploads.begin(made, file.size or 0)
        uploads.receive(version, file, file.name or "", recipe=recipe, configuration=configuration)
        return Response(schemas.show_one(made, account_id), status=202, headers={"Location": f"/v1/adapters/{made.id}"})

    @extend_schema(
        parameters=[ListQuery], responses={200: AdapterList}, summary="List your adapters, and those shared with you"
    )
    def get(self, request: Request) -> Response:
        query = ListQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        account_id = caller(request).account_id
        rows, following = page(adapters.known(account_id).order_by("-id"), query.validated_data)
        return Response(schemas.show_all(rows, account_id, following))


class OneAdapter(APIView):
    @extend_schema(responses={200: OneAdapterBody}, summary="See an adapter and its versions")
    def get(self, request: Request, adapter_id: UUID) -> Response:
        account_id = caller(request).account_id
        found = adapters.usable(account_id).filter(id=adapter_id).first()
        if found is None:
            raise not_found("adapter")
        return Response(schemas.show_one(found, account_id))

    @extend_schema(request=AdapterChange, responses={200: OneAdapterBody}, summary="Change an adapter's words")
    def patch(self, request: Request, adapter_id: UUID) -> Response:
        found = adapters.find(caller(request).account_id, adapter_id)
        changes = AdapterChange(data=request.data)
        changes.is_valid(raise_exception=True)
        adapters.change(found, **changes.validated_data)
        found.refresh_from_db()
        return Response(schemas.show_one(found, found.owner_id))

    @extend_schema(responses={204: None}, summary="Delete an adapter")
    def delete(self, request: Request, adapter_id: UUID) -> Response:
        """Nobody orders with it from now on. What was ordered before is still drawn; then its files are removed."""
        with _acting(request) as account_id:
            adapters.delete(adapters.find(account_id, adapter_id))
        return Response(status=204)


class Versions(APIView):
    parser_classes = [MultiPartParser]

    def handle_exception(self, error: Exception) -> Response:
        if isinstance(error, UnsupportedMediaType):
            message = "Send a form with the file: `Content-Type: multipart/form-data`."
            error = Problem(415, "invalid_request", "not_multipart", message)
        return super().handle_exception(error)

    @extend_schema(
        request={"multipart/form-data": VersionForm}, responses={202: VersionBody}, summary="Send a further version"
    )
    def post(self, request: Request, adapter_id: UUID) -> Response:
        """It is checked as the first was; orders that name no version take it once it is ready."""
        found = adapters.find(caller(request).account_id, adapter_id)
        sent = _fields(request, VersionForm())
        _check_size(sent["file"])
        card = catalog.card(settings.MODEL)
        if (found.base_model, found.base_revision) != (card.name, card.revision):
            raise invalid(None, "This adapter is for a model that is not served now.", "adapter_of_other_model")
        version = uploads.begin(found, sent["file"].size or 0)
        file = sent.pop("file")
        uploads.receive(version, file, file.name or "", **sent)
        return Response(VersionBody.show(version), status=202, headers={"Location": f"/v1/adapters/{found.id}"})


class OneVersion(APIView):
    @extend_schema(responses={204: None}, summary="Delete a version")
    def delete(self, request: Request, adapter_id: UUID, number: int) -> Response:
        """Nobody orders with it from now on. What was ordered before is still drawn; then its file is removed."""
        with _acting(request) as account_id:
            versions.delete(adapters.find(account_id, adapter_id), _number(number))
        return Response(status=204)


class VersionFile(APIView):
    @extend_schema(
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY}, summary="Download a version's file"
    )
    def get(self, request: Request, adapter_id: UUID, number: int) -> FileResponse:
        """The canonical form of what was sent, or what was trained; for its maker alone."""
        found = adapters.find(caller(request).account_id, adapter_id)
        version = versions.pick(found, _number(number))
        try:
            content = uploads.open_file(version)
        except FileNotFoundError as error:
            raise not_found("version") from error
        name = f"{found.slug}-{version.number}.safetensors"
        answer = FileResponse(content, as_attachment=True, filename=name, content_type="application/octet-stream")
        answer["ETag"] = f'"{version.sha256}"'
        answer["Cache-Control"] = "private, no-cache"
        return answer


class Sharing(APIView):
    @extend_schema(request=None, responses={204: None}, summary="Share an adapter with an account")
    def put(self, request: Request, adapter_id: UUID, account_id: UUID) -> Response:
        """By the account's id, as its owner sees it in `GET /v1/account`. Whether there is one is not told."""
        with _acting(request) as owner:
            found = adapters.find(owner, adapter_id)
            if account_id == owner:
                raise invalid("account_id", "It is yours already.")
            adapters.share(found, account_id)
        return Response(status=204)

    @extend_schema(responses={204: None}, summary="Share an adapter with an account no longer")
    def delete(self, request: Request, adapter_id: UUID, account_id: UUID) -> Response:
        with _acting(request) as owner:
            adapters.unshare(adapters.find(owner, adapter_id), account_id)
        return Response(status=204)


class OneMaker(APIView):
    @extend_schema(responses={200: MakerBody}, summary="See the handle that others know you by")
    def get(self, request: Request) -> Response:
        return Response(MakerBody.show(makers.ensure(caller(request).account_id)))

    @extend_schema(request=MakerChange, responses={200: MakerBody}, summary="Choose your handle, once")
    def patch(self, request: Request) -> Response:
        chosen = MakerChange(data=request.data)
        chosen.is_valid(raise_exception=True)
        return Response(MakerBody.show(makers.choose_handle(caller(request).account_id, **chosen.validated_data)))


@contextmanager
def _acting(request: Request) -> Iterator[UUID]:
    """Open a transaction in the audit of which the caller's account is the actor, and yield the account."""
    account_id = caller(request).account_id
    with trail.acting(f"account {account_id}"):
        yield account_id


def _fields(request: Request, form: StrictSerializer) -> dict[str, Any]:
    """Return a form's fields, checked; lists are in names such as `trigger_words[]`. Its file is not read."""
    data = request.data if isinstance(request.data, QueryDict) else QueryDict()
    files = [(name, each) for name, values in data.lists() for each in values if isinstance(each, UploadedFile)]
    if len({name for name, _ in files}) < len(files):
        raise invalid(files[-1][0][:50], "Must be there once.")
    words = QueryDict(mutable=True)
    for name, values in data.lists():
        if texts := [each for each in values if isinstance(each, str)]:
            words.setlist(name, texts)
    body = forms.body_of(words, form.fields) | dict(files)
    checked: dict[str, Any] = form.run_validation(body)
    return checked


def _check_size(file: UploadedFile[Any]) -> None:
    if (file.size or 0) > settings.ADAPTER_MB * 1024**2:
        raise invalid("file", f"Must have at most {settings.ADAPTER_MB} MiB.", "file_too_large")


def _number(number: int) -> int:
    if not 0 < number < 2**31:
        raise not_found("version")
    return number
