"""The accountant of a story: says what the customer paid, was credited, owes and may spend, by arithmetic of its own.

It knows what Stripe charged and sent back, which of that Kiln has been told, and what the customer was granted and
spent; it imports nothing of billing. One minor unit buys `TOKEN` milli-Tokens and a tenth of that as a bonus, and money
goes back in tens, so nothing is ever rounded here: rounding has tests of its own.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Document = dict[str, Any]

TOKEN = 1_000
BONUS = TOKEN // 10
DAY = 24 * 3600
# How far the clocks of a story are apart, and what whole seconds leave open.
BLUR = 20
PAID = {"paid", "partially_refunded", "refunded", "disputed"}
WRITTEN_OFF = {"failed", "expired"}
REFUND_VOID = {"failed", "canceled"}
DISPUTE_VOID = {"won", "prevented", "warning_needs_response", "warning_under_review", "warning_closed"}


class Order(NamedTuple):
    """A top-up as Kiln shows it."""

    status: str
    price: int
    currency: str
    automatic: bool
    payment: str
    refunded: int


class Debt(NamedTuple):
    """An open debt as Kiln shows it, with what is left in the lot that it is demanded of."""

    owed: int
    left: int


@dataclass(frozen=True)
class Shown:
    """What Kiln shows the customer: milli-Tokens, `paid` ones among them, and money in minor units."""

    balance: int
    held: int
    available: int
    paid: int
    frozen: bool
    debts: list[Debt]
    top_ups: dict[str, Order]
    expired: int


class Payment(NamedTuple):
    """A payment that Kiln was told of."""

    top_up: str
    amount: int
    currency: str


class Line(NamedTuple):
    """A line of a document; a credit note's names the `invoice` of the payment."""

    top_up: str
    amount: int
    invoice: str


class Paper(NamedTuple):
    """An invoice or a credit note as Kiln shows it."""

    kind: str
    name: str
    currency: str
    total: int
    lines: list[Line]


class Month(NamedTuple):
    """A closed month as Kiln shows it."""

    first: float
    end: float
    papers: list[Paper]


class Entry(NamedTuple):
    """Money of a top-up's payment that came, or went if negative."""

    moment: float
    top_up: str
    currency: str
    amount: int


class Cap(NamedTuple):
    """What the customer allowed for automatic top-ups, from `since` on; nothing if `most` is 0."""

    since: float
    currency: str
    most: int


