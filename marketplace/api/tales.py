"""Tales: the life of a job or a training as server-sent events (WHATWG's HTML, 9.2), until it has ended.

Every event has an id that says what it tells, so that a client that comes back with the last one (`Last-Event-ID`)
hears nothing twice. The view answers with where the thing stands now; what follows is `marketplace.api.later`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from marketplace.api.bodies import Body
from marketplace.api.fields import Text, Whole
from marketplace.api.later import Stream
from marketplace.jobs.news import Preview
from marketplace.jobs.states import State

View = TypeVar("View", bound=Callable[..., Any])

RETRY_SECONDS = 2
ENDED = "ended"
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class QueuedEvent(Body):
    status = Text()
    queue_position = Whole(of="row.position")


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


class TaleView(APIView):
    renderer_classes = [EventStream]
    content_negotiation_class = Whatever


class Tale(ABC):
    """What one client is told; `told` is the id of the last event that it has heard."""

    def __init__(self, request: Request) -> None:
        self.told = request.headers.get("Last-Event-ID", "")

    @abstractmethod
    def running(self, state: Any) -> dict[str, Any]:
        """Show a state in which it runs."""

    @abstractmethod
    def ended(self) -> dict[str, Any]:
        """Show the thing as it is now, after it has ended."""

    def preview(self, preview: Preview) -> bytes:
        """Return the event of a preview, if there is any."""
        return b""

    def write(self, news: State | Preview) -> bytes:
        """Return an event, nothing if that was told before."""
        if isinstance(news, Preview):
            return self.preview(news)
        if news.is_running:
            told, shown = f"{news.attempt}.running.{news.step}", self.running(news)
        else:
            told, shown = f"{news.attempt}.queued.{news.position}", QueuedEvent.show(news)
        if told == self.told:
            return b""
        self.told = told
        return event(news.status, told, shown)

    def end(self) -> bytes:
        """Return the last event."""
        return event(ENDED, ENDED, self.ended())

    def answer(self, thing: UUID, account: UUID, state: State | None) -> HttpResponse:
        """Answer with where it stands and whatever follows; without a state it has ended."""
        if state is None and self.told == ENDED:
            return HttpResponse(status=204, headers=HEADERS)
        beginning = f"retry: {RETRY_SECONDS * 1000}\n\n".encode()
        first = self.end() if state is None else self.write(state)
        response = HttpResponse(beginning + first, content_type=MEDIA_TYPE, headers=HEADERS)
        if state is not None:
            response.later = Stream(thing, account, self.write, self.end)  # type: ignore[attr-defined]
        return response


def described(what: str, example: str) -> Callable[[View], View]:
    """Describe the operation that tells of `what`."""
    heard = "The id of the last event that was received, after which the stream goes on."
    operation: Callable[[View], View] = extend_schema(
        responses={
            200: OpenApiResponse(str, "Server-sent events; the last one is `ended`."),
            204: OpenApiResponse(None, "`Last-Event-ID` was that of `ended`: there is nothing more."),
        },
        examples=[OpenApiExample(f"a {what}'s life", example, response_only=True, status_codes=["200"])],
        parameters=[OpenApiParameter("Last-Event-ID", str, "header", description=heard)],
        summary=f"Watch a {what}",
    )
    return operation


def event(name: str, told: str, shown: dict[str, Any]) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (told.encode(), name.encode(), JSONRenderer().render(shown))
