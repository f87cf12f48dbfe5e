"""A short run of the chaos that `make bench ARGS=chaos` runs for minutes; and that its accountant would see a loss."""

import re
import subprocess
import sys
from uuid import uuid4

import pytest

from bench.chaos import logs
from bench.chaos.accountant import Accountant
from bench.chaos.listener import Listener
from bench.chaos.memory import Customer, Memory
from bench.chaos.saboteur import KINDS
from billing.tokens import wallets
from marketplace.addresses import ROOT
from marketplace.jobs import lifecycle, storage, submission


@pytest.mark.timeout(900)
def test_nothing_is_lost_or_doubled_while_everything_is_killed():
    command = [sys.executable, "-m", "bench.chaos", "--seconds", "10", "--round", "10", "--clients", "16"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) operations", done.stdout)[1]) > 100
    assert all(f"  {kind} " in done.stdout for kind in KINDS)


LOG = """\
2026-11-28 04:53:16,508 WARNING django.request: Payment Required: /v1/jobs
2026-11-28 04:53:16,510 ERROR django.request: Internal Server Error: /v1/jobs/01a22089-4973-7724-8da2-c80b610b62f3
Traceback (most recent call last):
  File "/kiln/billing/prepared.py", line 65, in rows
    return _execute(database.connection, sql, values)
psycopg.errors.CheckViolation: new row for relation "billing_wallet"
DETAIL:  Failing row contains (105).

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/kiln/billing/prepared.py", line 64, in rows
    with database.wrap_database_errors:
django.db.utils.IntegrityError: new row for relation "billing_wallet"
DETAIL:  Failing row contains (105).
2026-11-28 04:53:16,511 ERROR django.request: Service Unavailable: /readyz
"""


def test_an_error_is_reported_with_the_last_line_of_its_traceback(tmp_path):
    (tmp_path / "002-web.log").write_text(LOG)
    said = 'Internal Server Error: /v1/jobs/…: django.db.utils.IntegrityError: new row for relation "billing_wallet"'
    assert logs.errors(tmp_path) == {said: 1}
    assert (logs.keep(tmp_path) / "002-web.log").read_text() == LOG


class Listing:
    """A Stripe that only lists what it was given."""

    def __init__(self, **objects):
        self.objects = objects

    def every(self, kind):
        return self.objects.get(kind, [])


@pytest.fixture
def accountant(db):
    return Accountant(Listing(), Memory(), [])


def test_the_accountant_misses_a_charge_that_was_not_booked(accountant):
    charge = {"id": "ch_1", "payment_intent": "pi_1", "status": "succeeded", "amount": 101, "currency": "eur"}
    accountant.stripe = Listing(charges=[charge])
    assert accountant._money() == ["charge ch_1 of pi_1 was not booked"]


def test_the_accountant_misses_a_job_and_a_picture(accountant, alice, order, picture):
    job = submission.submit(alice.account.id, order(), idempotency_key="known").job
    claimed = lifecycle.claim(job.id, "worker")
    lifecycle.complete(claimed, [picture(claimed)], {})
    accountant.memory.asked.add("known")
    accountant.memory.jobs["known"] = str(job.id)
    assert accountant._jobs() == accountant._pictures() == []
    accountant.seen_pictures.clear()
    with storage.open_image(job.images.get()) as file:
        path = file.name
    with open(path, "ab") as file:
        file.write(b"!")
    assert "is not what it was" in accountant._pictures()[0]
    accountant.memory.jobs["known"] = str(uuid4())
    assert "the books say" in accountant._jobs()[0]
    accountant.memory.asked.clear()
    assert "nobody asked for" in accountant._jobs()[1]


def test_the_accountant_misses_what_was_not_told(accountant, alice, order):
    accountant.listener = Listener(1)
    job_id = submission.submit(alice.account.id, order()).job.id
    assert accountant._webhooks() == []
    lifecycle.cancel(alice.account.id, job_id)
    assert accountant._webhooks() == [f"job {job_id} ended, and job.canceled was not told"]
    accountant.listener.told[str(job_id), "job.canceled"] += 2
    assert accountant._webhooks() == []
    accountant.listener.hear("/", {}, "{}")
    assert "cannot be verified" in accountant._webhooks()[0]


def test_the_accountant_adds_up_each_account(accountant, alice):
    accountant.accounts = [Customer(alice.account.id, alice.key, "")]
    assert accountant._customers() == []
    wallets.hold(alice.account.id, 5, uuid4(), lifecycle.lease())
    assert "in lots" in accountant._customers()[0]
