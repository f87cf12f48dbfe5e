"""The ASGI application: what needs no waiting is Django's, in a few threads; waiting is the hub's, without any.

Each request goes through Django's ordinary handler, middleware and all, whose answer is sent as it is, unless the view
gave it `later` (see `marketplace.api.later`):

    Waiting   an order that waits for its job: its answer is made once the job has ended or time ran out
    Stream    server-sent events: the answer goes on while there is news of the job

Bodies are read before a thread is taken, so slow clients cost none. Large ones, which take room on the disk, are read
from those alone whom Django knows, and a few at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from prometheus_client import Gauge

from marketplace.api.later import Stream, Waiting
from marketplace.api.middleware import LENGTH, most_bytes
from marketplace.api.problems import Problem
from marketplace.jobs.states import State
from marketplace.streams import handler
from marketplace.streams.handler import Response, Scope, WsgiApplication
from marketplace.streams.hub import Hub, Watch
from marketplace.trainings import states

THREADS = 8
BODY_SECONDS = 60.0
SEND_SECONDS = 60.0
DRAIN_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b":\n\n"
IN_MEMORY = 64 * 1024
LARGE = 64 * 1024**2
LARGE_SECONDS = 300.0
LARGE_AT_ONCE, LARGE_OF_KEY = 8, 2
"""How many large bodies are received at once, and how many of those with one API key."""
OPEN = Gauge("kiln_streams", "Open streams and waiting orders", multiprocess_mode="livesum")

logger = logging.getLogger(__name__)
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Gone(Exception):
    """The client has left, or does not read."""


class Application:
    """An ASGI application (3.0) round a WSGI one; `lifespan` must be spoken to it, once."""

    def __init__(self, django: WsgiApplication) -> None:
        self._django = django
        self._threads = ThreadPoolExecutor(THREADS, "django")
        self._open: Counter[tuple[UUID, type]] = Counter()
        self._large: Counter[str] = Counter()
        self.hub: Hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            with contextlib.suppress(Gone):
                if _length(scope) > LARGE:
                    await self._serve_large(scope, receive, send)
                else:
                    await self._serve(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self.hub = Hub(states.look)
        self.hub.start()
        self._end_streams_when_asked_to_stop()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.hub.stop()
        self._threads.shutdown(wait=False)
        await send({"type": "lifespan.shutdown.complete"})

    def _end_streams_when_asked_to_stop(self) -> None:
        """End all streams upon SIGTERM. The server waits for them before it says anything to the application.

        The event loop hears of signals by a pipe, so that this function takes nothing away from the server's own.
        """
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self.hub.close))

    async def _serve_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request with a large body if its key is known and there is a place; else it is not read."""
        key = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        known = await self._in_thread(partial(handler.call, self._django, handler.knock(scope)))
        if known.status == 200 and (self._large[key] >= LARGE_OF_KEY or self._large.total() >= LARGE_AT_ONCE):
            message = "Too many large files are being received; send this again."
            known = handler.refusal(Problem(503, "server", "busy", message, headers={"Retry-After": "30"}), known)
        if known.status != 200:
            await _drain(receive)
            await _send(send, known)
            return
        self._large[key] += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self._large -= Counter([key])

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _body(scope, receive)
        except TimeoutError:
            message = f"The body did not arrive within {_patience(_length(scope)):.0f} seconds."
            problem = Problem(408, "invalid_request", "too_slow", message)
            nothing = Response(408, [("X-Request-Id", f"req_{secrets.token_hex(12)}")], b"")
            await _send(send, handler.refusal(problem, nothing))
            return
        with contextlib.closing(body) if body else contextlib.nullcontext():
            environ = handler.environ(scope, body)
            response = await self._in_thread(partial(handler.call, self._django, environ))
        if body is None:
            await _drain(receive)
        match response.later:
            case Waiting() as later if self._refused(later, response.most_streams) is None:
                with _departure(receive) as departure, self._counted(later):
                    response = await self._wait(later, response, departure)
                await _send(send, response)
            case Stream() as later if scope["method"] != "HEAD":
                if refusal := self._refused(later, response.most_streams):
                    await _send(send, response if later.opens else handler.refusal(refusal, response))
                    return
                if later.opens:
                    response = response.opened(later.opens)
                with _departure(receive) as departure, self._counted(later):
                    await self._stream(later, response, departure, send)
            case _:
                await _send(send, response)

    async def _wait(self, later: Waiting, response: Response, departure: asyncio.Task[None]) -> Response:
        """Return the answer once the job has ended, time is over, or the server is to stop. Raises Gone."""
        with self.hub.watch(later.job_id) as watch, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(later.seconds):
                while await _next(watch, departure, None) is not None:
                    pass
        try:
            return response.replaced(await self._in_thread(partial(handler.ask, later.answer)))
        except Exception:  # it was bought, and its first answer says so
            logger.exception("the answer to a waiting order could not be made")
            return response

    async def _stream(self, later: Stream, response: Response, departure: asyncio.Task[None], send: Send) -> None:
        """Send the response and what follows, until the job has ended or the server is to stop. Raises Gone."""
        headers = [each for each in response.headers if each[0].lower() != "content-length"]
        await _begin(send, response.status, headers)
        await _continue(send, response.content)
        final = False
        with self.hub.watch(later.job_id) as watch:
            while (found := await _next(watch, departure, KEEP_ALIVE_SECONDS)) is not None:
                final = any(isinstance(each, State) and each.is_final for each in found)
                written = b"" if final else b"".join(map(later.write, found))
                if written or not (found or final):
                    await _continue(send, written or KEEP_ALIVE)
        if final:
            try:
                end = await self._in_thread(partial(handler.ask, later.end))
            except Exception:  # the client comes back for it
                logger.exception("the end of a stream could not be made")
            else:
                await _continue(send, end)
        await _continue(send, b"", more=False)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _refused(self, later: Stream | Waiting, most_streams: int) -> Problem | None:
        """Return why this account may have no further one: it has as many streams as it may, or half of all there is.

        A tier says nothing of waiting orders.
        """
        soon = {"Retry-After": "5"}
        streams, orders = (self._open[later.account_id, kind] for kind in (Stream, Waiting))
        if streams + orders >= settings.STREAMS // 2 or (isinstance(later, Stream) and streams >= most_streams):
            message = "Too many streams are open for this account: close some."
            return Problem(429, "rate_limit", "too_many_streams", message, headers=soon)
        if self._open.total() >= settings.STREAMS:
            message = "Too many streams are open: poll the job, or try again in a moment."
            return Problem(503, "server", "too_many_streams", message, headers=soon)
        return None

    @contextlib.contextmanager
    def _counted(self, later: Stream | Waiting) -> Iterator[None]:
        one = Counter([(later.account_id, type(later))])
        self._open += one
        OPEN.inc()
        try:
            yield
        finally:
            OPEN.dec()
            self._open -= one


