"""Periodic tasks: none beside itself, none held up by one that waits for Stripe, and those that are late are known."""

import re
import threading
from datetime import timedelta

import pytest
import yaml
from django.db import connection, transaction
from django.utils import timezone

from billing.models import AutomaticTopUp, Payer, TopUp
from billing.prices import packs
from devstack import parts, processes
from marketplace.addresses import ROOT
from marketplace.celery import PERIODS, app
from marketplace.jobs import metrics, submission, sweeper
from marketplace.jobs.models import Job
from marketplace.maintenance import periodic, tasks
from marketplace.maintenance.models import PeriodicTask
from tests.marketplace.people import customer
from tests.marketplace.sites import Site
from tests.threads import together

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def slow(monkeypatch):
    """`sweep` that does not end before it is told to: the event that it began, and the one that ends it."""
    began, end = threading.Event(), threading.Event()

    def work():
        began.set()
        assert end.wait(20)

    monkeypatch.setattr(sweeper, "sweep", work)
    yield began, end
    end.set()


def begin(slow):
    began, _ = slow
    thread = threading.Thread(target=together, args=(1, lambda _: tasks.sweep()))
    thread.start()
    assert began.wait(20)
    return thread


def test_a_task_that_runs_is_not_begun_again_and_holds_up_no_other(slow):
    thread = begin(slow)
    slow[0].clear()
    together(3, lambda _: tasks.sweep())
    assert not slow[0].is_set()
    assert not PeriodicTask.objects.exists()
    tasks.keep_requests()
    assert [each.name for each in PeriodicTask.objects.all()] == ["keep_requests"]
    slow[1].set()
    thread.join()
    tasks.sweep()
    assert slow[0].is_set()
    assert PeriodicTask.objects.filter(name="sweep").exists()


def test_a_process_that_dies_gives_its_turn_up(slow):
    thread = begin(slow)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = "
            "(hashtext('periodic task')::bigint & 4294967295)::oid"
        )
    slow[0].clear()
    slow[1].set()
    assert processes.wait_until(lambda: tasks.sweep() or slow[0].is_set(), 10)
    thread.join()


def test_a_process_that_hangs_loses_its_turn_once_it_has_been_silent_for_long(slow, monkeypatch):
    thread = begin(slow)
    slow[0].clear()
    tasks.sweep()
    tasks.sweep()
    assert not slow[0].is_set(), "silent only for a moment"
    monkeypatch.setattr(periodic, "SILENT", timedelta(0))
    tasks.sweep()
    assert processes.wait_until(lambda: not turns_taken(), 10)
    monkeypatch.undo()
    assert thread.is_alive()
    slow[1].set()
    tasks.sweep()
    thread.join()
    assert PeriodicTask.objects.filter(name="sweep").exists()


def turns_taken():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = "
            "(hashtext('periodic task')::bigint & 4294967295)::oid"
        )
        return cursor.fetchall()


def test_a_transaction_that_hangs_is_ended():
    with connection.cursor() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchone() == ("5min",)


def test_a_task_that_fails_has_not_finished_and_runs_again(monkeypatch):
    def fail():
        raise RuntimeError("no database")

    monkeypatch.setattr(sweeper, "sweep", fail)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            tasks.sweep()
    assert not PeriodicTask.objects.exists()
    monkeypatch.undo()
    tasks.sweep()
    assert PeriodicTask.objects.filter(name="sweep").exists()


def test_whoever_has_not_finished_for_three_periods_is_told_of(client):
    for name in PERIODS:
        PeriodicTask.objects.create(name=name, finished_at=timezone.now())
    assert client.get("/readyz").json()["maintenance"] == "ok"
    PeriodicTask.objects.filter(name="keep_lots").update(finished_at=timezone.now() - timedelta(seconds=3 * 60 + 5))
    PeriodicTask.objects.filter(name="roll_up").update(finished_at=timezone.now() - timedelta(seconds=3 * 60 + 5))
    assert client.get("/readyz").json()["maintenance"] == "late: keep_lots"
    assert list(metrics.late()) == ["keep_lots"]
    page = client.get("/metrics").content.decode()
    found = dict(re.findall(r'^kiln_periodic_task_age_seconds\{task="(\w+)"\} (\S+)$', page, re.M))
    assert found.keys() == PERIODS.keys()
    assert 185 <= float(found["keep_lots"]) < 250
    assert 'kiln_periodic_task_period_seconds{task="keep_lots"} 60.0' in page


def test_the_alarms_are_about_metrics_that_there_are(client):
    rules = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"][0]["rules"]
    page = client.get("/metrics").content.decode()
    for rule in rules:
        for name in re.findall(r"kiln_\w+", rule["expr"]):
            assert f"\n{name}" in page, (rule["alert"], name)
    assert any(f"> {metrics.LATE} * " in rule["expr"] for rule in rules)


def test_nothing_expires_by_the_clock_of_whoever_sent_it_and_each_task_has_a_thread():
    schedule = app.conf.beat_schedule
    assert all("expires" not in each.get("options", {}) for each in schedule.values())
    assert {each["task"] for each in schedule.values()} == {f"marketplace.jobs.tasks.{name}" for name in PERIODS}
    (command,) = [part.command for part in parts.parts(ROOT, parts.Ports(0, 0, 0)) if part.name == "maintenance"]
    assert int(command[command.index("--concurrency") + 1]) > len(schedule)
    assert all(hasattr(tasks, name) for name in PERIODS)


def order_automatic(shop, owner):
    customer_id = shop.v1.customers.create({"email": "alice@example.com"}).id
    card = shop.v1.payment_methods.attach("pm_card_visa", {"customer": customer_id}).id
    shown = {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2040}
    Payer.objects.create(owner=owner, customer_id=customer_id, card_id=card, card=shown)
    terms = {"success_url": "http://x.example/", "cancel_url": "http://x.example/", "email": "a@example.com"}
    AutomaticTopUp.objects.create(
        owner=owner, pack=packs.find("small"), currency="eur", threshold=10**9, daily_cap_minor=50_000, status="on",
        order={**terms, "pack": "small", "currency": "eur", "body": {}, "save_card": True},
    )  # fmt: skip


@pytest.mark.timeout(240)
def test_a_slow_stripe_does_not_hold_up_the_sweeper(shop, alice, order, tmp_path, monkeypatch):
    """Every 15 s a new round of automatic top-ups began beside the last, until no thread was left for the sweeper."""
    for number in range(6):
        order_automatic(shop, customer(f"person{number}", 0).account.id)
    shop.fault("slow", "POST /v1/payment_intents*", count=100, seconds=7)
    monkeypatch.setenv("STRIPE_API_BASE", shop.url)
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_kiln")
    job = submission.submit(alice.account.id, order()).job
    ghost = {"status": "running", "worker": "ghost", "attempt": 1, "lease_expires_at": "2026-01-01T00:00Z"}
    site = Site(tmp_path)
    try:
        site.start("maintenance")
        for _ in range(30):
            app.send_task("marketplace.jobs.tasks.keep_payments")
        assert processes.wait_until(lambda: TopUp.objects.filter(automatic=True).count() == 6, 60), site.logs()
        with transaction.atomic():
            Job.objects.filter(id=job.id).update(**ghost, dispatched_at="2026-01-01T00:00Z", started_at=timezone.now())
        app.send_task("marketplace.jobs.tasks.sweep")
        assert processes.wait_until(lambda: Job.objects.get(id=job.id).worker != "ghost", 25), site.logs()
        assert not PeriodicTask.objects.filter(name="keep_payments").exists()  # it is still waiting for Stripe
    finally:
        site.stop()
