"""Who watches which job, in one event loop, without a thread for each.

    with hub.watch(job_id) as watch:
        async for news in watch:    # State and news.Preview, the newest; ends after the job, or with the server
            …

The database is the truth: one query a second says where all watched jobs stand, so whatever is lost on the way is only
late. News from Redis (see `marketplace.jobs.news`) say when to look at once, and bring steps and previews in between.
Whoever is slow gets the newest of what came meanwhile, and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

from django.conf import settings
from django.db import connection
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from marketplace.jobs import news
from marketplace.jobs.news import News, Preview, Progress
from marketplace.jobs.states import State

LOOK_SECONDS = 1.0
TOGETHER_SECONDS = 0.02
SUBSCRIBE_SECONDS = 0.05

logger = logging.getLogger(__name__)
Look = Callable[[Sequence[UUID]], dict[UUID, State]]


class Watch:
    """One client's view of a job: what it has not been told yet."""

    def __init__(self) -> None:
        self._state: State | None = None
        self._previews: dict[int, Preview] = {}
        self._ready = asyncio.Event()
        self._over = False

    async def next(self, seconds: float | None = None) -> list[State | Preview] | None:
        """Return what is new, oldest first; nothing after so many seconds without any, None when there is no more."""
        if not self._ready.is_set() and not self._over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._ready.wait()
        self._ready.clear()
        found: list[State | Preview] = list(self._previews.values())
        if self._state:
            found.append(self._state)
        self._state, self._previews = None, {}
        return None if self._over and not found else found

    async def __aiter__(self) -> AsyncIterator[State | Preview]:
        while (found := await self.next()) is not None:
            for each in found:
                yield each

    def tell(self, what: State | Preview) -> None:
        if isinstance(what, Preview):
            self._previews[what.index] = what
        else:
            self._state = what
            if what.is_final:
                self.end()
        self._ready.set()

    def end(self) -> None:
        self._over = True
        self._ready.set()


class Hub:
    """All watches of this process. `start` within the event loop, `close` when it is to end."""

    def __init__(self, look: Look) -> None:
        self._ask = look
        self._watches: defaultdict[UUID, set[Watch]] = defaultdict(set)
        self._known: dict[UUID, State] = {}
        self._due: set[UUID] = set()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "look")
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    def start(self) -> None:
        self._tasks = [asyncio.create_task(work()) for work in (self._keep_looking, self._keep_listening)]

    def close(self) -> None:
        """End every watch, and those that begin from now on."""
        self._closed = True
        for watches in self._watches.values():
            for watch in watches:
                watch.end()

    async def stop(self) -> None:
        # Redis's client now and then overlooks that it is cancelled, so each task asks itself whether it is over.
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(wait=False)

    @contextlib.contextmanager
    def watch(self, job_id: UUID) -> Iterator[Watch]:
        """Watch a job; where it stands now is told soon."""
        watch = Watch()
        self._watches[job_id].add(watch)
        if self._closed:
            watch.end()
        if known := self._known.get(job_id):
            watch.tell(known)
        self._look_soon(job_id)
        try:
            yield watch
        finally:
            self._watches[job_id].discard(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]
                self._known.pop(job_id, None)

    def _look_soon(self, job_id: UUID) -> None:
        self._due.add(job_id)
        self._wake.set()

    async def _keep_looking(self) -> None:
        """Look at all watched jobs each second, and at those that changed at once, many together."""
        loop = asyncio.get_running_loop()
        turn = loop.time()
        while not self._closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(turn):
                    await self._wake.wait()
                    await asyncio.sleep(TOGETHER_SECONDS)
            self._wake.clear()
            due, self._due = self._due & self._watches.keys(), set()
            if loop.time() >= turn:
                due, turn = set(self._watches), loop.time() + LOOK_SECONDS
            if due:
                await self._look(sorted(due))

    async def _look(self, job_ids: Sequence[UUID]) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._look_in_thread, job_ids)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the database, the next look may work
            logger.warning("watched jobs cannot be seen: %s", error)
            return
        for job_id in job_ids:
            if job_id in found:
                self._reached(found[job_id])
            else:
                for watch in self._watches.get(job_id, ()):
                    watch.end()

    def _look_in_thread(self, job_ids: Sequence[UUID]) -> dict[UUID, State]:
        try:
            return self._ask(job_ids)
        finally:
            connection.close()

    def _reached(self, state: State) -> None:
        """Tell those who watch where the job is, if that is new; the database hears of steps later than Redis."""
        known = self._known.get(state.job_id)
        if known and known.is_running and state.is_running and known.attempt == state.attempt:
            state = replace(state, step=max(known.step, state.step))
        if state != known and (watches := self._watches.get(state.job_id)):
            self._known[state.job_id] = state
            for watch in watches:
                watch.tell(state)

    async def _keep_listening(self) -> None:
        """Listen to Redis; where it is away, try again each second."""
        while not self._closed:
            try:
                async with (
                    Redis.from_url(settings.REDIS_URL, socket_connect_timeout=news.PATIENCE) as redis,
                    redis.pubsub(ignore_subscribe_messages=True) as pubsub,
                ):
                    await self._listen(pubsub)
            except (RedisError, OSError) as error:
                logger.warning("no news of watched jobs, they are looked at each second: %s", error)
                await asyncio.sleep(news.PATIENCE)

    async def _listen(self, pubsub: PubSub) -> None:
        await pubsub.subscribe(news.PREFIX)  # nobody speaks there; it needs one subscription to listen
        heard: set[UUID] = set()
        while not self._closed:
            if wanted := self._watches.keys() - heard:
                await pubsub.subscribe(*map(news.channel, wanted))
                heard |= wanted
                for job_id in wanted:
                    self._look_soon(job_id)  # what was said before that was not heard
            if left := heard - self._watches.keys():
                await pubsub.unsubscribe(*map(news.channel, left))
                heard -= left
            message = await pubsub.get_message(timeout=SUBSCRIBE_SECONDS)
            if message and message["type"] == "message":
                self._hear(message["channel"].decode(), message["data"])

    def _hear(self, channel: str, data: bytes) -> None:
        try:
            job_id, said = UUID(channel.removeprefix(news.PREFIX)), news.read(data)
        except ValueError:
            logger.warning("what came on %s is no news", channel)
            return
        self._take(job_id, said)

    def _take(self, job_id: UUID, said: News) -> None:
        known = self._known.get(job_id)
        current = known and known.is_running and not isinstance(said, str) and said.attempt == known.attempt
        if not known or isinstance(said, str) or not current:
            self._look_soon(job_id)
        elif isinstance(said, Progress):
            self._reached(replace(known, step=said.step))
        else:
            for watch in self._watches.get(job_id, ()):
                watch.tell(said)
