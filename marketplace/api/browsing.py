"""The API in a browser: answers and errors as readable pages for whoever prefers `text/html`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.utils.cache import patch_vary_headers
from rest_framework.metadata import BaseMetadata
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer

from marketplace import content_policy


def prefers_page(request: HttpRequest) -> bool:
    """Return whether a page is to be shown. Who sends a key is a program, even if it says `Accept` as browsers do."""
    if "text/" not in request.META.get("HTTP_ACCEPT", "").lower():
        return False
    if "Authorization" in request.headers and request.accepts("application/json"):
        return False
    return request.get_preferred_type(["application/json", "text/html"]) == "text/html"


def page(template: str, shown: dict[str, Any], status: int) -> HttpResponse:
    written = render_to_string(template, shown).encode(errors="replace")  # a name that was sent may be no text
    answer = HttpResponse(written, status=status)
    answer["Content-Security-Policy"] = content_policy.PAGE
    return answer


def browsable(view: Callable[[HttpRequest], JsonResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Let a function that answers with JSON answer with a page that shows it, where the client prefers one."""

    @wraps(view)
    def shown(request: HttpRequest) -> HttpResponse:
        answer: HttpResponse = view(request)
        if isinstance(answer, JsonResponse) and prefers_page(request):
            written = _written(request, json.loads(answer.content))
            answer = HttpResponse(written, status=answer.status_code)
            answer["Content-Security-Policy"] = content_policy.PAGE
        patch_vary_headers(answer, ["Accept"])
        return answer

    return shown


class Page(BaseRenderer):
    """A renderer of what a view answers, as a page that shows the JSON."""

    media_type = "text/html"
    format = "html"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> str | bytes:
        if data is None:
            return b""
        renderer_context["response"]["Content-Security-Policy"] = content_policy.PAGE
        return _written(renderer_context["request"]._request, data)


def _written(request: HttpRequest, data: Any) -> str:
    shown = json.dumps(data, indent=2, ensure_ascii=False)
    return render_to_string("answer.html", {"path": request.path, "json": shown})


class Negotiation(DefaultContentNegotiation):  # type: ignore[misc]
    """A choice of renderers that agrees with the errors'."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: str | None = None) -> Any:
        wanted = prefers_page(request._request)
        fitting = [each for each in renderers if not isinstance(each, Page) or wanted]
        return super().select_renderer(request, fitting[::-1] if wanted else fitting, format_suffix)


class NoMetadata(BaseMetadata):
    """OPTIONS answers with the headers alone; the fields are in the OpenAPI description."""

    def determine_metadata(self, request: Any, view: Any) -> None:
        return None
