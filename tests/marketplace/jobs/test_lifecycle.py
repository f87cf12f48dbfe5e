"""The lifecycle's verbs: what each outcome costs, who may write, and what a second try changes (nothing)."""

import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from billing.errors import InsufficientTokens
from billing.prices import price_lists
from billing.prices.pricing import ImageOutcome
from billing.tokens import wallets
from marketplace.jobs import lifecycle, storage, submission, sweeper
from marketplace.jobs.errors import CostAboveMaximum, KeyReused, LeaseLost, NotCancelable, NotFound
from marketplace.jobs.lifecycle import Progress, Result
from marketplace.jobs.models import Job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]

UNIT = 1250


def running(customer, wanted, worker="w1"):
    job = submission.submit(customer.account.id, wanted).job
    claimed = lifecycle.claim(job.id, worker)
    assert claimed is not None
    return claimed


def now(job):
    return Job.objects.get(id=job.id)


def silence(job):
    """The worker's lease has run out."""
    Job.objects.filter(id=job.id).update(lease_expires_at=timezone.now() - timedelta(seconds=1))


# --- each way a job can end, and what it costs of 3 pictures at 1.25 Tokens, 20 steps each ---


def delivered(alice, job, picture):
    lifecycle.complete(job, [picture(job, i) for i in range(3)], {})


def one_of_three_failed(alice, job, picture):
    lost = Result(ImageOutcome(delivered=False, steps_run=4))
    lifecycle.complete(job, [picture(job, 0), lost, picture(job, 2)], {})


def from_the_cache(alice, job, picture):
    hit = [Result(ImageOutcome(True, 10, 10), picture(job, i).image) for i in range(3)]
    lifecycle.complete(job, hit, {})


def unfinished(*steps_run):
    return [Result(ImageOutcome(delivered=False, steps_run=steps)) for steps in steps_run]


def canceled_while_running(alice, job, picture):
    lifecycle.cancel(alice.account.id, job.id)
    lifecycle.stop(job, unfinished(19, 10, 1), {})


def canceled_with_one_picture_finished(alice, job, picture):
    lifecycle.cancel(alice.account.id, job.id)
    lifecycle.stop(job, [picture(job, 0), *unfinished(10, 0)], {})


def canceled_before_the_first_step(alice, job, picture):
    lifecycle.cancel(alice.account.id, job.id)
    lifecycle.stop(job, unfinished(0, 0, 0), {})


def canceled_and_then_the_worker_left(alice, job, picture):
    lifecycle.cancel(alice.account.id, job.id)
    lifecycle.give_back(job)


def canceled_and_then_the_worker_died(alice, job, picture):
    lifecycle.cancel(alice.account.id, job.id)
    silence(job)
    sweeper.sweep()


def finished_although_canceled(alice, job, picture):
    lifecycle.cancel(alice.account.id, job.id)
    delivered(alice, job, picture)


def failed_for_good(alice, job, picture):
    lifecycle.fail(job, "invalid_request", "no", retry=False)


def failed_three_times(alice, job, picture):
    for attempt in range(3):
        lifecycle.fail(job, "engine_failed", "no", retry=True)
        if attempt < 2:
            job = lifecycle.claim(job.id, "w1")


def its_worker_died_three_times(alice, job, picture):
    for attempt in range(3):
        silence(job)
        sweeper.sweep()
        if attempt < 2:
            job = lifecycle.claim(job.id, "w1")


