"""A job's life as server-sent events (WHATWG's HTML, 9.2): where it stands, previews, and the job once it has ended.

Every event has an id that says what it tells, so that a client that comes back with the last one (`Last-Event-ID`)
hears nothing twice. The view answers with where the job stands now; what follows is `marketplace.api.later`'s.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from marketplace.accounts.authentication import caller
from marketplace.api.bodies import Body
from marketplace.api.errors import not_found
from marketplace.api.fields import Text, Whole
from marketplace.api.jobs import schemas
from marketplace.api.jobs.schemas import ProgressBody
from marketplace.api.later import Stream
from marketplace.jobs import turns
from marketplace.jobs.models import Image, Job
from marketplace.jobs.news import Preview
from marketplace.jobs.states import State

RETRY_SECONDS = 2
ENDED = "ended"
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
EXAMPLE = """retry: 2000

id: 0.queued.1
event: queued
data: {"status":"queued","queue_position":1}

id: 1.running.5
event: running
data: {"status":"running","progress":{"step":5,"steps":20}}

id: 1.preview.0.5
event: preview
data: {"index":0,"step":5,"image":"data:image/jpeg;base64,…"}

id: ended
event: ended
data: {"id":"01a1fc35-d9b0-7c28-b357-b63e93188538","status":"succeeded", …}

"""


class QueuedEvent(Body):
    status = Text()
    queue_position = Whole(of="row.position")


class RunningEvent(Body):
    status = Text()
    progress = ProgressBody(of="row")


class PreviewEvent(Body):
    index = Whole()
    step = Whole()
    image = Text(given=True)


class EventStream(BaseRenderer):
    """The media type of the answer, for the description."""

    media_type = MEDIA_TYPE
    format = "txt"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> Any:
        return data


class Whatever(BaseContentNegotiation):  # type: ignore[misc]
    """A stream of events, whatever is accepted: those who ask here can read nothing else."""

    def select_parser(self, request: Any, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Any, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class JobEvents(APIView):
    renderer_classes = [EventStream]
    content_negotiation_class = Whatever

    @extend_schema(
        responses={
            200: OpenApiResponse(str, "Server-sent events; the last one is `ended`."),
            204: OpenApiResponse(None, "`Last-Event-ID` was that of `ended`: there is nothing more."),
        },
        examples=[OpenApiExample("a job's life", EXAMPLE, response_only=True, status_codes=["200"])],
        parameters=[
            OpenApiParameter(
                "Last-Event-ID",
                str,
                "header",
                description="The id of the last event that was received, after which the stream goes on.",
            )
        ],
        summary="Watch a job",
    )
    def get(self, request: Request, job_id: UUID) -> HttpResponse:
        """Tells where the job stands, at once and whenever that changes, with small previews, until it has ended.

        Events are `queued` with `queue_position`, `running` with `progress`, `preview` with `index`, `step` and a small
        picture as a data URL, and `ended` with the job as `GET /v1/jobs/{id}` shows it, after which the stream ends.
        Comments keep the connection open. A stream may end early; come back with `Last-Event-ID`.
        """
        job = Job.objects.filter(account_id=caller(request).account_id, id=job_id).first()
        if job is None:
            raise not_found("job")
        tale = Tale(request._request, job, request.headers.get("Last-Event-ID", ""))
        if job.is_final and tale.told == ENDED:
            return HttpResponse(status=204, headers=HEADERS)
        response = HttpResponse(tale.begin(), content_type=MEDIA_TYPE, headers=HEADERS)
        if not job.is_final:
            response.later = Stream(job.id, job.account_id, tale.write, tale.end)  # type: ignore[attr-defined]
        return response


class Tale:
    """What one client is told of a job; `told` is the id of the last event."""

    def __init__(self, request: HttpRequest, job: Job, told: str) -> None:
        self.request = request
        self.job = job
        self.told = told

    def begin(self) -> bytes:
        beginning = f"retry: {RETRY_SECONDS * 1000}\n\n".encode()
        if self.job.is_final:
            return beginning + self.end()
        return beginning + self.write(State.of(self.job, turns.queue_position(self.job)))

    def write(self, news: State | Preview) -> bytes:
        """Return an event, nothing if that was told before."""
        if isinstance(news, Preview):
            image = f"data:image/jpeg;base64,{news.jpeg}"
            shown = PreviewEvent.show(news, image=image)
            return event("preview", f"{news.attempt}.preview.{news.index}.{news.step}", shown)
        if news.is_running:
            told = f"{news.attempt}.running.{news.step}"
            shown = RunningEvent.show(news)
        else:
            told = f"{news.attempt}.queued.{news.position}"
            shown = QueuedEvent.show(news)
        if told == self.told:
            return b""
        self.told = told
        return event(news.status, told, shown)

    def end(self) -> bytes:
        """Return the last event: the job as it is now, pictures and cost included."""
        job = Job.objects.get(id=self.job.id)
        shown = schemas.show(job, list(Image.objects.filter(job_id=job.id)), self.request)
        return event(ENDED, ENDED, shown)


def event(name: str, told: str, shown: dict[str, Any]) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (told.encode(), name.encode(), JSONRenderer().render(shown))
