"""`check_ledger`: jobs and holds that tell different stories, and the command as its user meets it."""

import os
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from billing.prices import pricing
from billing.tokens import proof, wallets
from marketplace.accounts import customers
from marketplace.addresses import ROOT
from marketplace.jobs import lifecycle, submission
from marketplace.jobs.models import Image, Job
from marketplace.maintenance import agreement
from tests.billing.books import damage
from tests.orders import order

PICTURE = order(prompt="x" * 100, width=512, height=512, steps=30)
OPEN = "WHERE status = 'held'"


@pytest.fixture
def jobs() -> Job:
    """One job of 15 Tokens that was delivered and one that waits; the first of them."""
    customer = customers.create("alice@example.com").id
    wallets.grant(customer, 1_000_000, "start")
    done, _ = (submission.submit(customer, PICTURE).job for _ in range(2))
    job = lifecycle.claim(done.id, "worker")
    image = Image(job=job, index=0, path="x", media_type="image/png", sha256="", width=1, height=1, size=1, seed=1)
    lifecycle.complete(job, [lifecycle.Result(pricing.ImageOutcome(True, 30), image)], {})
    assert proof.check() + agreement.check() == []
    return job


DONE = "WHERE status = 'succeeded'"
QUEUED = "WHERE status = 'queued'"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (f"DELETE FROM billing_hold {OPEN}", "it has no hold"),
        (f"UPDATE billing_hold SET reference = gen_random_uuid() {OPEN}", "it has neither job nor training"),
        (f"UPDATE jobs_job SET status = 'failed', captured = 0 {DONE}", "failed and charged 0 with 1 pictures"),
        (f"UPDATE jobs_job SET status = 'failed', finished_at = now() {QUEUED}", "failed, but its hold is held"),
        (f"UPDATE jobs_job SET status = 'queued', finished_at = NULL {DONE}", "queued, but its hold is captured"),
        (f"UPDATE jobs_job SET captured = 14999 {DONE}", "quoted 15000 and charged 14999, its hold says 15000"),
        ("UPDATE jobs_job SET quoted = 15001", "quoted 15001 and charged"),
        (f"UPDATE jobs_job SET status = 'failed' {DONE}", "failed and charged 15000"),
        ("DELETE FROM jobs_image", "succeeded and charged 15000 with 0 pictures"),
        ("UPDATE jobs_job SET account_id = gen_random_uuid()", "its hold is in another account's wallet"),
    ],
)  # fmt: skip
def test_jobs_and_holds_that_tell_different_stories_are_found(jobs, sql, said):
    damage(sql)
    assert [line for line in agreement.check() if said in line], agreement.check()


def check_ledger() -> subprocess.CompletedProcess[str]:
    """`manage.py check_ledger` in a process of its own, on the tests' database."""
    url = os.environ["DATABASE_URL"].rpartition("/")[0] + "/" + connection.settings_dict["NAME"]
    command = [sys.executable, "manage.py", "check_ledger"]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"DATABASE_URL": url}, capture_output=True, text=True, check=False
    )


@pytest.mark.django_db(transaction=True)
def test_the_command_proves_healthy_books(jobs):
    done = check_ledger()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ledger ok: 3 wallets, 2 transfers, 2 holds, 2 jobs"


@pytest.mark.django_db(transaction=True)
def test_the_command_names_each_violation_on_a_line_and_fails(jobs):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE billing_wallet SET balance = balance + 1 WHERE kind = 'customer'")
        cursor.execute("UPDATE jobs_job SET captured = captured - 1 WHERE status = 'succeeded'")
    done = check_ledger()
    assert done.returncode != 0
    assert "ledger ok" not in done.stdout
    for said in ("balance 985001, transfers say 985000", "charged 14999", "all wallets sum to 1", "ledger violated: 3"):
        assert sum(said in line for line in done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.django_db(transaction=True)
def test_the_command_writes_nothing_and_an_empty_ledger_is_right(capsys):
    call_command("check_ledger")
    assert capsys.readouterr().out.startswith("ledger ok: 2 wallets, 0 transfers")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_hold DISABLE TRIGGER hold_kept")
    try:
        with pytest.raises(CommandError, match="hold_kept"):
            call_command("check_ledger")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE billing_hold ENABLE TRIGGER hold_kept")
