"""Trainings bought, claimed, ended: what each outcome costs, who may write, and what a second try changes (nothing)."""

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from billing.errors import InsufficientTokens, SpendCapReached
from billing.tokens import wallets
from lora import tiers, versions
from lora.errors import OutsideTier, SlugTaken, UnknownTier
from lora.models import Adapter, Version
from lora.versions import Facts
from marketplace.accounts.models import Account
from marketplace.trainings import lifecycle, pictures, submission
from marketplace.trainings.errors import (
    CostAboveMaximum,
    KeyReused,
    LeaseLost,
    NotCancelable,
    NotFound,
    QueueFull,
)
from marketplace.trainings.models import Training
from marketplace.webhooks.models import Delivery, Endpoint
from tests.marketplace.trainings import making

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]
# 100 steps of the tier `craft`, at the floor of its resolution: 2,500 x 0.5625 x 0.1 Tokens
PRICE = 140_625


def balance(customer):
    found = wallets.balance(customer.account.id)
    return found.available, found.held


def now(training):
    return Training.objects.get(id=training.id)


def running(customer, **options):
    making.submit(customer, **options)
    claimed = lifecycle.claim("t1")
    assert claimed is not None
    return claimed


def ready(training):
    version = versions.begin(training.adapter, Version.Origin.TRAINED, 1000, most=100, mebibytes=100)
    versions.accept(version, Facts(sha256=uuid4().hex * 2, size=1000, rank=16, layers=3))
    version.refresh_from_db()
    return version


def silence(training):
    Training.objects.filter(id=training.id).update(lease_expires_at=Now() - timedelta(seconds=1))


# --- bought ---


def test_a_training_is_held_and_queued_and_its_adapter_made(alice):
    bought = making.submit(alice).training
    assert balance(alice) == (1_000_000 - PRICE, PRICE)
    assert (now(bought).status, lifecycle.position(now(bought))) == ("queued", 1)
    assert now(bought).quote["factors"] == {"base_cost": "2500", "resolution": "0.5625", "steps": "0.1"}
    assert Adapter.objects.get().owner_id == alice.account.id


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"steps": 2001}, OutsideTier),
        ({"tier": "golden"}, UnknownTier),
        ({"max_cost": PRICE - 1}, CostAboveMaximum),
    ],
)
def test_what_is_not_sold_is_refused_and_nothing_is_written(alice, change, error):
    with pytest.raises(error):
        making.submit(alice, making.order(alice, **change))
    assert balance(alice) == (1_000_000, 0)
    assert not Training.objects.exists()
    assert not Adapter.objects.exists()


def test_whoever_cannot_pay_gets_nothing(bob):
    with pytest.raises(InsufficientTokens):
        making.submit(bob)
    assert not Training.objects.exists()
    assert not Adapter.objects.exists()


def test_nothing_is_held_for_an_adapter_whose_name_is_taken(alice):
    making.adapter(alice, "glaze")
    with pytest.raises(SlugTaken):
        making.submit(alice, slug="glaze")
    assert balance(alice) == (1_000_000, 0)


def test_a_cap_counts_trainings_as_well(alice):
    Account.objects.filter(id=alice.account.id).update(daily_cap=PRICE + 1)
    making.submit(alice)
    with pytest.raises(SpendCapReached):
        making.submit(alice)
    assert Training.objects.count() == 1


def test_the_same_key_buys_once_and_refuses_another_order(alice):
    wanted = making.order(alice)
    first = making.submit(alice, wanted, "glaze", idempotency_key="k")
    again = making.submit(alice, wanted, "glaze", idempotency_key="k")
    assert (first.replayed, again.replayed, again.training.id) == (False, True, first.training.id)
    with pytest.raises(KeyReused):
        making.submit(alice, replace(wanted, steps=99), "glaze", idempotency_key="k")
    assert balance(alice)[1] == PRICE


