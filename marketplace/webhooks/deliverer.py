"""The loop of `manage.py deliver`: what is due is sent by many hands at once, each bounded by lane and account.

Several may run, on any machine: a delivery is claimed once. One that dies leaves what it had claimed, which is due
again a moment later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from django.db import connection

from billing import clock
from marketplace.webhooks import deliveries, endpoints, events, mails, metrics, posting
from marketplace.webhooks.deliveries import Answer
from marketplace.webhooks.models import Delivery, Endpoint

HANDS = 64
LOOK_SECONDS = 0.5
QUIET_SECONDS = 0.02

Show = Callable[[UUID], dict[str, Any]]
"""Returns a job as its customer sees it."""

logger = logging.getLogger(__name__)


class Deliverer:
    """Sends what is due. `show` says what there is to tell of a job."""

    def __init__(self, show: Show, hands: int = HANDS) -> None:
        self.show = show
        self.hands = hands
        self.lanes: Counter[UUID] = Counter()
        self.accounts: Counter[UUID] = Counter()
        self.lock = threading.Lock()
        self.freed = threading.Event()
        self.pool = ThreadPoolExecutor(hands, "deliver")

    def run(self, stopping: Callable[[], bool]) -> None:
        """Send until told to stop, then end what was begun; if the database is unavailable, wait for it."""
        with self.pool:
            while not stopping():
                try:
                    self.look()
                except Exception as error:  # noqa: BLE001 - it must survive any failure of the database
                    logger.warning("webhooks cannot be sent, retrying in a second: %s", error)
                    time.sleep(1)
                finally:
                    connection.close()
                self.freed.wait(LOOK_SECONDS)
                self.freed.clear()
                time.sleep(QUIET_SECONDS)

    def look(self) -> int:
        """Begin to send what is due, and return how much that is."""
        try:
            events.tell_notices()
        except Exception:  # they must not keep what is due waiting
            logger.exception("notices cannot be told")
            connection.close()
        with self.lock:
            lanes, accounts = dict(self.lanes), dict(self.accounts)
        found = deliveries.claim(self.hands - sum(lanes.values()), lanes, accounts)
        for delivery in found:
            with self.lock:
                self.lanes[delivery.lane] += 1
                self.accounts[delivery.account_id] += 1
            self.pool.submit(self._send, delivery)
        return len(found)

    def _send(self, delivery: Delivery) -> None:
        try:
            answer = attempt(delivery, self.show)
        except Exception:
            logger.exception("delivery %s", delivery.id)
            answer = Answer(error="it could not be written")
        try:
            if answer is not None:
                deliveries.finish(delivery, answer)
                metrics.tried(delivery, answer)
        except Exception as error:  # noqa: BLE001 - it is due again once its lease has run out
            logger.warning("delivery %s: %s", delivery.id, error)
        finally:
            connection.close()
            with self.lock:
                for count, key in ((self.lanes, delivery.lane), (self.accounts, delivery.account_id)):
                    count[key] -= 1
                    if not count[key]:
                        del count[key]
            self.freed.set()


def attempt(delivery: Delivery, show: Show) -> Answer | None:
    """Send a delivery once, without a connection to the database meanwhile; None if its endpoint is gone."""
    if delivery.channel == Delivery.Channel.MAIL:
        return mails.send(delivery)
    owner: Any
    if delivery.endpoint_id:
        owner = Endpoint.objects.filter(id=delivery.endpoint_id).first()
        if owner is None:
            return None
        url = owner.url
    else:
        owner, url = endpoints.preferences(delivery.account_id), delivery.url
    data = show(delivery.job) if delivery.job else delivery.data or {}
    moment = clock.now()
    connection.close()
    text = posting.body(delivery.type, delivery.happened_at, data)
    return posting.post(delivery, owner, url, text, moment)
