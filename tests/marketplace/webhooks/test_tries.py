"""When a delivery is tried again, by the database's clock."""

from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection

from marketplace.webhooks import deliveries, endpoints, events
from marketplace.webhooks.models import Delivery, Endpoint
from tests.billing.payments import clocks

pytestmark = pytest.mark.django_db
SECONDS = [0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]


@contextmanager
def movable():
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what the cast's triggers defer, before tables are altered
    with clocks.movable():
        yield


def test_ten_tries_over_a_day_and_then_none(alice):
    """A refusal each time; the clock goes on a second, a minute or an hour at a time."""
    with movable():
        events.tell(alice.account.id, "job.failed", job=uuid4(), url="https://example.com/hook")
        at, tried = 0, []
        for attempt in range(10):
            while not (found := deliveries.claim(10, {}, {})):
                at += 1 if attempt < 2 else 20 if attempt < 4 else 600
                clocks.move(timedelta(seconds=at), timedelta(0))
            tried.append(at)
            deliveries.finish(found[0], deliveries.Answer(status=500))
        for moment, planned in zip(tried, SECONDS, strict=True):
            assert planned <= moment <= planned * 1.1 + 10 * 600
        clocks.move(timedelta(days=20), timedelta(0))
        assert deliveries.claim(10, {}, {}) == []
    assert (Delivery.objects.get().status, Delivery.objects.get().attempts) == ("failed", 10)


def test_pauses_of_a_failing_endpoint_grow_to_an_hour(alice):
    with movable():
        endpoints.create(alice.account.id, "https://example.com/", ["job.failed"])
        pauses, ahead = [], timedelta(0)
        for _ in range(deliveries.PATIENCE + 9):
            events.tell(alice.account.id, "job.failed", job=uuid4())
            ahead += timedelta(hours=2)
            clocks.move(ahead, timedelta(0))
            for found in deliveries.claim(1, {}, {}):
                deliveries.finish(found, deliveries.Answer(error="it cannot be reached"))
            with connection.cursor() as cursor:
                cursor.execute("SELECT paused_until - now() FROM webhooks_endpoint")
                pauses.append(cursor.fetchone()[0])
        assert pauses[: deliveries.PATIENCE - 1] == [None] * (deliveries.PATIENCE - 1)
        grown = [round(pause.total_seconds()) for pause in pauses[deliveries.PATIENCE - 1 :]]
        assert grown == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
        assert Endpoint.objects.get().failures == deliveries.PATIENCE + 9


def test_claims_are_fair_between_lanes_and_accounts(alice, bob):
    """However much waits in one of them."""
    for customer, count in ((alice, 50), (bob, 3)):
        for host in ("a", "b", "c"):
            for _ in range(count):
                events.tell(customer.account.id, "job.failed", job=uuid4(), url=f"https://{host}.example.com/")
    found = deliveries.claim(64, {}, {})
    by = {id_: [each for each in found if each.account_id == id_] for id_ in (alice.account.id, bob.account.id)}
    assert (len(by[alice.account.id]), len(by[bob.account.id])) == (deliveries.ACCOUNT_HANDS, deliveries.ACCOUNT_HANDS)
    assert len({each.lane for each in by[alice.account.id]}) == 3
    busy = {alice.account.id: deliveries.ACCOUNT_HANDS}
    lanes = {each.lane: 1 for each in by[alice.account.id]}
    assert [each.account_id for each in deliveries.claim(64, lanes, busy)] == [bob.account.id]


def test_however_many_hosts_an_accounts_orders_name_its_lanes_are_few(alice, bob):
    """A claim looks at each lane, so that an account with many would delay all others."""
    for number in range(2000):
        events.tell(alice.account.id, "job.canceled", job=uuid4(), url=f"https://a{number}.example.com/hook")
    events.tell(bob.account.id, "job.canceled", job=uuid4(), url="https://example.com/hook")
    lanes = Delivery.objects.filter(account_id=alice.account.id).values("lane").distinct().count()
    assert 100 < lanes <= 256
    assert bob.account.id in {row.account_id for row in deliveries.claim(64, {}, {})}
