"""Makers are paid out by processes that are killed again and again, while Stripe ails: each payout is there once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
from django.db import connection

from billing.models import Lot, Payee, Payout, Transfer, Wallet
from billing.payments import events, payees, payouts, reconcile, stripe
from billing.tokens import earnings, lots, proof, takebacks, wallets
from devstack.processes import wait_until
from marketplace.addresses import ROOT
from tests.devstack.stripe.doubles import Browser, InThread, Receiver

pytestmark = pytest.mark.django_db(transaction=True)

PAGES = ("https://kiln.example/", "https://kiln.example/")
CURRENCIES = ("eur", "usd")
ASKED = "POST /v1/transfers"
LOST = ["error_after", "timeout_after", "drop_after"]
OTHERS = [
    ("error", ASKED), ("rate_limit", ASKED), ("drop", ASKED), ("slow", ASKED), ("drop", "GET /v1/transfers"),
    ("error", "GET *"), ("duplicate", "transfer.*"), ("reorder", "transfer.*"), ("lose", "transfer.*"),
]  # fmt: skip
# A milli-Token is bought for a cent, jobs cost one lot, and of each the maker gets so much: nothing is rounded.
LOT, SHARE = 100, 60

# Who is killed is a child of one that has loaded everything, and has another ready.
PREAMBLE = """
import os, sys, time
from datetime import timedelta
from itertools import count, product
from uuid import UUID, uuid4
import django
django.setup()
from billing import errors
from billing.payments import payouts, reconcile, stripe
from billing.tokens import lots, wallets
from billing.tokens.wallets import Share
from marketplace.maintenance import tasks

CURRENCIES, LOT, SHARE = ("eur", "usd"), 100, 60
MAKERS = [UUID(each) for each in sys.argv[2:]]

def say(*words):
    print(*words, flush=True)
"""
EARN = """
def live():
    buyer = UUID(sys.argv[1])
    for number, maker, currency in ((number, *each) for number in count() for each in product(MAKERS, CURRENCIES)):
        wallets.purchase(buyer, LOT, LOT, currency, str(uuid4()))
        wallets.hold(buyer, LOT, reference := uuid4(), timedelta(hours=1))
        wallets.capture(reference, LOT, [Share("platform", LOT - SHARE), Share(maker, SHARE)])
        lots.catch_up()
        key = str(uuid4())
        for _ in range(2):
            try:
                payouts.order(maker, currency, uuid4(), key)
            except (errors.PayoutBelowMinimum, errors.NotAPayee):
                pass
        if number % 3 == 2:
            wallets.refund(reference, LOT, str(reference))
        say("ordered")
"""
PAY = """
payouts.FIRST_PAUSE = payouts.LONGEST_PAUSE = timedelta(milliseconds=50)

def live():
    while True:
        tasks.keep_payouts()
        try:
            reconcile.run(stripe.from_settings())
        except errors.PaymentsUnavailable:
            pass
        say("paid")
        time.sleep(0.1)
"""
AGAIN = """
while True:
    child = os.fork()
    if not child:
        live()
    say("born", child)
    os.waitpid(child, 0)
"""


class Killed:
    """A process that a loop starts again whenever it is killed."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.name = f"killed {uuid4()}"
        url = os.environ["DATABASE_URL"].rpartition("/")[0] + "/" + connection.settings_dict["NAME"]
        self.loop = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + script + AGAIN, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": url, "PGAPPNAME": self.name, "KILN_LOG_LEVEL": "CRITICAL"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.child = 0

    def work(self, times: int) -> None:
        """Let it have done something so often since it was started."""
        while times:
            assert self.loop.stdout is not None
            _, *pid = self.loop.stdout.readline().split()
            self.child = int(pid[0]) if pid else self.child
            times -= not pid

    def kill(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        assert self.loop.stdout is not None
        while (line := self.loop.stdout.readline().split())[0] != "born":
            pass
        self.child = int(line[1])

    def end(self) -> None:
        os.killpg(self.loop.pid, signal.SIGKILL)
        with self.loop:
            assert self.loop.wait() == -signal.SIGKILL
        assert wait_until(self.is_gone, 10)

    def is_gone(self) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [self.name])
            return bool(cursor.fetchone() == (0,))


@contextmanager
def at_work(*children: Killed) -> Iterator[None]:
    try:
        yield
    finally:
        for child in children:
            child.end()


@pytest.fixture
def bank(monkeypatch, settings) -> Iterator[InThread]:
    """Stripe's double with money in it, for this process and its children, who pay out at once what was earned."""
    receiver = Receiver()
    made = InThread(receiver)
    made.receiver = receiver
    for currency in CURRENCIES:
        made.v1.payment_intents.create({
            "amount": 5_000_000, "currency": currency, "payment_method": "pm_card_bypassPending", "confirm": True,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        })  # fmt: skip
    terms = {"KILN_EARNINGS_DAYS": "0", "KILN_PAYOUT_MINIMUMS": "eur:0.01,usd:0.01"}
    for name, value in (terms | {"STRIPE_API_BASE": made.url, "STRIPE_SECRET_KEY": "sk_test_kiln"}).items():
        monkeypatch.setenv(name, value)
    settings.STRIPE_API_BASE, settings.STRIPE_SECRET_KEY = made.url, "sk_test_kiln"
    settings.EARNINGS_DAYS, settings.PAYOUT_MINIMUMS = 0, dict.fromkeys(CURRENCIES, 1)
    yield made
    made.end()
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture
def makers(bank) -> list[UUID]:
    """Two whom Stripe pays."""
    owners = [uuid4(), uuid4()]
    for owner in owners:
        wallets.create(owner)
        wallets.create(owner, Wallet.Kind.CREATOR)
        payee, page = payees.onboard(stripe.from_settings(), owner, "de", f"{owner}@example.com", PAGES)
        Browser().open(page, agreed="yes")
        payees.ask(stripe.from_settings(), payee)
        assert payee.status == "active"
    return owners


