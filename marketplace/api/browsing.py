"""The API in a browser: answers and errors as readable pages for whoever prefers `text/html`."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from rest_framework.metadata import BaseMetadata
from rest_framework.renderers import BaseRenderer

from marketplace import content_policy


def prefers_page(request: HttpRequest) -> bool:
    return request.get_preferred_type(["application/json", "text/html"]) == "text/html"


def page(template: str, shown: dict[str, Any], status: int) -> HttpResponse:
    answer = HttpResponse(render_to_string(template, shown), status=status)
    answer["Content-Security-Policy"] = content_policy.PAGE
    return answer


class Page(BaseRenderer):
    """A renderer of what a view answers, as a page that shows the JSON."""

    media_type = "text/html"
    format = "html"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> str | bytes:
        if data is None:
            return b""
        request, answer = renderer_context["request"]._request, renderer_context["response"]
        answer["Content-Security-Policy"] = content_policy.PAGE
        shown = json.dumps(data, indent=2, ensure_ascii=False)
        return render_to_string("answer.html", {"path": request.path, "json": shown})


class NoMetadata(BaseMetadata):
    """OPTIONS answers with the headers alone; the fields are in the OpenAPI description."""

    def determine_metadata(self, request: Any, view: Any) -> None:
        return None