def _length(scope: Scope) -> int:
    """Return how long the body is said to be; 0 if that is not said."""
    said = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
    return int(said) if LENGTH.fullmatch(said) else 0


def _patience(length: int) -> float:
    return LARGE_SECONDS if length > LARGE else BODY_SECONDS


async def _body(scope: Scope, receive: Receive) -> IO[bytes] | None:
    """Return the request's body, beyond some size in a file. Raises Gone, and TimeoutError if it comes too slowly.

    One that Django refuses by its headers alone is not read: None.
    """
    headers = dict(scope["headers"])
    length, kind = (headers.get(name, b"").decode("latin-1") for name in (b"content-length", b"content-type"))
    if not LENGTH.fullmatch(length) or not 0 < int(length) <= most_bytes(scope["path"], kind):
        return None
    body = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - the caller closes it
    try:
        async with asyncio.timeout(_patience(int(length))):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Gone
                body.write(message.get("body", b""))
                more = message.get("more_body", False)
    except BaseException:
        body.close()
        raise
    body.seek(0)
    return body


async def _drain(receive: Receive) -> None:
    """Read what was not wanted, for a while: many clients hear no answer before they have sent all."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Gone
                more = message.get("more_body", False)


@contextlib.contextmanager
def _departure(receive: Receive) -> Iterator[asyncio.Task[None]]:
    """Yield a task that ends when the client leaves."""

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(leave())
    try:
        yield task
    finally:
        task.cancel()


async def _next(watch: Watch, departure: asyncio.Task[None], seconds: float | None) -> Any:
    """Return what `watch.next` does. Raises Gone if the client leaves meanwhile."""
    following = asyncio.ensure_future(watch.next(seconds))
    try:
        await asyncio.wait({following, departure}, return_when=asyncio.FIRST_COMPLETED)
        if departure.done():
            raise Gone
        return await following
    finally:
        following.cancel()


async def _send(send: Send, response: Response) -> None:
    await _begin(send, response.status, response.headers)
    await send({"type": "http.response.body", "body": response.content})


async def _begin(send: Send, status: int, headers: handler.Headers) -> None:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _continue(send: Send, content: bytes, *, more: bool = True) -> None:
    """Raises Gone if the client does not read: others shall have its place."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await send({"type": "http.response.body", "body": content, "more_body": more})
    except TimeoutError:
        raise Gone from None