def transfers(bank) -> list:
    return list(bank.v1.transfers.list({"limit": 100}).auto_paging_iter())


def trouble(bank, rng: random.Random) -> None:
    """Stripe ails from now on, takes something back, and does not pay one of the makers for a while."""
    bank.control("faults", "DELETE")
    for each in rng.sample(found := transfers(bank), min(2, len(found))):
        if left := each.amount - each.amount_reversed:
            bank.v1.transfers.reversals.create(each.id, {"amount": rng.randint(1, left)})
    for kind, match in [(rng.choice(LOST), ASKED), (rng.choice(LOST), ASKED), *rng.sample(OTHERS, 2)]:
        bank.control("faults", kind=kind, match=match, count=rng.randint(2, 4), seconds=0.2)
    payee = rng.choice(list(Payee.objects.all()))
    bank.control(f"accounts/{payee.account_id}", recipient=rng.choice(["restricted", "active", "active"]))


def tell(bank, rng: random.Random) -> None:
    """The last webhooks that have arrived are acted on, in any order, and once more."""
    arrived = [event for event, _, _ in bank.receiver.arrived][-20:]
    for event in rng.sample(arrived, len(arrived)) * 2:
        events.apply(event)


def come_to_rest(bank) -> None:
    bank.control("faults", "DELETE")
    for payee in Payee.objects.all():
        bank.control(f"accounts/{payee.account_id}", recipient="active")
        payees.ask(stripe.from_settings(), payee)
    Payout.objects.filter(status="ordered").update(due_at="2026-01-01T00:00:00Z")
    while payouts.carry_out(stripe.from_settings()):
        pass
    assert reconcile.run(stripe.from_settings())[1] == 0
    lots.catch_up()
    takebacks.recover()


def check(bank, makers: list[UUID]) -> None:
    """Every payout is at Stripe once or came back, and makers have their shares, in their hands or at Stripe."""
    assert proof.check() == []
    at_stripe = {each.id: each for each in transfers(bank)}
    assert {
        (each.transfer_id, str(each.id), each.account_id, each.purse.currency, each.money_minor, each.back_minor)
        for each in Payout.objects.exclude(status="failed").select_related("purse")
    } == {
        (each.id, each.metadata["payout"], each.destination, each.currency, each.amount, each.amount_reversed)
        for each in at_stripe.values()
    }
    assert len({each.metadata["payout"] for each in at_stripe.values()}) == len(at_stripe)
    of_account = dict(Payee.objects.values_list("account_id", "owner"))
    has: Counter[UUID] = Counter()
    worth: Counter[str] = Counter()
    for each in at_stripe.values():
        has[of_account[each.destination]] += each.amount - each.amount_reversed
        worth[each.currency] += each.amount - each.amount_reversed
    for maker in makers:
        for purse in earnings.purses(earnings.maker_of(maker)):
            has[maker] += purse.money_minor
            worth[purse.currency] += purse.money_minor
            assert purse.amount == purse.money_minor
        got = Transfer.objects.filter(target__owner=maker, kind="capture").count()
        gave = Transfer.objects.filter(source__owner=maker, kind="refund").count()
        assert has[maker] == SHARE * (got - gave)
    spent = Lot.objects.filter(remaining=0)
    assert worth == {each: SHARE * spent.filter(currency=each).count() for each in CURRENCIES}


@pytest.mark.timeout(1200)
@pytest.mark.deep
def test_payouts_whose_processes_are_killed_are_at_stripe_once(bank, makers, full):
    rng = random.Random(16)
    buyer = uuid4()
    wallets.create(buyer)
    earning, paying, beside = Killed(EARN, buyer, *makers), Killed(PAY, buyer, *makers), Killed(PAY, buyer, *makers)
    kills = 0
    with at_work(earning, paying, beside):
        for child in (earning, paying, beside):
            child.work(1)
        for _ in range(100 if full else 6):
            trouble(bank, rng)
            for child in rng.sample([earning, paying, beside], 2):
                time.sleep(rng.random() / 4)
                child.kill()
                kills += 1
            earning.work(4)
            rng.choice([paying, beside]).work(1)
            tell(bank, rng)
    come_to_rest(bank)
    check(bank, makers)
    assert not Payout.objects.filter(status="ordered").exists()
    assert Payout.objects.filter(tries__gt=1).count() >= kills / 4
    assert Payout.objects.filter(back__gt=0).exists()
