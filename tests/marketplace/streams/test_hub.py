"""The hub on its own, with Redis; what it tells is in `test_streams`."""

import asyncio
import random
from uuid import uuid4

from marketplace.streams.hub import Hub


def test_a_hub_stops_whatever_it_is_doing():
    """Redis's client overlooks some cancellations while it connects and subscribes."""

    async def live(seconds: float) -> None:
        hub = Hub(lambda _: {})
        hub.start()
        with hub.watch(uuid4()):
            await asyncio.sleep(seconds)
        await hub.stop()

    async def many() -> None:
        async with asyncio.timeout(20):
            for _ in range(5):
                await asyncio.gather(*(live(random.uniform(0, 0.4)) for _ in range(60)))

    asyncio.run(many())
