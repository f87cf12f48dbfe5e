"""The acts that operators can ask for: each kind's arguments, its limit, and how it is carried out.

Amounts are milli-Tokens. An act consists of its arguments alone: it is immutable, and equal when read back from JSON.
Who may ask and approve is decided in `requests`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError
from django.db.models import QuerySet

from billing.amounts import LARGEST, MILLI, format_tokens, show_money, show_tokens
from billing.currencies import CURRENCIES, step
from billing.errors import RefundAboveUnspent
from billing.models import Clawback, Hold, Marketing, PriceListVersion, TopUp
from billing.payments import refunds, stripe
from billing.prices import packs, price_lists
from billing.prices.pricing import PriceList
from billing.tokens import debts, marketing, wallets
from lora import tiers
from lora.training_prices import Terms
from marketplace import closing
from marketplace.accounts.models import Account
from marketplace.approvals.act import Act, Impossible, Lines, Reference, TokensAct
from marketplace.jobs.models import Job, ServiceClass


@dataclass(frozen=True)
class Grant(TokensAct):
    account: str
    amount: int

    kind = "grant"
    title = "Grant Tokens"
    permission = "approvals.ask_grant"

    @property
    def limit(self) -> int:
        return settings.GRANT_LIMIT * MILLI

    def check(self) -> None:
        if not 0 < self.amount <= LARGEST or not Account.objects.filter(pk=self.account).exists():
            raise Impossible("A grant must give an existing account a positive amount of Tokens.")

    def carry_out(self, request: UUID) -> str:
        wallets.grant(UUID(self.account), self.amount, f"request {request}", memo="granted by the operator")
        return f"{show_tokens(self.amount)} granted"

    def lines(self) -> Lines:
        return [_account(Account.objects.filter(pk=self.account)), ("Amount", show_tokens(self.amount))]


@dataclass(frozen=True)
class JobRefund(TokensAct):
    job: str
    amount: int

    kind = "job_refund"
    title = "Refund a job"
    permission = "approvals.ask_refund"

    def check(self) -> None:
        hold = Hold.objects.filter(reference=self.job).first()
        left = hold.captured - hold.refunded if hold else 0
        if not 0 < self.amount <= left:
            raise Impossible(f"At most {show_tokens(left)} are left of what this job was charged.")

    def carry_out(self, request: UUID) -> str:
        wallets.refund(UUID(self.job), self.amount, f"request {request}", memo="refunded by the operator")
        return f"{show_tokens(self.amount)} refunded"

    def lines(self) -> Lines:
        account = _account(Account.objects.filter(job=UUID(self.job)))
        return [account, ("Job", Reference(Job, self.job, self.job)), ("Amount", show_tokens(self.amount))]


@dataclass(frozen=True)
class PaymentRefund(Act):
    top_up: str
    amount_minor: int
    currency: str

    kind = "payment_refund"
    title = "Refund a top-up"
    permission = "approvals.ask_refund"
    has_finish = True

    @property
    def size(self) -> int:
        return self.amount_minor

    @property
    def limit(self) -> int:
        return settings.REFUND_LIMITS.get(self.currency, 0)

    @property
    def counted_with(self) -> dict[str, Any]:
        return {"arguments__currency": self.currency}

    def check(self) -> None:
        top_up = TopUp.objects.get(pk=self.top_up, currency=self.currency)
        if not 0 < self.amount_minor <= (most := refunds.refundable(top_up)):
            raise self._too_much(most)
        if self.amount_minor % (unit := step(self.currency)):
            raise Impossible(f"Stripe refunds {self.currency.upper()} in steps of {show_money(unit, self.currency)}.")

    def carry_out(self, request: UUID) -> str:
        try:
            refunds.take(UUID(self.top_up), self.amount_minor, str(request))
        except RefundAboveUnspent as error:
            raise self._too_much(error.refundable_minor) from error
        return "the Tokens are taken, Stripe is to be asked for the refund"

    def finish(self, request: UUID) -> str:
        return f"refunded as {refunds.send(stripe.from_settings(), str(request))}"

    def lines(self) -> Lines:
        account = _account(Account.objects.filter(pk__in=TopUp.objects.filter(pk=self.top_up).values("owner")))
        amount = show_money(self.amount_minor, self.currency)
        return [account, ("Top-up", Reference(TopUp, self.top_up, self.top_up)), ("Amount", amount)]

    def _too_much(self, most: int) -> Impossible:
        had_cost = show_money(most, self.currency)
        return Impossible(f"The unspent Tokens of this top-up had cost {had_cost}; no more than that can be refunded.")


@dataclass(frozen=True)
class DebtWaiver(TokensAct):
    """A waiver of all that is still owed; `amount` is what was owed when it was asked for, which can only shrink."""

    debt: str
    amount: int

    kind = "debt_waiver"
    title = "Waive a debt"
    permission = "approvals.ask_refund"

    def check(self) -> None:
        debt = Clawback.objects.filter(pk=self.debt, settled_at=None).first()
        if debt is None or debt.owed != self.amount:
            raise Impossible("In the meantime this debt was settled, in whole or in part.")

    def carry_out(self, request: UUID) -> str:
        if not debts.waive(UUID(self.debt), f"request {request}"):
            raise Impossible("This debt is already settled.")
        return f"the debt of {show_tokens(self.amount)} is waived"

    def lines(self) -> Lines:
        owner = Clawback.objects.filter(pk=self.debt).values("lot__wallet__owner")
        account = _account(Account.objects.filter(pk__in=owner))
        return [account, ("Debt", Reference(Clawback, self.debt, self.debt)), ("Owed", show_tokens(self.amount))]


@dataclass(frozen=True)
class PriceListChange(Act):
    """A new price list, in the units of `pricing.PriceList`."""

    base_cost: int
    prompt_floor: int
    service_classes: dict[str, int]
    operations: dict[str, int]
    skipped_step: int

    kind = "price_list"
    title = "Publish a price list"
    permission = "approvals.ask_prices"

    def check(self) -> None:
        try:
            proposed = PriceList(version=1, **asdict(self))
        except (TypeError, ValueError, AttributeError) as error:
            raise Impossible(str(error)) from error
        current = price_lists.current()
        for name in ("service_classes", "operations"):
            if missing := set(getattr(current, name)) - set(getattr(proposed, name)):
                raise Impossible(f"{name} must include {', '.join(sorted(missing))}, currently on sale.")

    def carry_out(self, request: UUID) -> str:
        return f"version {price_lists.publish(**asdict(self)).version} is in force"

    def lines(self) -> Lines:
        return [
            ("Base cost", show_tokens(self.base_cost)),
            ("Prompt floor", f"{self.prompt_floor} characters"),
            ("Service classes", _factors(self.service_classes)),
            ("Operations", _factors(self.operations)),
            ("Skipped step", f"× {format_tokens(self.skipped_step)} of a step that was run"),
            ("In force now", Reference(PriceListVersion, now := price_lists.current().version, f"Version {now}")),
        ]


@dataclass(frozen=True)
class PackChange(Act):
    """A new version of a Token pack, which replaces the one on sale."""

    name: str
    tokens: int
    bonus: int
    prices: dict[str, int]

    kind = "pack"
    title = "Sell a Token pack"
    permission = "approvals.ask_prices"

    def check(self) -> None:
        try:
            packs.check_prices(self.prices)
        except ValueError as error:
            raise Impossible(str(error)) from error
        if not (0 < self.tokens <= LARGEST and 0 <= self.bonus <= LARGEST):
            raise Impossible("A pack must have a positive amount of Tokens, and its bonus must not be negative.")

    def carry_out(self, request: UUID) -> str:
        return f"{packs.publish(**asdict(self))} is on sale"

    def lines(self) -> Lines:
        prices = ", ".join(show_money(price, currency) for currency, price in self.prices.items())
        return [
            ("Pack", self.name),
            ("Tokens", show_tokens(self.tokens)),
            ("Bonus", show_tokens(self.bonus)),
            ("Prices", prices),
        ]


@dataclass(frozen=True)
class TierChange(Act):
    """A new version of a tier of trainings, in the units of `training_prices.Terms`, which replaces the one on sale."""

    name: str
    description: str
    terms: dict[str, Any]

    kind = "tier"
    title = "Sell a tier of trainings"
    permission = "approvals.ask_prices"

    def check(self) -> None:
        try:
            terms = Terms(**self.terms)
        except (TypeError, ValueError) as error:
            raise Impossible(str(error)) from error
        if terms.service_class not in ServiceClass.values:
            raise Impossible(f"service_class must be one of {', '.join(ServiceClass.values)}.")

    def carry_out(self, request: UUID) -> str:
        return f"{tiers.publish(self.name, self.description, Terms(**self.terms))} is on sale"

    def lines(self) -> Lines:
        others = {name: str(value) for name, value in self.terms.items() if name != "base_cost"}
        cost = show_tokens(self.terms["base_cost"])
        return [("Tier", self.name), ("Description", self.description), ("1,000 steps", cost), *others.items()]


@dataclass(frozen=True)
class MarketingFunding(Act):
    """Money for makers who were paid with granted Tokens, of which 1,000 are worth a price from then on.

    A negative amount takes out what was not used. It always takes a second person.
    """

    currency: str
    price_minor: int
    amount_minor: int

    kind = "marketing_funding"
    title = "Fund the marketing account"
    permission = "approvals.ask_funding"

    def check(self) -> None:
        if self.currency not in CURRENCIES or self.price_minor < 1 or not self.amount_minor:
            raise Impossible("A funding must have a currency, a price above 0, and an amount.")
        if not -LARGEST < self.amount_minor < LARGEST or self.price_minor > LARGEST:
            raise Impossible("This is more money than the books can hold.")
        if self.amount_minor + (left := self._left()) < 0:
            raise Impossible(f"No more than the {show_money(left, self.currency)} that are left can be taken out.")

    def carry_out(self, request: UUID) -> str:
        self.check()
        try:
            marketing.fund(self.currency, self.price_minor, self.amount_minor, f"request {request}")
        except IntegrityError as error:  # makers were paid with it meanwhile
            raise Impossible("Less than that is left in the meantime.") from error
        return f"{show_money(self._left(), self.currency)} are left in the marketing account"

    def lines(self) -> Lines:
        amount = show_money(abs(self.amount_minor), self.currency)
        return [
            ("Put in" if self.amount_minor > 0 else "Taken out", amount),
            ("1,000 granted Tokens are worth", show_money(self.price_minor, self.currency)),
            ("Left now", show_money(self._left(), self.currency)),
        ]

    def _left(self) -> int:
        account = Marketing.objects.filter(pk=self.currency).first()
        return account.left_minor if account else 0


@dataclass(frozen=True)
class AccountClosing(Act):
    """An account closed for good, for a customer who cannot do it; what Tokens are left are forfeited."""

    account: str

    kind = "account_closing"
    title = "Close an account"
    permission = "accounts.change_account"

    def check(self) -> None:
        if not Account.objects.filter(pk=self.account, closed_at=None).exists():
            raise Impossible("This account is closed already.")

    def carry_out(self, request: UUID) -> str:
        self.check()
        left = closing.close(UUID(self.account), forfeit=True)
        gone = ", ".join([show_tokens(left.tokens), *(f"earnings of {each}" for each in _earnings(left))])
        return f"closed, with {gone} forfeited; what it had is being removed"

    def lines(self) -> Lines:
        left = closing.left_of(UUID(self.account))
        lines: Lines = [_account(Account.objects.filter(pk=self.account))]
        lines.append(("Tokens that are forfeited", show_tokens(left.tokens)))
        lines += [("Earnings that are forfeited", each) for each in _earnings(left)]
        paid = [show_money(each.money_minor, each.purse.currency) for each in left.payouts]
        return lines + [("Payout that still arrives", each) for each in paid]


_ACTS: tuple[type[Act], ...] = (
    Grant,
    JobRefund,
    PaymentRefund,
    DebtWaiver,
    PriceListChange,
    PackChange,
    TierChange,
    MarketingFunding,
    AccountClosing,
)
KINDS: dict[str, type[Act]] = {act.kind: act for act in _ACTS}


def read(kind: str, arguments: dict[str, Any]) -> Act:
    return KINDS[kind](**arguments)


def _earnings(left: closing.SomethingLeft) -> list[str]:
    return [
        f"{show_tokens(each.amount)} worth {show_money(each.money_minor, each.currency)}"
        if each.currency
        else f"{show_tokens(each.amount)} without worth"
        for each in left.purses
    ]


def _account(found: QuerySet[Account]) -> tuple[str, Reference]:
    account = found.select_related("owner").get()
    return ("Account", Reference(Account, account.pk, account.owner.email))


def _factors(thousandths: dict[str, int]) -> str:
    return ", ".join(f"{name} × {format_tokens(factor)}" for name, factor in thousandths.items())
