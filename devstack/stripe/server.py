"""The double's HTTP server: one thread per connection, and others for webhooks and the clock."""

import contextlib
import json
import socket
import sqlite3
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from devstack.stripe import control, hosted
from devstack.stripe.api import Answer, Api, Request
from devstack.stripe.clockwork import Clockwork
from devstack.stripe.errors import ApiError
from devstack.stripe.objects import random_text
from devstack.stripe.store import Store
from devstack.stripe.webhooks import Courier, Endpoint

MAX_BODY = 256 * 1024
IDLE_SECONDS = 60.0
JSON = "application/json"


@dataclass(frozen=True)
class Settings:
    """The settings. `port` 0 picks a free one; `data` None keeps nothing; `key` None takes any `sk_test_…`."""

    port: int
    endpoint: Endpoint
    data: Path | None = None
    host: str = "127.0.0.1"
    public_url: str | None = None
    key: str | None = None


class Double:
    """A Stripe to test against, from `serve` to `stop`; its `url` goes into the SDK's `base_addresses`."""

    def __init__(self, settings: Settings) -> None:
        """Bind the port. Raises OSError if it is not available, sqlite3.Error if the file is not the double's."""
        self._server = _Server((settings.host, settings.port), _Handler)
        self.url = f"http://{settings.host}:{self._server.server_address[1]}"
        self.endpoint = settings.endpoint
        try:
            self._store = Store(settings.data)
        except sqlite3.Error:
            self._server.server_close()
            raise
        notifies = settings.endpoint.url is not None
        self.api = Api(self._store, settings.public_url or self.url, notifies, settings.key)
        self._server.double = self
        self._threads = (Courier(self._store, settings.endpoint), Clockwork(self.api))

    def serve(self) -> None:
        """Answer until `stop` is called from another thread; then finish what is under way and close the file."""
        for each in self._threads:
            each.start()
        try:
            self._server.serve_forever(poll_interval=0.1)
        finally:
            self.api.stopping.set()
            self._server.server_close()
            for each in self._threads:
                each.stop()
            self._store.close()

    def stop(self) -> None:
        """Make `serve` end."""
        self._server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    double: Double


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    wbufsize = -1  # one packet per answer: otherwise Nagle's algorithm adds 40 ms
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing for each request."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self._body()
        if body is None:
            return
        if url.path.startswith("/_control/"):
            self._control(url.path, body)
        elif url.path.startswith(("/v1/", "/v2/")):
            headers = {name.lower(): " ".join(value.splitlines()) for name, value in self.headers.items()}
            request = Request(self.command, url.path, url.query, body, headers, f"req_{random_text(14)}")
            self._answer(self.server.double.api.answer(request))
        else:
            self._page(url.path, url.query, body)

    def _body(self) -> str | None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY or "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.close_connection = True
            self._send(413, b"", {})
            return None
        try:
            return self.rfile.read(int(length)).decode()
        except UnicodeDecodeError:
            self._send(400, b"", {})
            return None

    def _answer(self, answer: Answer) -> None:
        if answer.silence is not None:
            self.server.double.api.stopping.wait(answer.silence)
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client may have disconnected
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(answer.status, answer.body.encode(), answer.headers | {"Content-Type": JSON})

    def _control(self, path: str, body: str) -> None:
        double = self.server.double
        if self.command == "POST" and self.headers.get_content_type() != JSON:
            self._send_json(415, {"error": {"message": f"Content-Type must be {JSON}"}})
            return
        try:
            with double.api.books() as books:
                found = control.run(books, double.endpoint, self.command, path, body)
        except ApiError as error:
            self._send_json(error.status, error.document())
        except ValueError as error:
            self._send_json(400, {"error": {"message": str(error)}})
        else:
            self._send_json(404 if found is None else 200, found)

    def _page(self, path: str, query: str, body: str) -> None:
        with self.server.double.api.books() as books:
            page = hosted.show(books, self.command, path, query, body)
        if page is None:
            self._send(404, b"Not found: a test double of Stripe", {"Content-Type": "text/plain"})
            return
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}
        self._send(page.status, page.html.encode(), headers | ({"Location": page.location} if page.location else {}))

    def _send_json(self, status: int, document: Any) -> None:
        self._send(status, json.dumps(document, indent=2).encode(), {"Content-Type": JSON})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