def test_no_more_than_ten_of_an_account_wait_or_run(alice):
    wallets.grant(alice.account.id, 10_000_000, "more")
    wanted = making.order(alice)
    for _ in range(submission.MOST_UNFINISHED):
        making.submit(alice, wanted)
    with pytest.raises(QueueFull):
        making.submit(alice, wanted)
    assert Training.objects.count() == submission.MOST_UNFINISHED


def test_a_price_that_rises_leaves_what_was_bought(alice):
    bought = making.submit(alice).training
    tiers.publish("craft", "Dearer.", replace(tiers.find("craft").terms, base_cost=9_000_000))
    claimed = lifecycle.claim("t1")
    lifecycle.complete(claimed, ready(claimed))
    assert now(bought).captured == PRICE


# --- whose turn it is ---


def test_whoever_has_none_running_is_first_and_better_tiers_count_as_older(alice, bob):
    wallets.grant(bob.account.id, 1_000_000, "some")
    wanted = making.order(alice, steps=10)
    mine = [making.submit(alice, replace(wanted, tier=tier)).training for tier in ("sketch", "craft", "brand")]
    theirs = making.submit(bob).training
    taken = [lifecycle.claim("t1").id for _ in range(4)]
    assert taken == [mine[2].id, theirs.id, mine[1].id, mine[0].id]
    assert lifecycle.claim("t1") is None


def test_positions_are_those_in_which_one_account_would_be_served(alice):
    wanted = making.order(alice, steps=10)
    sketch, brand = (making.submit(alice, replace(wanted, tier=tier)).training for tier in ("sketch", "brand"))
    assert [lifecycle.position(now(each)) for each in (sketch, brand)] == [2, 1]


# --- each way to end, and what it costs ---


def test_a_training_that_succeeds_costs_its_price_once(alice):
    training = running(alice)
    version = ready(training)
    lifecycle.complete(training, version)
    with pytest.raises(LeaseLost):
        lifecycle.complete(training, version)
    assert (now(training).status, now(training).captured, now(training).step) == ("succeeded", PRICE, 100)
    assert balance(alice) == (1_000_000 - PRICE, 0)


def test_one_that_fails_costs_nothing(alice):
    training = running(alice)
    lifecycle.fail(training, "diverged", "The loss is not finite.", retry=False)
    assert (now(training).status, now(training).error_code) == ("failed", "diverged")
    assert balance(alice) == (1_000_000, 0)


def test_a_queued_one_is_canceled_at_once_for_nothing(alice):
    bought = making.submit(alice).training
    assert lifecycle.cancel(alice.account.id, bought.id).status == "canceled"
    assert lifecycle.cancel(alice.account.id, bought.id).status == "canceled"
    assert balance(alice) == (1_000_000, 0)
    assert lifecycle.claim("t1") is None


