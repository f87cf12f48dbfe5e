"""Whatever pages and books compare is by the database's clock, also where this process's is hours ahead."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.test import Client

from billing import clock
from billing.models import Lot
from billing.tokens import debts, wallets
from marketplace.accounts import keys
from marketplace.accounts.models import Person
from marketplace.jobs.models import Worker
from tests.billing.payments import clocks

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def hours_ahead():
    with clocks.movable():
        clocks.move(timedelta(0), timedelta(hours=5))
        yield


def just_now(moment):
    return abs(clock.now() - moment) < timedelta(minutes=5)


def test_a_worker_that_was_seen_just_now_is_not_silent():
    Worker.objects.create(name="w1", model="m", revision="r", warm=True, seen_at=Now())
    client = Client()
    client.force_login(Person.objects.create_superuser("operator@example.com"))
    for page in ("/admin/jobs/worker/", "/admin/"):
        shown = client.get(page).content.decode()
        assert "warm" in shown
        assert "silent" not in shown


def test_a_debt_is_settled_and_a_key_revoked_by_the_databases_clock(alice):
    owner = alice.account.id
    wallets.purchase(owner, 1_000, 100, "eur", "paid")
    back = debts.claw_back(Lot.objects.get(kind="paid").id, 100, "refunded", "re_1")
    assert just_now(back.settled_at)
    assert just_now(keys.revoke(owner, alice.key_id).revoked_at)
