"""Processes killed while they move money: what was not committed never was, and the sweeper settles the rest."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import Draw, Hold, Transfer
from billing.prices import pricing
from billing.tokens import holds, lots, proof, wallets
from billing.tokens.wallets import Balance
from devstack.processes import wait_until
from marketplace.accounts import customers
from marketplace.addresses import ROOT
from marketplace.jobs import lifecycle, submission, sweeper
from marketplace.jobs.models import Job
from marketplace.maintenance import agreement
from tests.billing.books import HOUR
from tests.orders import order

pytestmark = pytest.mark.django_db(transaction=True)

PICTURE = order(prompt="x" * 100, width=512, height=512, steps=30)
PREAMBLE = """
import sys
from uuid import UUID, uuid4
import django
django.setup()
from billing.prices import pricing
from billing.tokens import wallets
from billing.tokens.wallets import Share
from django.db import transaction
from marketplace.jobs import lifecycle, submission
from marketplace.jobs.models import Image, Job

def say(*words):
    print(*words, flush=True)
"""
COMPLETE = """
job = Job.objects.get(id=sys.argv[1])
image = Image(job=job, index=0, path="x", media_type="image/png", sha256="", width=1, height=1, size=1, seed=1)
with transaction.atomic():
    say(lifecycle.complete(job, [lifecycle.Result(pricing.ImageOutcome(True, 30), image)], {}))
    sys.stdin.read()
"""
RELEASE = """
job = Job.objects.get(id=sys.argv[1])
with transaction.atomic():
    lifecycle.fail(job, "broken", "", retry=False)
    say("released")
    sys.stdin.read()
"""
BUY_FOR_EVER = """
from datetime import timedelta
while True:
    wallets.hold(UUID(sys.argv[1]), 10, reference := uuid4(), timedelta(microseconds=1))
    wallets.capture(reference, 7, [Share(UUID(sys.argv[2]), 2), Share("platform", 5)])
    wallets.refund(reference, 3, str(reference))
    say(reference)
"""

ALLOCATE = """
from billing.tokens import lots
lots.CHUNK = 5
advance = lots._advance
def slowly(wallet_id):
    position = advance(wallet_id)
    say("a chunk")
    sys.stdin.readline()
    return position
lots._advance = slowly
lots.position(UUID(sys.argv[1]))
"""
SPEND_FOR_EVER = """
from datetime import timedelta
from billing.tokens import debts, lots
while True:
    bought = wallets.purchase(UUID(sys.argv[1]), 100, 33, "eur", str(uuid4()))
    wallets.hold(UUID(sys.argv[1]), 90, reference := uuid4(), timedelta(hours=1))
    wallets.capture(reference, 60, [Share(UUID(sys.argv[2]), 2), Share("platform", 58)])
    wallets.refund(reference, 30, str(reference))
    lots.cost(reference)
    debts.claw_back(bought, 11, "refunded", str(reference))
    say(reference)
"""


@contextmanager
def process(script: str, *arguments: object):
    """A Python process on the tests' database, killed with SIGKILL at the end; its sessions end with it."""
    url = os.environ["DATABASE_URL"].rpartition("/")[0] + "/" + connection.settings_dict["NAME"]
    child = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url, "PGAPPNAME": "killed"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()
            assert child.wait() == -signal.SIGKILL
            assert wait_until(no_session, 10)


def no_session() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'killed'")
        return cursor.fetchone() == (0,)


@pytest.fixture
def customer() -> UUID:
    account = customers.create("alice@example.com").id
    wallets.grant(account, 1_000_000, "start")
    return account


@pytest.fixture
def running(customer) -> Job:
    """A job of 15 Tokens that a worker has claimed."""
    job = lifecycle.claim(submission.submit(customer, PICTURE).job.id, "worker")
    assert job is not None
    return job


def proven() -> bool:
    return proof.check() + agreement.check() == []


@pytest.mark.parametrize(("script", "last_words"), [(COMPLETE, "15000"), (RELEASE, "released")])
def test_a_worker_killed_between_statement_and_commit_has_settled_nothing(customer, running, script, last_words):
    with process(script, running.id) as worker:
        assert worker.stdout.readline().strip() == last_words
        assert wallets.balance(customer) == Balance(985_000, 15_000, 1_000_000)
    assert wallets.balance(customer) == Balance(985_000, 15_000, 1_000_000)
    assert (Hold.objects.get().status, Job.objects.get().status) == ("held", "running")
    assert not Transfer.objects.filter(kind="capture").exists()
    assert proven()


