"""A training's life as server-sent events, in the manner of a job's (`marketplace.api.jobs.events`)."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from marketplace.accounts.authentication import caller
from marketplace.api.bodies import Body
from marketplace.api.errors import not_found
from marketplace.api.fields import Text, Whole
from marketplace.api.jobs.events import (
    ENDED,
    HEADERS,
    MEDIA_TYPE,
    RETRY_SECONDS,
    EventStream,
    QueuedEvent,
    Whatever,
    event,
)
from marketplace.api.later import Stream
from marketplace.api.trainings import schemas
from marketplace.api.trainings.schemas import TrainingProgressBody
from marketplace.jobs.news import Preview
from marketplace.jobs.states import State
from marketplace.trainings import states
from marketplace.trainings.models import Training
from marketplace.trainings.states import TrainingState

EXAMPLE = """retry: 2000

id: 0.queued.1
event: queued
data: {"status":"queued","queue_position":1}

id: 1.running.50
event: running
data: {"status":"running","progress":{"step":50,"steps":1200,"loss":0.21,"seconds_left":690},"measured":50}

id: ended
event: ended
data: {"id":"01a1fc35-d9b0-7c28-b357-b63e93188538","status":"succeeded", …}

"""


class TrainingRunningEvent(Body):
    status = Text()
    progress = TrainingProgressBody(of="row")
    measured = Whole(of="row.evaluated", allow_null=True)


class TrainingEvents(APIView):
    renderer_classes = [EventStream]
    content_negotiation_class = Whatever

    @extend_schema(
        responses={
            200: OpenApiResponse(str, "Server-sent events; the last one is `ended`."),
            204: OpenApiResponse(None, "`Last-Event-ID` was that of `ended`: there is nothing more."),
        },
        examples=[OpenApiExample("a training's life", EXAMPLE, response_only=True, status_codes=["200"])],
        parameters=[
            OpenApiParameter("Last-Event-ID", str, "header", description="The id of the last event that was received.")
        ],
        summary="Watch a training",
    )
    def get(self, request: Request, training_id: UUID) -> HttpResponse:
        """Tells where the training stands, at once and whenever that changes, until it has ended.

        Events are `queued` with `queue_position`, `running` with `progress` (its loss and the seconds left) and the
        last step that was `measured`, whose samples can be downloaded then, and `ended` with the training as
        `GET /v1/trainings/{id}` shows it.
        """
        found = Training.objects.filter(account_id=caller(request).account_id, id=training_id).first()
        if found is None:
            raise not_found("training")
        tale = Tale(training_id, request.headers.get("Last-Event-ID", ""))
        if found.is_final and tale.told == ENDED:
            return HttpResponse(status=204, headers=HEADERS)
        beginning = f"retry: {RETRY_SECONDS * 1000}\n\n".encode()
        told = tale.end() if found.is_final else tale.write(states.look([training_id])[training_id])
        response = HttpResponse(beginning + told, content_type=MEDIA_TYPE, headers=HEADERS)
        if not found.is_final:
            response.later = Stream(training_id, found.account_id, tale.write, tale.end)  # type: ignore[attr-defined]
        return response


class Tale:
    """What one client is told of a training; `told` is the id of the last event."""

    def __init__(self, training_id: UUID, told: str) -> None:
        self.training_id = training_id
        self.told = told

    def write(self, news: State | Preview) -> bytes:
        """Return an event, nothing if that was told before."""
        state = cast(TrainingState, news)
        if state.is_running:
            told = f"{state.attempt}.running.{state.step}"
            shown = TrainingRunningEvent.show(state)
        else:
            told = f"{state.attempt}.queued.{state.position}"
            shown = QueuedEvent.show(state)
        if told == self.told:
            return b""
        self.told = told
        return event(state.status, told, shown)

    def end(self) -> bytes:
        """Return the last event: the training as it is now."""
        training = Training.objects.select_related("adapter", "tier", "version").get(id=self.training_id)
        return event(ENDED, ENDED, schemas.show(training))
