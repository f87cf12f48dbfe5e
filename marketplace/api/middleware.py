"""Middleware for every request: an id to quote in support, and a limit on the body's size."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from marketplace.api.errors import Problem, respond

CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
View = Callable[[HttpRequest], HttpResponse]


class RequestId:
    """An `X-Request-Id` on every answer and in every error: the client's own if it is valid, else a new one."""

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-Id", "")
        request.id = given if CLIENT_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"  # type: ignore[attr-defined]
        response = self.get_response(request)
        response["X-Request-Id"] = request.id  # type: ignore[attr-defined]
        return response


class BodyLimit:
    """A 413 for a body over `MAX_BODY_BYTES`, before any of it is parsed. Without a length nothing is read."""

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.headers.get("Transfer-Encoding") and not request.META.get("CONTENT_LENGTH"):
            return respond(Problem(411, "invalid_request", "length_required", "Send a Content-Length."), request)
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not length.isdigit() or int(length) > settings.MAX_BODY_BYTES:
            limit = settings.MAX_BODY_BYTES // 1024
            return respond(
                Problem(413, "invalid_request", "body_too_large", f"The body may have at most {limit} KiB."),
                request,
            )
        return self.get_response(request)
