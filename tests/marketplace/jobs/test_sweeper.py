"""The sweeper: what crashes leave behind is repaired, and what cannot be repaired holds up nothing else."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from billing.models import Wallet
from marketplace.jobs import lifecycle, submission, sweeper
from marketplace.jobs.models import Job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]

UNIT = 1250


@pytest.fixture
def carol():
    from tests.marketplace.people import customer

    return customer("carol", 1000)


def submit(customer, order):
    return submission.submit(customer.account.id, order()).job


def hold_runs_out(job):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE billing_hold SET expires_at = now() - interval '1 s' WHERE reference = %s", [job.id])
        cursor.execute("SET LOCAL session_replication_role = origin")


def ended(job):
    found = Job.objects.get(id=job.id)
    return found.status, found.error_code


def show_held(customer, amount):
    """The wallet says that so much is held, whatever its holds say: nothing of them can be given back."""
    Wallet.objects.filter(owner=customer.account.id, kind=Wallet.Kind.CUSTOMER).update(held=amount)


def test_a_job_whose_hold_ran_out_in_the_queue_fails_for_nothing(alice, order):
    job = submit(alice, order)
    hold_runs_out(job)
    assert lifecycle.claim(job.id, "w1") is None, "not begun, although nobody has swept"
    assert sweeper.sweep()["expired_holds"] == 1
    assert ended(job) == ("failed", "expired")
    assert alice.balance == (1_000_000, 0)


def test_a_hold_that_cannot_be_given_back_does_not_keep_the_others(alice, carol, order):
    broken, sound = submit(alice, order), submit(carol, order)
    for job in (broken, sound):
        hold_runs_out(job)
    show_held(alice, 0)
    assert sweeper.sweep()["expired_holds"] == 1
    assert ended(broken) == ("queued", "")
    assert ended(sound) == ("failed", "expired")
    assert carol.balance == (1_000_000, 0)
    show_held(alice, UNIT)
    assert sweeper.sweep()["expired_holds"] == 1
    assert ended(broken) == ("failed", "expired")


def test_a_job_that_cannot_be_taken_back_does_not_keep_the_others(alice, carol, order):
    jobs = [submit(alice, order), submit(carol, order)]
    for job in jobs:
        assert lifecycle.claim(job.id, "w1")
    last = lifecycle.MAX_ATTEMPTS
    Job.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1), attempt=last)
    show_held(alice, 0)
    assert sweeper.sweep()["dead_leases"] == 1
    assert [ended(job) for job in jobs] == [("running", ""), ("failed", "worker_lost")]
    show_held(alice, UNIT)
    assert sweeper.sweep()["dead_leases"] == 1


LAST = (1 << 128) - 1
"""The largest id."""


def test_a_hundred_that_fail_each_time_hide_no_other(alice, carol, order):
    """None of them leaves the list of those to take back, so the list must not end before it comes to the others.

    They are before the sound one by their leases, in the table, and by the index of ids, which descend.
    """
    long_ago = timezone.now() - timedelta(days=1)
    without_hold = Job.objects.filter(id=submit(alice, order).id).values().get()
    dead = {"status": "running", "attempt": lifecycle.MAX_ATTEMPTS, "lease_expires_at": long_ago}
    ids = [UUID(int=LAST - number) for number in range(101)]
    copies = Job.objects.bulk_create(Job(**without_hold | dead | {"id": job_id}) for job_id in ids)
    sound = submit(carol, order)
    assert lifecycle.claim(sound.id, "w1")
    Job.objects.filter(id=sound.id).update(
        attempt=lifecycle.MAX_ATTEMPTS, lease_expires_at=Now() - timedelta(seconds=1)
    )
    assert sweeper.sweep()["dead_leases"] == 1
    assert ended(sound) == ("failed", "worker_lost")
    assert {ended(copy) for copy in copies} == {("running", "")}
    Job.objects.filter(id__in=[copy.id for copy in copies]).delete()
