"""OpenAI's Images API over HTTP. The pictures are bought here; whoever waits for them is `marketplace.streams`."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.http import HttpResponse, QueryDict
from drf_spectacular.utils import extend_schema
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.card import ModelCard
from inference.models import catalog
from marketplace.accounts import keys
from marketplace.accounts.authentication import ApiKeyAuthentication, caller
from marketplace.api.bodies import ObjectParser
from marketplace.api.headers import idempotency_key
from marketplace.api.images import answers, forms, schemas
from marketplace.api.images.schemas import EditForm, EditSerializer, GenerationSerializer, ImagesBody, Wish
from marketplace.api.later import Stream, Waiting
from marketplace.api.problems import Problem
from marketplace.api.tales import HEADERS, MEDIA_TYPE
from marketplace.jobs import submission
from marketplace.jobs.models import Job
from marketplace.jobs.orders import JobOrder

MADE = {200: ImagesBody, (200, MEDIA_TYPE): str}
WAIT_SECONDS = 590
"""A little less than the ten minutes for which OpenAI's clients wait."""
RETRIED_WITHIN = timedelta(minutes=10)
"""How long after an order a client that says it tries again means the same one."""


class Images(APIView):
    """What both calls have in common: an order is bought, and its job is told when it has ended."""

    def get_authenticators(self) -> list[BaseAuthentication]:
        return [ApiKeyAuthentication(keys.recall)]

    def bought(self, request: Request, order: JobOrder, wish: Wish) -> HttpResponse:
        """Buy, and answer with the pictures, once they are there, or with a stream.

        Where nobody can wait for them, clients are told to try again, which finds the same job.
        """
        job = self._retried(request, order) or self._new(request, order)
        card = _card()
        answer = partial(answers.answer, job.id, wish, card, request._request)
        stream = answers.Stream(job, wish, card, request._request)
        headers = {"Content-Type": MEDIA_TYPE, **HEADERS}
        if wish.streamed and job.is_final:
            return HttpResponse(stream.end(), headers=headers)
        found = answer()
        made = Response(found.body, status=found.status, headers=dict(found.headers))
        if wish.streamed:
            later = Stream(job.id, job.account_id, stream.write, stream.end, opens=headers)
            made.later = later  # type: ignore[attr-defined]
        elif not job.is_final:
            made.later = Waiting(job.id, job.account_id, WAIT_SECONDS, answer)  # type: ignore[attr-defined]
        return made

    def _new(self, request: Request, order: JobOrder) -> Job:
        who = caller(request)
        bought = submission.submit(who.account_id, order, key_id=who.key_id, idempotency_key=idempotency_key(request))
        return bought.job

    def _retried(self, request: Request, order: JobOrder) -> Job | None:
        """Return the job of the same order if the client says that it tries again, and sends no key to know it by."""
        count = request.headers.get("x-stainless-retry-count", "0")
        if "Idempotency-Key" in request.headers or not count.isdecimal() or not count.strip("0"):
            return None
        return submission.recent(caller(request).account_id, order, RETRIED_WITHIN)


class Generations(Images):
    parser_classes = [ObjectParser]

    @extend_schema(request=GenerationSerializer, responses=MADE, summary="Make pictures (OpenAI's form)")
    def post(self, request: Request) -> HttpResponse:
        """For clients that speak OpenAI's Images API: the answer comes when the pictures are there.

        With `stream`, server-sent events `image_generation.partial_image` and `image_generation.completed`.
        """
        key = idempotency_key(request)
        return self.bought(request, *schemas.generation(dict(request.data), caller(request).account_id, _card(), key))


class Edits(Images):
    parser_classes = [MultiPartParser, ObjectParser]

    def handle_exception(self, error: Exception) -> Response:
        if isinstance(error, UnsupportedMediaType):
            error = Problem(415, "invalid_request", "not_json", "Send JSON, or a form: `multipart/form-data`.")
        return super().handle_exception(error)

    @extend_schema(
        request={"multipart/form-data": EditForm, "application/json": EditSerializer},
        responses=MADE,
        summary="Edit pictures (OpenAI's form)",
    )
    def post(self, request: Request) -> HttpResponse:
        """For clients that speak OpenAI's Images API: the answer comes when the pictures are there.

        With a `mask`, only what is transparent there changes, or, if nothing is, what is white. With `stream`,
        server-sent events `image_edit.partial_image` and `image_edit.completed`.
        """
        key = idempotency_key(request)
        return self.bought(request, *schemas.edit(_body(request), caller(request).account_id, _card(), key))


class Variations(Images):
    @extend_schema(exclude=True)
    def post(self, request: Request) -> HttpResponse:
        message = "Variations are not made any more; send the picture to /v1/images/edits and say what should change."
        raise Problem(400, "invalid_request", "retired", message)


def _card() -> ModelCard:
    return catalog.card(settings.MODEL)


def _body(request: Request) -> dict[str, Any]:
    if isinstance(request.data, QueryDict):
        return forms.body_of(request.data, schemas.sources())
    return dict(request.data)