def test_a_running_one_is_asked_to_stop_and_costs_the_steps_done(alice):
    training = running(alice)
    assert not lifecycle.heartbeat(training, step=33)
    assert now(training).cancel_cost == PRICE * 33 // 100
    assert lifecycle.cancel(alice.account.id, training.id).status == "running"
    assert lifecycle.heartbeat(training, step=34)
    assert lifecycle.stop(training, 34, None) == PRICE * 34 // 100
    assert balance(alice) == (1_000_000 - PRICE * 34 // 100, 0)
    with pytest.raises(LeaseLost):
        lifecycle.stop(training, 34, None)


def test_one_that_was_canceled_before_its_first_step_costs_nothing(alice):
    training = running(alice)
    lifecycle.cancel(alice.account.id, training.id)
    assert lifecycle.stop(training, 0, None) == 0
    assert (now(training).status, balance(alice)) == ("canceled", (1_000_000, 0))


def test_what_has_ended_cannot_be_canceled_nor_can_anothers(alice, bob):
    training = running(alice)
    with pytest.raises(NotFound):
        lifecycle.cancel(bob.account.id, training.id)
    lifecycle.fail(training, "x", "y", retry=False)
    with pytest.raises(NotCancelable):
        lifecycle.cancel(alice.account.id, training.id)


def test_one_that_nobody_starts_in_time_fails_for_nothing(alice):
    bought = making.submit(alice).training
    from billing.models import Hold

    Hold.objects.filter(reference=bought.id).update(expires_at=Now() - timedelta(seconds=1))
    assert lifecycle.expire_holds() == 1
    assert lifecycle.expire_holds() == 0
    assert (now(bought).status, now(bought).error_code, balance(alice)) == ("failed", "expired", (1_000_000, 0))


# --- trainers that die ---


def test_a_silent_trainers_training_goes_to_another_and_its_late_words_change_nothing(alice):
    first = running(alice)
    lifecycle.checkpointed(first, "trainings/x/1-checkpoint")
    silence(first)
    assert lifecycle.expire_leases() == 1
    second = lifecycle.claim("t2")
    assert (second.id, second.attempt, second.checkpoint) == (first.id, 2, "trainings/x/1-checkpoint")
    for late in (
        lambda: lifecycle.heartbeat(first, step=99),
        lambda: lifecycle.checkpointed(first, "trainings/x/1-late"),
        lambda: lifecycle.evaluated(first, {"step": 50, "loss": 1.0}),
        lambda: lifecycle.fail(first, "late", "late", retry=False),
        lambda: lifecycle.give_back(first),
        lambda: lifecycle.stop(first, 99, None),
    ):
        with pytest.raises(LeaseLost):
            late()
    assert (now(first).step, now(first).checkpoint, balance(alice)[1]) == (0, "trainings/x/1-checkpoint", PRICE)


def test_five_attempts_without_progress_are_enough_but_progress_begins_anew(alice):
    making.submit(alice)
    for _ in range(lifecycle.MOST_FAILURES - 1):
        silence(lifecycle.claim("t1"))
        lifecycle.expire_leases()
    lifecycle.checkpointed(last := lifecycle.claim("t1"), "a")
    silence(last)
    lifecycle.expire_leases()
    for _ in range(lifecycle.MOST_FAILURES - 1):
        silence(lifecycle.claim("t1"))
        lifecycle.expire_leases()
    found = Training.objects.get()
    assert (found.status, found.error_code, found.captured) == ("failed", "worker_lost", 0)
    assert balance(alice) == (1_000_000, 0)


def test_a_leaving_trainer_gives_back_unless_a_cancel_was_asked_for(alice):
    training = running(alice)
    lifecycle.give_back(training)
    again = lifecycle.claim("t2")
    lifecycle.heartbeat(again, step=20)
    lifecycle.cancel(alice.account.id, again.id)
    lifecycle.give_back(again)
    assert (now(again).status, now(again).captured) == ("canceled", PRICE * 20 // 100)


def test_what_is_measured_again_takes_the_place_of_what_was(alice):
    training = running(alice)
    for step, loss in ((50, 0.2), (25, 0.3), (50, 0.1)):
        found = lifecycle.evaluated(training, {"step": step, "loss": loss, "adapter": f"{step}", "samples": ""})
    assert [(each["step"], each["loss"]) for each in found] == [(25, 0.3), (50, 0.1)]
    lifecycle.keep_adapters(training, ["50"])
    assert [each["adapter"] for each in now(training).evaluations] == ["", "50"]


# --- pictures, and who is told ---


def test_pictures_stay_while_a_training_needs_them(alice):
    training = running(alice)
    assert len(pictures.in_use(alice.account.id)) == 6
    lifecycle.fail(training, "x", "y", retry=False)
    assert pictures.in_use(alice.account.id) == set()


def test_webhooks_are_told_of_the_end(alice):
    Endpoint.objects.create(account=alice.account, url="https://hooks.example/", types=["training.succeeded"])
    training = running(alice)
    lifecycle.complete(training, ready(training))
    told = Delivery.objects.get()
    assert (told.type, told.data["id"], told.data["status"]) == ("training.succeeded", str(training.id), "succeeded")
