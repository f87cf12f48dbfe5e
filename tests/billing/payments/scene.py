"""The scene of a story: one customer's books in PostgreSQL, a Stripe of their own, clocks, and events under way."""

import itertools
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from billing import errors, models
from billing.payments import checkout, events, invoices, refund_orders, refunds
from billing.payments.stripe import Stripe
from billing.prices import packs
from billing.tokens import wallets
from tests.billing.payments import clocks
from tests.billing.payments.accountant import BONUS, TOKEN, Accountant, Debt, Line, Month, Order, Paper, Shown
from tests.billing.payments.double import Double

PRICES = {"coin": 100, "note": 300}
# In the smallest unit: a hundred of the last are a hundred whole ones.
CURRENCIES = ("eur", "usd", "jpy")
MONTH = timedelta(days=2)

# What the customer's and the operator's pages show, read at once, since it is read after every step. Lots are as of
# their cursor, and where something is owed Kiln has just moved that.
SHOWN = """
SELECT (SELECT coalesce(sum(remaining), 0)::bigint FROM billing_lot WHERE kind = 'paid'),
       frozen,
       (SELECT coalesce(json_object_agg(id, json_build_array(status, price_minor, currency, automatic, payment_intent,
                                                             refunded_minor)), '{}') FROM billing_topup),
       (SELECT coalesce(json_agg(json_build_array(debt.amount - collected, remaining)), '[]')
        FROM billing_clawback AS debt JOIN billing_lot AS lot ON lot.id = lot_id WHERE settled_at IS NULL),
       (SELECT coalesce(sum(amount), 0)::bigint FROM billing_transfer WHERE kind = 'expiry')
FROM billing_wallet WHERE owner = %s
"""


class Scene:
    """What the rules of a story are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.story = transaction.atomic()
        self.story.__enter__()
        self.double = Double()
        self.stripe = Stripe(self.double.client)
        self.accountant = Accountant()
        self.ids = (UUID(int=number) for number in itertools.count(1_000))
        self.owner = next(self.ids)
        self.ahead = self.blind = timedelta(0)
        self.skew = timedelta(0)
        self.is_open = True
        self.numbers = itertools.count(1)
        self.waiting: list[tuple[int, Any]] = []
        self.told: list[tuple[int, Any]] = []
        self.pages: list[str] = []
        self.jobs: dict[UUID, int] = {}
        """Open holds."""
        self.charged: dict[UUID, int] = {}
        wallets.create(self.owner)
        for name, price in PRICES.items():
            self.publish_pack(name, price)

    def publish_pack(self, name: str, price: int) -> None:
        packs.publish(name, price * TOKEN, price * BONUS, dict.fromkeys(CURRENCIES, price))

    def pass_time(self, passes: timedelta) -> None:
        self.ahead, self.blind = self.ahead + passes, self.blind + passes
        clocks.move(self.ahead, self.ahead + self.skew)
        if passes:
            self.double.advance(passes.total_seconds())

    def now(self) -> datetime:
        return timezone.now()

    @property
    def right_moment(self) -> float:
        """The database's time."""
        return (datetime.now(UTC) + self.ahead).timestamp()

    @property
    def moment(self) -> float:
        found: float = self.now().timestamp()
        return found

    def order(self, pack: str, currency: str, saves: bool) -> checkout.Order:
        return checkout.Order(
            pack, currency, "https://kiln.example/a", "https://kiln.example/b", "alice@example.com",
            {"pack": pack, "currency": currency}, saves,
        )  # fmt: skip

    @contextmanager
    def in_trouble(self, trouble: tuple[str, str] | None) -> Iterator[None]:
        """Stripe ails in one place, once; that no answer came is the only thing that may be told."""
        if trouble:
            self.double.control("faults", kind=trouble[0], match=trouble[1])
        with suppress(errors.PaymentsUnavailable):
            yield
        self.double.heal()

    def after(self, post: bool) -> None:
        """What happened made events: they arrive now, or later."""
        self.pass_time(timedelta(seconds=2))
        news = list(zip(self.numbers, self.double.news(), strict=False))
        if not post:
            self.waiting += news
            return
        for each in news:
            self.deliver(each)

    def deliver(self, numbered: tuple[int, Any]) -> None:
        number, event = numbered
        if event["type"] not in events.HANDLERS:
            return
        events.apply(event)
        self.accountant.hears(event, number, self.right_moment)
        self.told.append(numbered)
        refund_orders.carry_out(self.stripe)

    def send(self, asked: str, trouble: tuple[str, str] | None) -> None:
        with self.in_trouble(trouble):
            try:
                refunds.send(self.stripe, asked)
            except errors.PaymentsRefused:
                self.accountant.gives_up(asked, self.right_moment)

    def chosen(self, things: list[Any], which: int) -> Any:
        """The newest of them, or one before."""
        return things[-1 - which % len(things)]

    def at_stripe(self, kind: str, *statuses: str) -> list[Any]:
        return [each for each in self.double.every(kind) if each["status"] in statuses]

    def customers(self) -> list[Any]:
        return [each for each in self.double.every("customer") if not each.get("deleted")]

    def saved_cards(self) -> list[Any]:
        return [each for each in self.double.every("payment_method") if each["customer"]]

    def shown(self) -> Shown:
        now = wallets.balance(self.owner)
        with connection.cursor() as cursor:
            cursor.execute(SHOWN, [self.owner])
            paid, frozen, top_ups, owed, expired = cursor.fetchone()
        orders = {key: Order(*terms) for key, terms in top_ups.items()}
        return Shown(
            now.total, now.held, now.available, paid, frozen, [Debt(*debt) for debt in owed], orders, expired
        )  # fmt: skip

    def customers_of(self, owners: Collection[UUID]) -> dict[UUID, invoices.Customer]:
        alice = invoices.Customer("Alice", "alice@example.com", "UTC", lambda first: first + MONTH)
        return dict.fromkeys(owners, alice)

    def closed_months(self) -> list[Month]:
        found = models.Month.objects.order_by("first").prefetch_related("invoices")
        return [
            Month(month.first.timestamp(), month.end.timestamp(), [_paper(each) for each in
                  sorted(month.invoices.all(), key=lambda each: (each.kind != "invoice", each.number))])
            for month in found
        ]  # fmt: skip


def _paper(document: models.Invoice) -> Paper:
    lines = [Line(each["top_up"], each["amount_minor"], each.get("invoice", "")) for each in document.lines]
    return Paper(document.kind, document.name, document.currency, document.total_minor, lines)


def must_be_none(wrong: list[str]) -> None:
    assert not wrong, "\n".join(wrong)