@dataclass
class Accountant:
    """The books of one customer."""

    payments: dict[str, Payment] = field(default_factory=dict)
    """What Kiln was told of, in the order in which it was told, by payment."""
    away: dict[str, tuple[str, int, bool]] = field(default_factory=dict)
    """By refund or dispute: of which payment, how much, and whether the money is away, as Kiln was last told."""
    asked: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Refunds that Kiln asked for, by its own id, until Stripe tells of them."""
    ours: dict[str, str] = field(default_factory=dict)
    """By Stripe's id of a refund: ours."""
    waived: Counter[str] = field(default_factory=Counter)
    """milli-Tokens by the refund or dispute that they were owed for."""
    caps: list[Cap] = field(default_factory=list)
    granted: int = 0
    spent: int = 0
    entries: list[Entry] = field(default_factory=list)
    """Of the payments that top-ups were credited for, in order."""
    _newest: dict[str, int] = field(default_factory=dict)
    _entered: Counter[str] = field(default_factory=Counter)

    # --- what happens ---

    def hears(self, event: Document, number: int, moment: float = 0) -> None:
        """Note what an event says that Kiln has acted on now; `number` is its place among all events."""
        self._hears(event, number)
        self._enter(moment)

    def asks(self, reversal: str, payment: str, amount: int, moment: float) -> None:
        """Note that Kiln will ask Stripe to refund so much."""
        self.asked[reversal] = (payment, amount)
        self._enter(moment)

    def gives_up(self, reversal: str, moment: float) -> None:
        """Note that Stripe refused a refund, unless it has told of it."""
        self.asked.pop(reversal, None)
        self._enter(moment)

    def _enter(self, moment: float) -> None:
        for top_up, payment in self.credited().items():
            terms = self.payments[payment]
            if payment not in self._entered:
                self._entered[payment] = terms.amount
                self.entries.append(Entry(moment, top_up, terms.currency, terms.amount))
            if change := self.kept(payment) - self._entered[payment]:
                self._entered[payment] += change
                self.entries.append(Entry(moment, top_up, terms.currency, change))

    def _hears(self, event: Document, number: int) -> None:
        kind, of = event["type"], event["data"]["object"]
        if kind.startswith("checkout.session.") and of["payment_status"] == "paid" and of["payment_intent"]:
            self._paid(of["payment_intent"], Payment(of["client_reference_id"], of["amount_total"], of["currency"]))
        elif kind == "payment_intent.succeeded" and of["metadata"].get("automatic"):
            self._paid(of["id"], Payment(of["metadata"]["top_up"], of["amount_received"], of["currency"]))
        elif kind.startswith("refund."):
            self._went(of, number, of["status"] not in REFUND_VOID)
        elif kind.startswith("charge.dispute."):
            self._went(of, number, of["status"] not in DISPUTE_VOID)

    def _paid(self, payment: str, terms: Payment) -> None:
        self.payments.setdefault(payment, terms)

    def _went(self, of: Document, number: int, is_away: bool) -> None:
        """Note where a refund's or dispute's money is, unless something later is known."""
        if number < self._newest.get(of["id"], 0):
            return
        self._newest[of["id"]] = number
        self.away[of["id"]] = (of["payment_intent"], of["amount"], is_away)
        own = (of.get("metadata") or {}).get("reversal", "")
        if own in self.asked:
            del self.asked[own]
            self.ours[of["id"]] = own

    # --- what follows from it ---

    def credited(self) -> dict[str, str]:
        """The payment of each top-up that was paid: the first that Kiln heard of."""
        found: dict[str, str] = {}
        for payment, terms in self.payments.items():
            found.setdefault(terms.top_up, payment)
        return found

    def kept(self, payment: str) -> int:
        """What of a payment is still here, in minor units."""
        gone = sum(amount for of, amount, is_away in self.away.values() if of == payment and is_away)
        gone += sum(amount for of, amount in self.asked.values() if of == payment)
        return max(0, self.payments[payment].amount - gone)

    def worth(self, expired: int) -> int:
        """The milli-Tokens that the customer has, less those owed."""
        bought = sum(self.kept(payment) * (TOKEN + BONUS) for payment in self.credited().values())
        return bought + self.granted - self.spent - expired + sum(self._waived(each) for each in self.waived)

    def _waived(self, reversal: str) -> int:
        """What was waived of this refund or dispute; nothing once the money came back."""
        stands = reversal in self.asked or any(
            is_away for key, (_, _, is_away) in self.away.items() if reversal in (key, self.ours.get(key))
        )
        return self.waived[reversal] if stands else 0

    # --- what must be so ---

    def check(self, charges: list[Document], shown: Shown) -> list[str]:
        """Say, a line each, what Kiln shows that is not so; it must hold after every step."""
        owed = sum(debt.owed for debt in shown.debts)
        wrong = []
        if shown.balance - owed != (worth := self.worth(shown.expired)):
            wrong.append(f"the customer has {shown.balance} and owes {owed}, and it should come to {worth}")
        if not 0 <= shown.available <= shown.balance - shown.held:
            wrong.append(f"{shown.available} may be spent of {shown.balance}, of which {shown.held} are held")
        if shown.frozen != bool(shown.debts):
            wrong.append(f"frozen {shown.frozen}, and there are {len(shown.debts)} debts")
        for debt in shown.debts:
            if payable := min(shown.available, max(shown.paid, debt.left)):
                wrong.append(f"{debt.owed} are owed, and {payable} that can pay for it are free")
        return [*wrong, *self._orders(shown), *self._charges(charges, shown), *self._caps(charges, shown)]

    def _orders(self, shown: Shown) -> list[str]:
        """Check that top-ups are paid if Kiln was told so, once, and say what was sent back."""
        credited, wrong = self.credited(), []
        for key, order in shown.top_ups.items():
            paid = order.status in PAID
            if paid != (key in credited):
                told = "paid" if key in credited else "nothing"
                wrong.append(f"top-up {key} is {order.status}, and Kiln was told {told} of it")
            elif paid:
                terms = self.payments[credited[key]]
                if (order.price, order.currency, order.payment) != (terms.amount, terms.currency, credited[key]):
                    wrong.append(f"top-up {key} is {order}, and the payment {credited[key]} was {terms}")
                refunds = [amount for each, (of, amount, is_away) in self.away.items()
                           if of == credited[key] and is_away and each.startswith("re_")]  # fmt: skip
                refunds += [amount for of, amount in self.asked.values() if of == credited[key]]
                if order.refunded != min(sum(refunds), order.price):
                    wrong.append(f"top-up {key} shows {order.refunded} refunded, it is {refunds}")
        return wrong

    def _charges(self, charges: list[Document], shown: Shown) -> list[str]:
        """Check that no charge belongs to a top-up that Kiln has written off, or does not know."""
        wrong = []
        for charge in _succeeded(charges):
            order = shown.top_ups.get(charge["metadata"].get("top_up", ""))
            if order is None:
                wrong.append(f"{charge['amount']} were charged for a top-up that Kiln does not have")
            elif order.status in WRITTEN_OFF:
                wrong.append(f"{charge['amount']} were charged for a top-up that is {order.status}")
        return wrong

    def _caps(self, charges: list[Document], shown: Shown) -> list[str]:
        """Check that automatic top-ups took no more in any 24 hours than the customer allowed."""
        taken = [(charge["created"], charge["currency"], charge["amount"]) for charge in _succeeded(charges)
                 if shown.top_ups[charge["metadata"]["top_up"]].automatic]  # fmt: skip
        wrong = []
        for moment, currency, _ in taken:
            since = moment - DAY + BLUR
            lately = sum(amount for at, other, amount in taken if other == currency and since < at <= moment)
            if lately > (most := self._allowed(moment, currency)):
                wrong.append(f"{lately} {currency} were charged automatically in 24 hours, allowed were {most}")
        return wrong

    def _allowed(self, moment: float, currency: str) -> int:
        """The highest cap of the last two days: a payment may have begun a day before it was made."""
        spans = zip(self.caps, [*self.caps[1:], None], strict=True)
        return max((cap.most for cap, end in spans if cap.currency == currency and cap.since <= moment + BLUR
                    and (end is None or end.since > moment - 2 * DAY)), default=0)  # fmt: skip

    def read(self, months: list[Month]) -> list[str]:
        """Say what is wrong in the documents of the months that are closed."""
        wrong, issued = [], dict[str, str]()
        for kind, series in (("invoice", "INV"), ("credit_note", "CN")):
            names = [paper.name for month in months for paper in month.papers if paper.kind == kind]
            if names != [f"{series}-{number:06d}" for number in range(1, len(names) + 1)]:
                wrong.append(f"the numbers have gaps: {names}")
        for first, end, papers in months:
            said: Counter[tuple[str, str, str]] = Counter()
            for kind, name, currency, total, lines in papers:
                for top_up, amount, invoice in lines:
                    said[kind, currency, top_up] += amount
                    if invoice != ("" if kind == "invoice" else issued.get(top_up)):
                        wrong.append(f"{name} names {invoice} for {top_up}, which is on {issued.get(top_up)}")
                    issued.setdefault(top_up, name)
                if total != sum(line.amount for line in lines):
                    wrong.append(f"{name} says {total}, its lines say {lines}")
            if said != (expected := self._documents(first, end)):
                wrong.append(f"the documents say {dict(said)}, it should be {dict(expected)}")
        return wrong

    def _documents(self, first: float, end: float) -> Counter[tuple[str, str, str]]:
        """What the invoices and credit notes of a month must say, by currency and top-up."""
        found: Counter[tuple[str, str, str]] = Counter()
        for moment, top_up, currency, amount in self.entries:
            if first <= moment < end:
                found["invoice" if amount > 0 else "credit_note", currency, top_up] += abs(amount)
        return found

    def settle(self, stripe: dict[str, list[Document]], ordered: set[str]) -> list[str]:
        """Say what is not so once everything has been told and nothing is under way.

        `stripe` has Stripe's own charges, refunds and disputes; `ordered` are the payments that are to be refunded as
        soon as Stripe allows it.
        """
        charges, wrong = _succeeded(stripe["charge"]), []
        back = {each["id"]: (each["payment_intent"], each["amount"], each["status"] not in REFUND_VOID)
                for each in stripe["refund"]}  # fmt: skip
        back |= {each["id"]: (each["payment_intent"], each["amount"], each["status"] not in DISPUTE_VOID)
                 for each in stripe["dispute"]}  # fmt: skip
        if self.away != back or self.asked:
            wrong.append(f"Stripe sent back {back}, Kiln was told {self.away} and waits for {self.asked}")
        if missing := {charge["payment_intent"] for charge in charges} - self.payments.keys():
            wrong.append(f"Kiln was never told of {len(missing)} payments")
        once = set(self.credited().values())
        for payment in self.payments.keys() - once - ordered:
            if self.kept(payment):
                wrong.append(f"{payment} paid a top-up a second time, and {self.kept(payment)} are still here")
        return wrong


def _succeeded(charges: list[Document]) -> list[Document]:
    return [charge for charge in charges if charge["status"] == "succeeded"]
