"""The server that waits, in this process: its event loop in a thread, its requests by function call.

For tests alone: imported once Django is set up.
"""

import asyncio
import contextlib
import json
import queue
import threading
import time

from django.core.wsgi import get_wsgi_application

from marketplace.streams.application import Application


class Server:
    """The ASGI application as a server runs it."""

    def __init__(self):
        self.application = Application(get_wsgi_application())
        self.loop = asyncio.new_event_loop()
        self.life = asyncio.Queue()
        self.said = queue.Queue()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        assert self.said.get(timeout=10) == "lifespan.startup.complete"
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.life.put_nowait, {"type": "lifespan.shutdown"})
        assert self.said.get(timeout=60) == "lifespan.shutdown.complete"
        self.thread.join(60)

    def _run(self):
        async def send(message):
            self.said.put(message["type"])

        self.life.put_nowait({"type": "lifespan.startup"})
        self.loop.run_until_complete(self.application({"type": "lifespan"}, self.life.get, send))

    def close(self):
        """What SIGTERM does."""
        self.loop.call_soon_threadsafe(self.application.hub.close)

    def ask(self, method, path, customer, body=None, arrives=True, **headers):
        return Exchange(self, method, path, customer, body, arrives, headers)


class Exchange:
    """One request, and what comes back of it."""

    def __init__(self, server, method, path, customer, body, arrives, headers):
        content = json.dumps(body).encode() if body is not None else b""
        named = {"Host": "127.0.0.1", "Authorization": f"Bearer {customer.key}", **headers}
        if content:
            named |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
        raw = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in named.items()]
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path,
            "query_string": b"", "headers": raw, "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        self.server = server
        self.incoming = asyncio.Queue()
        if arrives:
            self.incoming.put_nowait({"type": "http.request", "body": content})
        self.arrived = threading.Condition()
        self.status, self.headers, self.body, self.ended = None, {}, b"", False
        self.task = asyncio.run_coroutine_threadsafe(
            server.application(scope, self.incoming.get, self._take), server.loop
        )

    async def _take(self, message):
        with self.arrived:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                self.body += message["body"]
                self.ended = not message.get("more_body")
            self.arrived.notify_all()

    def leave(self):
        self.server.loop.call_soon_threadsafe(self.incoming.put_nowait, {"type": "http.disconnect"})

    def wait(self, condition, seconds=20):
        """Wait until `condition` is true of this exchange."""
        deadline = time.monotonic() + seconds
        with self.arrived:
            while not condition(self):
                if self.task.done():
                    self.task.result()
                left = deadline - time.monotonic()
                assert left > 0, (self.status, self.body)
                self.arrived.wait(min(left, 0.2))
        return self

    def done(self, seconds=20):
        return self.wait(lambda self: self.ended, seconds)

    def json(self):
        return json.loads(self.done().body)

    @property
    def events(self):
        return read(self.body)


def read(body):
    """The events of a stream, each a dict of its fields, with `data` understood."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


@contextlib.contextmanager
def serving():
    with Server() as server:
        yield server
