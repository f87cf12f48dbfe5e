"""A short run of the chaos that `make bench ARGS=chaos` runs for minutes; and that its accountant would see a loss."""

import re
import subprocess
import sys
from uuid import uuid4

import pytest

from bench.chaos import logs, market_books, trainings
from bench.chaos.accountant import Accountant
from bench.chaos.listener import Listener
from bench.chaos.memory import Customer, Memory
from bench.chaos.saboteur import KINDS
from billing.tokens import wallets
from lora import listings, tiers, versions
from lora.training_prices import Terms
from marketplace.addresses import ROOT
from marketplace.jobs import lifecycle, storage, submission
from marketplace.jobs.models import Job
from marketplace.trainings import lifecycle as training_lifecycle
from marketplace.trainings.models import Training
from tests.marketplace.adapters import goods
from tests.marketplace.api import asking
from tests.marketplace.people import customer
from tests.marketplace.trainings import making


@pytest.mark.timeout(900)
@pytest.mark.deep
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
    charge = {
        "id": "ch_1",
        "payment_intent": "pi_1",
        "status": "succeeded",
        "amount": 101,
        "currency": "eur",
        "metadata": {},
    }
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


def test_the_accountant_misses_a_share(accountant, alice, picture, tmp_path):
    carol = customer("carol", 0)
    glaze = goods.adapter(carol)
    goods.version(glaze, tmp_path)
    listings.publish(versions.pick(glaze), fee=200, share=700, licence="any-use")
    order = {"prompt": "a red circle", "steps": 20, "adapters": [{"id": str(glaze.id)}]}
    job = Job.objects.get(id=alice.post("/v1/jobs", order).json()["id"])
    asking.deliver(str(job.id), picture)
    market_books.settle()
    assert market_books.audit(accountant.stripe, accountant.memory, accountant.figures) == []
    assert accountant.figures["uses of adapters"] == {"of others": 1}
    job.quote["adapters"][0]["fee"] = "0.3"
    Job.objects.filter(id=job.id).update(quote=job.quote)
    unlisted, share = market_books._shares({})
    assert "never listed" in unlisted
    assert "makers are due" in share


def test_the_accountant_misses_a_payout_that_nobody_ordered(accountant):
    transfer = {"id": "tr_1", "amount": 5, "amount_reversed": 0, "currency": "eur", "destination": "acct_1"}
    accountant.stripe = Listing(transfers=[transfer | {"metadata": {"payout": "unknown"}}])
    assert "payout unknown is at Stripe 1 times" in market_books._payouts(accountant.stripe, Memory(), {})[0]


def test_the_accountant_misses_a_step_that_was_not_charged(accountant, alice):
    tiers.publish(trainings.TIER, "For a moment.", Terms(**trainings.TERMS))
    making.submit(alice, making.order(alice, tier=trainings.TIER, steps=8))
    training_lifecycle.stop(training_lifecycle.claim("trainer"), 5, None)
    assert market_books._trainings(Memory(), {}) == []
    Training.objects.update(step=6)
    assert "due 12, [10]" in market_books._trainings(Memory(), {})[0]
