"""The deliverer as a process of its own: nothing is lost when it is killed, and e-mails are printed."""

import signal
import time

import pytest
from django.db.models.functions import Now

from devstack import processes
from marketplace.webhooks import events
from marketplace.webhooks.models import Delivery
from tests.marketplace.sites import Site
from tests.marketplace.webhooks.conftest import ends, receiver  # noqa: F401
from tests.marketplace.webhooks.making import make

pytestmark = pytest.mark.django_db(transaction=True)


def test_every_end_arrives_at_least_once_whatever_is_killed(alice, receiver, ends, tmp_path):  # noqa: F811
    site = Site(tmp_path, KILN_WEBHOOKS_PRIVATE="1", SSL_CERT_FILE=str(receiver.authority))
    webhook = make(alice, receiver)
    receiver.answers["/hook"] = lambda: (time.sleep(0.2), (200, {}))[1]
    try:
        for name in ("one", "two"):
            site.start(name, "deliverer")
        jobs = [ends(alice) for _ in range(5)]
        assert processes.wait_until(lambda: receiver.heard, 30), site.logs()
        site.kill("one")
        site.kill("two")
        jobs += [ends(alice) for _ in range(5)]
        Delivery.objects.filter(status="waiting").update(next_at=Now())  # their leases run out
        site.start("three", "deliverer")
        delivered = Delivery.objects.filter(status="delivered")
        assert processes.wait_until(lambda: delivered.count() == 10, 30), site.logs()
        told = {each.verify(webhook["secret"])["data"]["id"] for each in receiver.heard}
        assert told == {str(job_id) for job_id in jobs}
        data = {"available": "1", "threshold": "2"}
        events.tell(alice.account.id, "balance.low", data=data)
        printed = tmp_path / "three.log"
        assert processes.wait_until(lambda: "1 Tokens are left, fewer than 2" in printed.read_text(), 30), site.logs()
        site.kill("three", signal.SIGTERM)
    finally:
        site.stop()