def test_what_a_killed_worker_left_is_fired_again_and_charged_once(customer, running):
    with process(COMPLETE, running.id) as worker:
        assert worker.stdout.readline()
    Job.objects.update(lease_expires_at=timezone.now())
    assert sweeper.sweep()["dead_leases"] == 1
    again = lifecycle.claim(running.id, "another")
    assert again is not None
    with pytest.raises(lifecycle.LeaseLost):
        lifecycle.fail(running, "late", "", retry=False)
    unfinished = lifecycle.Result(pricing.ImageOutcome(delivered=False, steps_run=10))
    assert lifecycle.stop(again, [unfinished], {}) == 5_000
    assert wallets.balance(customer) == Balance(995_000, 0, 995_000)
    assert proven()


def test_a_job_whose_workers_are_killed_each_time_fails_and_costs_nothing(customer, running):
    with process(COMPLETE, running.id) as worker:
        assert worker.stdout.readline()
    for attempt in range(lifecycle.MAX_ATTEMPTS):
        if attempt:
            assert lifecycle.claim(running.id, "another") is not None
        Job.objects.update(lease_expires_at=timezone.now())
        assert sweeper.sweep()["dead_leases"] == 1
    assert (Job.objects.get().status, Hold.objects.get().status) == ("failed", "released")
    assert wallets.balance(customer) == Balance(1_000_000, 0, 1_000_000)
    assert proven()


def test_a_hold_that_ran_out_under_a_killed_worker_expires_by_the_sweeper(customer, settings):
    settings.HOLD_SECONDS = 2
    job = submission.submit(customer, PICTURE).job
    lifecycle.claim(job.id, "worker")
    time.sleep(2)
    with process(COMPLETE, job.id) as worker:
        assert worker.stdout.readline()
    sweeper.sweep()
    assert (Job.objects.get().status, Hold.objects.get().status) == ("running", "held")
    Job.objects.update(lease_expires_at=timezone.now())
    sweeper.sweep()
    assert (Job.objects.get().status, Hold.objects.get().status) == ("failed", "expired")
    assert wallets.balance(customer) == Balance(1_000_000, 0, 1_000_000)
    assert proven()


def test_buyers_killed_at_any_moment_leave_books_that_add_up(alice, carol, full):
    """Chaos: each of some processes is killed in the middle of something; drift must be zero."""
    rounds = (1, 4, 9, 20) if full else (1, 20)
    for turns in rounds:
        with process(BUY_FOR_EVER, alice, carol) as buyer:
            for _ in range(turns):
                assert buyer.stdout.readline()
        assert proof.check() == []
    for reference in holds.due():
        wallets.expire(reference)
    done = Transfer.objects.filter(kind="refund").count()
    spent = 7 * Hold.objects.filter(status="captured").count() - 3 * done
    assert done >= sum(rounds)
    assert wallets.balance(alice) == Balance(1_000_000 - spent, 0, 1_000_000 - spent)
    assert proof.check() == []


def test_an_allocation_killed_between_statement_and_commit_goes_on_where_the_last_chunk_ended(alice):
    for _ in range(9):
        wallets.hold(alice, 7, reference := uuid4(), HOUR)
        wallets.capture(reference, 7)
    with process(ALLOCATE, alice) as follower:
        assert follower.stdout.readline()
        print(file=follower.stdin, flush=True)
        assert follower.stdout.readline()
    assert Draw.objects.count() == 4  # of the first chunk: the grant and four captures
    assert proof.check() == []
    assert [lot.remaining for lot in lots.position(alice).lots] == [1_000_000 - 63]
    assert Draw.objects.count() == 9
    assert proof.check() == []


def test_spenders_killed_at_any_moment_leave_lots_that_add_up(alice, carol, full):
    rounds = (1, 3, 7) if full else (7,)
    for turns in rounds:
        with process(SPEND_FOR_EVER, alice, carol) as spender:
            for _ in range(turns):
                assert spender.stdout.readline()
        assert proof.check() == []
        position = lots.position(alice)
        assert sum(lot.remaining for lot in position.lots) == wallets.balance(alice).total
        assert proof.check() == []
    assert Draw.objects.filter(amount__lt=0).count() >= sum(rounds)
