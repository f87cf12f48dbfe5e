"""Django's ordinary handler, called from an ASGI server: in a thread, for as long as it works and no longer."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import IO, Any

from django.db import connection
from rest_framework.renderers import JSONRenderer

from marketplace.accounts import tiers
from marketplace.api.later import Answer, Stream, Waiting
from marketplace.api.problems import ErrorBody, ErrorDetail, Problem

Scope = MutableMapping[str, Any]
Headers = list[tuple[str, str]]
WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Response:
    """An answer with all its bytes, what is to come later, and how many such the account's tier lets be open."""

    status: int
    headers: Headers
    content: bytes
    later: Waiting | Stream | None = None
    most_streams: int = 0
    names: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = {name.lower(): value for name, value in self.headers}

    def replaced(self, answer: Answer) -> Response:
        """Return the response with the status, body and headers of another answer, and its own other headers."""
        content = JSONRenderer().render(answer.body)
        new = {"Content-Type": "application/json", **answer.headers, "Content-Length": str(len(content))}
        kept = [each for each in self.headers if each[0].lower() not in {name.lower() for name in new}]
        return Response(answer.status, [*kept, *new.items()], content)

    def opened(self, headers: Mapping[str, str]) -> Response:
        """Return the beginning of a stream in the response's place, with its own other headers."""
        gone = {"content-length", "retry-after", *(name.lower() for name in headers)}
        return Response(200, [*(each for each in self.headers if each[0].lower() not in gone), *headers.items()], b"")


def call(application: WsgiApplication, environ: dict[str, Any]) -> Response:
    """Return the application's whole answer."""
    begun: list[Any] = []
    response = application(environ, lambda status, headers, *_: begun.extend((status, headers)))
    try:
        content = b"".join(response)
        later = getattr(response, "later", None)
        most_streams = tiers.of(later.account_id).streams if later else 0
    finally:
        response.close()  # type: ignore[attr-defined]
    status, headers = begun
    return Response(int(status[:3]), list(headers), content, later, most_streams)


def knock(scope: Scope) -> dict[str, Any]:
    """Return a request that asks no more than whether a request's sender is known: 200 if so."""
    headers = [(name, value) for name, value in scope["headers"] if name in {b"authorization", b"host", b"origin"}]
    asked = {"method": "GET", "path": "/v1/account", "query_string": b"", "headers": headers}
    return environ({**scope, **asked}, None)


def ask(question: Callable[[], Any]) -> Any:
    """Return the answer to what asks the database outside a request; the pool has the connection back then."""
    try:
        return question()
    finally:
        connection.close()


def refusal(problem: Problem, response: Response) -> Response:
    """Return an error in the shape of all errors, with the headers of what is sent otherwise: its id, limits, CORS."""
    body = ErrorBody.show(error=ErrorDetail.show(problem, request_id=response.names.get("x-request-id")))
    return response.replaced(Answer(problem.status, body, {"Content-Type": "application/json", **problem.headers}))


def environ(scope: Scope, body: IO[bytes] | None) -> dict[str, Any]:
    """Return a request as WSGI (PEP 3333) has it. Headers with an underscore are dropped: they look like others."""
    server, client = scope.get("server") or ("localhost", 80), scope.get("client") or ("", 0)
    found: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode().decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": body or io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        key = key if key in {"CONTENT_LENGTH", "CONTENT_TYPE"} else f"HTTP_{key}"
        found[key] = f"{found[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}" if key in found else value
    return found