OUTCOMES = [
    (delivered, "succeeded", 3 * UNIT),
    (one_of_three_failed, "succeeded", 2 * UNIT),
    (from_the_cache, "succeeded", 3 * (UNIT - UNIT * 10 * 750 // 20_000)),
    (canceled_while_running, "canceled", UNIT * 19 // 20 + UNIT * 10 // 20 + UNIT * 1 // 20),
    (canceled_with_one_picture_finished, "canceled", UNIT + UNIT * 10 // 20),
    (canceled_before_the_first_step, "canceled", 0),
    (canceled_and_then_the_worker_left, "canceled", 0),
    (canceled_and_then_the_worker_died, "canceled", 0),
    (finished_although_canceled, "succeeded", 3 * UNIT),
    (failed_for_good, "failed", 0),
    (failed_three_times, "failed", 0),
    (its_worker_died_three_times, "failed", 0),
]


@pytest.mark.parametrize(("ending", "status", "charge"), OUTCOMES, ids=[row[0].__name__ for row in OUTCOMES])
def test_what_each_outcome_costs(ending, status, charge, alice, order, picture):
    job = running(alice, order(n=3))
    assert alice.balance == (1_000_000 - 3 * UNIT, 3 * UNIT)
    ending(alice, job, picture)
    ended = now(job)
    assert (ended.status, ended.captured) == (status, charge)
    assert alice.balance == (1_000_000 - charge, 0)
    assert ended.held == 0
    assert ended.captured + ended.released == ended.quoted == 3 * UNIT


def test_a_job_canceled_in_the_queue_costs_nothing_and_is_never_claimed(alice, order):
    job = submission.submit(alice.account.id, order()).job
    assert lifecycle.cancel(alice.account.id, job.id).status == "canceled"
    assert alice.balance == (1_000_000, 0)
    assert lifecycle.claim(job.id, "w1") is None


# --- refusals leave nothing behind ---


def test_too_few_tokens_leave_no_job_and_no_hold(bob, order):
    with pytest.raises(InsufficientTokens) as refused:
        submission.submit(bob.account.id, order())
    assert (refused.value.available, refused.value.needed) == (0, UNIT)
    assert not Job.objects.exists()


def test_a_quote_above_max_cost_is_refused(alice, order):
    with pytest.raises(CostAboveMaximum):
        submission.submit(alice.account.id, order(max_cost=UNIT - 1))
    assert submission.submit(alice.account.id, order(max_cost=UNIT)).job.quoted == UNIT


def test_the_price_stays_what_was_quoted(alice, order, picture):
    job = running(alice, order())
    listed = vars(price_lists.current()) | {"base_cost": 200_000}
    price_lists.publish(**{name: value for name, value in listed.items() if name != "version"})
    price_lists.forget()
    assert submission.quote(order()).total == 2 * UNIT
    lifecycle.complete(job, [picture(job)], {})
    assert now(job).captured == UNIT


# --- idempotency ---


def test_the_same_key_and_order_buy_once(alice, order):
    first = submission.submit(alice.account.id, order(), idempotency_key="k")
    again = submission.submit(alice.account.id, order(), idempotency_key="k")
    assert (first.replayed, again.replayed) == (False, True)
    assert first.job.id == again.job.id
    assert alice.balance[1] == UNIT


def test_the_same_key_with_another_order_is_refused(alice, order):
    submission.submit(alice.account.id, order(), idempotency_key="k")
    with pytest.raises(KeyReused):
        submission.submit(alice.account.id, order(seed=8), idempotency_key="k")
    assert Job.objects.count() == 1


def test_two_customers_may_use_the_same_key(alice, order):
    from tests.marketplace.people import customer

    carol = customer("carol", 10)
    submission.submit(alice.account.id, order(), idempotency_key="k")
    assert not submission.submit(carol.account.id, order(), idempotency_key="k").replayed


@pytest.mark.django_db(transaction=True)
def test_a_key_sent_by_eight_threads_at_once_buys_once(alice, order):
    made, start = [], threading.Barrier(8)

    def buy():
        start.wait()
        made.append(submission.submit(alice.account.id, order(), idempotency_key="k").job.id)
        connection.close()

    threads = [threading.Thread(target=buy) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert alice.balance == (1_000_000 - UNIT, UNIT)


# --- one worker at a time ---


def test_a_message_delivered_twice_starts_one_worker(alice, order):
    job = submission.submit(alice.account.id, order()).job
    assert lifecycle.claim(job.id, "w1") is not None
    assert lifecycle.claim(job.id, "w2") is None


@pytest.mark.django_db(transaction=True)
def test_of_eight_workers_one_gets_the_job(alice, order):
    job = submission.submit(alice.account.id, order()).job
    won, start = [], threading.Barrier(8)

    def reach(name):
        start.wait()
        if lifecycle.claim(job.id, name):
            won.append(name)
        connection.close()

    threads = [threading.Thread(target=reach, args=(f"w{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert now(job).worker == won[0]


@pytest.mark.parametrize("successor", ["w2", "w1"])
def test_a_worker_that_lost_its_lease_cannot_write(successor, alice, order, picture):
    lost = running(alice, order())
    silence(lost)
    sweeper.sweep()
    ours = lifecycle.claim(lost.id, successor)
    late = picture(lost)
    for write in (
        lambda: lifecycle.complete(lost, [late], {}),
        lambda: lifecycle.stop(lost, unfinished(3), {}),
        lambda: lifecycle.fail(lost, "x", "x", retry=True),
        lambda: lifecycle.give_back(lost),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert lifecycle.heartbeat("w1", {lost.id: Progress(lost.attempt, 5, 0)}) == {}
    assert now(lost).status == "running"
    lifecycle.complete(ours, [picture(ours)], {})
    assert alice.balance == (1_000_000 - UNIT, 0)
    assert now(lost).images.count() == 1


def test_completing_twice_charges_once(alice, order, picture):
    job = running(alice, order())
    lifecycle.complete(job, [picture(job)], {})
    with pytest.raises(LeaseLost):
        lifecycle.complete(job, [picture(job)], {})
    assert alice.balance == (1_000_000 - UNIT, 0)
    assert now(job).images.count() == 1


def test_a_heartbeat_keeps_the_lease_and_tells_of_a_cancel(alice, order):
    job = running(alice, order())
    silence(job)
    assert lifecycle.heartbeat("w1", {job.id: Progress(1, 7, 437)}) == {job.id: False}
    assert sweeper.sweep()["dead_leases"] == 0
    assert (now(job).step, now(job).cancel_cost) == (7, 437)
    lifecycle.cancel(alice.account.id, job.id)
    assert lifecycle.heartbeat("w1", {job.id: Progress(1, 9, 562)}) == {job.id: True}


def test_a_job_that_begins_again_would_cost_nothing_again(alice, order):
    job = running(alice, order())
    lifecycle.heartbeat("w1", {job.id: Progress(1, 7, 437)})
    lifecycle.heartbeat("w1", {job.id: Progress(1, 8, 62)})
    assert (now(job).step, now(job).cancel_cost) == (8, 62), "a picture failed meanwhile"
    lifecycle.fail(job, "engine_failed", "no", retry=True)
    assert (now(job).step, now(job).cancel_cost) == (0, 0)


def test_a_job_given_back_waits_at_once_and_its_attempt_is_not_counted(alice, order):
    job = running(alice, order())
    for worker in ("w2", "w3", "w4", "w5"):
        lifecycle.give_back(job)
        job = lifecycle.claim(job.id, worker)
    lifecycle.give_back(job)
    waiting = now(job)
    assert (waiting.status, waiting.attempt, waiting.dispatched_at) == ("queued", 0, None)
    assert alice.balance == (1_000_000 - UNIT, UNIT)


# --- cancel ---


def test_canceling_again_changes_nothing(alice, order):
    job = submission.submit(alice.account.id, order()).job
    first = lifecycle.cancel(alice.account.id, job.id)
    again = lifecycle.cancel(alice.account.id, job.id)
    assert first.finished_at == again.finished_at
    assert alice.balance == (1_000_000, 0)


def test_a_finished_job_cannot_be_canceled(alice, order, picture):
    job = running(alice, order())
    lifecycle.complete(job, [picture(job)], {})
    with pytest.raises(NotCancelable):
        lifecycle.cancel(alice.account.id, job.id)


def test_nobody_cancels_another_customers_job(alice, bob, order):
    job = submission.submit(alice.account.id, order()).job
    with pytest.raises(NotFound):
        lifecycle.cancel(bob.account.id, job.id)
    with pytest.raises(NotFound):
        lifecycle.cancel(alice.account.id, uuid4())
    assert now(job).status == "queued"


# --- pictures ---


def test_pictures_of_lost_attempts_are_deleted(alice, order, picture):
    job = running(alice, order())
    stale = picture(job).image.path
    lifecycle.fail(job, "x", "x", retry=True)
    job = lifecycle.claim(job.id, "w1")
    kept = picture(job)
    lifecycle.complete(job, [kept], {})
    storage.keep_only(job, {kept.image.path})
    assert storage.open_image(kept.image).read(4) == b"\x89PNG"
    assert not storage._storage().exists(stale)


def test_a_key_whose_job_emptied_the_wallet_is_replayed_and_not_refused(bob, order):
    wallets.grant(bob.account.id, UNIT, "just enough")
    first = submission.submit(bob.account.id, order(), idempotency_key="k")
    assert submission.submit(bob.account.id, order(), idempotency_key="k").job.id == first.job.id


def test_cleaning_up_an_attempt_leaves_the_next_ones_pictures(alice, order, picture):
    first = running(alice, order())
    stale = picture(first).image
    lifecycle.fail(first, "x", "x", retry=True)
    second = lifecycle.claim(first.id, "w1")
    kept = picture(second)
    storage.discard_attempt(first)
    lifecycle.complete(second, [kept], {})
    assert storage.open_image(kept.image).read(4) == b"\x89PNG"
    with pytest.raises(FileNotFoundError):
        storage.open_image(stale)


@pytest.mark.django_db(transaction=True)
def test_a_job_is_bought_also_where_nobody_can_be_woken(alice, order, monkeypatch):
    monkeypatch.setattr(lifecycle.outbox, "CHANNEL", "not a channel")
    monkeypatch.setattr(lifecycle.outbox, "_last_wake", 0.0)
    assert submission.submit(alice.account.id, order()).job.status == "queued"
