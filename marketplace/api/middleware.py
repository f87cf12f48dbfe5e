"""Middleware for every request: an id to quote in support, methods, conditions, and what may be sent."""

from __future__ import annotations

import copy
import re
import secrets
import zlib
from collections.abc import Callable

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.utils.cache import get_conditional_response, set_response_etag

from marketplace.api.bodies import most_text
from marketplace.api.errors import answer_to
from marketplace.api.problems import Problem, invalid, respond
from marketplace.masking import mask

CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
LENGTH = re.compile("[0-9]{1,18}")
CHARSETS = {"", "utf-8", "utf8", "us-ascii"}
WITH_PICTURES = {"/v1/files": 1, "/v1/quotes": 2, "/v1/jobs": 2, "/v1/images/generations": 2, "/v1/images/edits": 4}
"""Addresses where pictures are sent, and how many times as large as a file a body may be there; it is not gzipped.

A data URL is a third longer than what it says.
"""
WITH_ADAPTERS = re.compile("/v1/adapters(/[^/]+/versions)?")
"""Addresses where adapters' files are sent, in forms."""
GZIP = 16 + zlib.MAX_WBITS
View = Callable[[HttpRequest], HttpResponse]


class RequestId:
    """An `X-Request-Id` on every answer and in every error: the client's own if it is sound, else a new one.

    Ids are logged and audited, so one with a secret in it is not sound.
    """

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-Id", "")
        sound = CLIENT_ID.fullmatch(given) and mask(given) == given
        request.id = given if sound else f"req_{secrets.token_hex(12)}"  # type: ignore[attr-defined]
        response = self.get_response(request)
        response["X-Request-Id"] = request.id  # type: ignore[attr-defined]
        return response


class Unavailability:
    """A database that is away is a 503 on every page, not only where REST framework hands exceptions to the table."""

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Return None if it is something else: Django answers that."""
        return answer_to(error, request) if isinstance(error, OperationalError | InterfaceError) else None


class Methods:
    """Methods that a page does not have are refused in the shape of all errors, and OPTIONS is told which it has."""

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if not isinstance(response, HttpResponseNotAllowed):
            return response
        allowed = {"Allow": f"{response['Allow']}, OPTIONS"}
        if request.method == "OPTIONS":
            return HttpResponse(headers=allowed)
        message = f'Method "{request.method}" not allowed.'
        return respond(Problem(405, "invalid_request", "method_not_allowed", message, headers=allowed), request)


class Conditions:
    """An `ETag` on whatever GET answers and may be kept; `If-None-Match` and `If-Match` by it (RFC 9110, 13).

    Before a change, both are compared with what GET answers for the same address.
    """

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method not in {"GET", "HEAD", "OPTIONS"}:
            conditional = "HTTP_IF_MATCH" in request.META or "HTTP_IF_NONE_MATCH" in request.META
            return (self._refusal(request) if conditional else None) or self.get_response(request)
        response = self.get_response(request)
        if response.status_code != 200 or request.method == "OPTIONS":
            return response
        if hasattr(response, "later"):  # what it will be is not known yet
            return response
        if not response.has_header("ETag") and "no-store" not in response.get("Cache-Control", ""):
            set_response_etag(response)
        return self._condition(request, response)

    def _refusal(self, request: HttpRequest) -> HttpResponse | None:
        """Return None if the conditions of a change hold; `*` stands for anything that there is.

        Who may not see what is there, or cannot just now, is told that.
        """
        looking = copy.copy(request)
        looking.method = "GET"
        looking.META = request.META | {"REQUEST_METHOD": "GET", "CONTENT_LENGTH": "0"}
        current = self.get_response(looking)
        if current.status_code in {404, 405}:
            return _changed(request) if "If-Match" in request.headers else None
        if current.status_code != 200:
            return current
        set_response_etag(current)
        answer = self._condition(request, current)
        return answer if answer.status_code == 412 else None

    def _condition(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Return the response, or what the request's conditions make of it."""
        answer = get_conditional_response(request, etag=response.get("ETag"), response=response)
        return response if answer is None else _changed(request) if answer.status_code == 412 else answer


class Bodies:
    """What is sent, checked before any of it is parsed: its size, its coding, and that no parameter is there twice.

    A gzipped body is unpacked, as far as the address takes text. Without a length nothing is read.
    """

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            _check_length(request)
            _check_coding(request)
            _check_query(request)
        except Problem as problem:
            return respond(problem, request)
        return self.get_response(request)


def most_bytes(path: str, content_type: str = "") -> int:
    """Return how large a body of this type sent to this address may be."""
    if WITH_ADAPTERS.fullmatch(path) and content_type.lower().startswith("multipart/form-data"):
        return int(settings.MAX_BODY_BYTES + settings.ADAPTER_MB * 1024**2)
    return int(most_text(path) + settings.FILE_MB * 1024**2 * WITH_PICTURES.get(path, 0))


def _check_length(request: HttpRequest) -> None:
    if request.headers.get("Transfer-Encoding") and not request.META.get("CONTENT_LENGTH"):
        raise Problem(411, "invalid_request", "length_required", "Send a Content-Length.")
    length = request.META.get("CONTENT_LENGTH") or "0"
    limit = most_bytes(request.path, request.META.get("CONTENT_TYPE", ""))
    if not LENGTH.fullmatch(length) or int(length) > limit:
        raise _too_large(limit)


def _check_coding(request: HttpRequest) -> None:
    """Unpack the body if it is packed. Raises Problem for any charset but UTF-8, and for any coding but gzip."""
    charset = (request.content_params or {}).get("charset", "").lower()
    coding = request.headers.get("Content-Encoding", "").strip().lower() or "identity"
    if charset not in CHARSETS:
        raise Problem(415, "invalid_request", "unsupported_charset", "Send UTF-8.", "Content-Type")
    if request.META.get("CONTENT_LENGTH") in {None, "", "0"}:
        return
    if coding in {"gzip", "x-gzip"}:
        request._body = _unpack(request.body, most_text(request.path))  # type: ignore[attr-defined]
        request.META["CONTENT_LENGTH"] = str(len(request._body))  # type: ignore[attr-defined]
    elif coding != "identity":
        message, accepted = "A body may be gzipped, and coded in no other way.", {"Accept-Encoding": "gzip, identity"}
        raise Problem(415, "invalid_request", "unsupported_coding", message, "Content-Encoding", accepted)


def _unpack(packed: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj(GZIP)
    try:
        body = unpacker.decompress(packed, most + 1)
    except zlib.error:
        body = b""
    if len(body) > most:
        raise _too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise Problem(400, "invalid_request", "malformed", "The request body is not gzip.")
    return body


def _check_query(request: HttpRequest) -> None:
    if request.META.get("QUERY_STRING") and request.path.startswith("/v1/"):
        for name, values in request.GET.lists():
            if len(values) > 1:
                raise invalid(name[:50], "Must be there once.")


def _too_large(limit: int) -> Problem:
    message = f"The body may have at most {limit // 1024} KiB, also unpacked."
    return Problem(413, "invalid_request", "body_too_large", message)


def _changed(request: HttpRequest) -> HttpResponse:
    message = "This is not what is there now: get it again."
    return respond(Problem(412, "conflict", "precondition_failed", message, "If-Match"), request)
