"""The accountant: compares Kiln's books with Stripe's, with the pictures, and with what customers were told."""

import hashlib
import io
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from bench.chaos import market_books
from bench.chaos.listener import Listener
from bench.chaos.memory import Customer, Memory
from bench.chaos.stripe_side import StripeSide

STANDS_STILL_SECONDS = 25.0
# A process that trains loads a model first.
TRAINING_STANDS_STILL_SECONDS = 120.0
DISPUTE_VOID = {"won", "prevented", "warning_needs_response", "warning_under_review", "warning_closed"}

_OF_JOBS = """
SELECT job.id::text, job.status, job.captured, coalesce(captures.number, 0), coalesce(captures.amount, 0)
FROM jobs_job AS job LEFT JOIN (
    SELECT reference, 1 + count(*) - count(DISTINCT target_id) AS number, sum(amount) AS amount
    FROM billing_transfer WHERE kind = 'capture' GROUP BY reference
) AS captures ON captures.reference = job.id
WHERE (job.status = 'succeeded' OR captures.number IS NOT NULL)
  AND (job.captured, CASE WHEN job.captured > 0 THEN 1 ELSE 0 END, job.captured)
      IS DISTINCT FROM (coalesce(captures.amount, 0), coalesce(captures.number, 0), coalesce(captures.amount, 0))
   OR job.status = 'succeeded' AND job.captured = 0
"""


@dataclass
class Accountant:
    """The one who checks the books: `look` at any time, `audit` once nobody buys and everything runs."""

    stripe: StripeSide
    memory: Memory
    accounts: list[Customer]
    listener: Listener | None = None
    repaired: Counter[str] = field(default_factory=Counter)
    """What reconciliation found at the audits, by the type of the lost event."""
    seen_pictures: set[Any] = field(default_factory=set)
    looks: int = 0
    figures: dict[str, Any] = field(default_factory=dict)

    def look(self) -> list[str]:
        """Return what `check_ledger` finds; nothing if the database is away."""
        from django.core.management import CommandError, call_command
        from django.db import OperationalError, connection

        try:
            call_command("check_ledger", stdout=io.StringIO())
            self.looks += 1
        except CommandError as error:
            return str(error).splitlines()
        except OperationalError:
            return []
        finally:
            connection.close()
        return []

    def audit(self) -> list[str]:
        """Wait until everything is idle, then compare; return a line for each difference."""
        return [
            *self._wait_until_idle(),
            *self.look(),
            *self._jobs(),
            *self._pictures(),
            *self._money(),
            *self._automatic(),
            *self._caps_of_keys(),
            *self._customers(),
            *self._webhooks(),
            *market_books.audit(self.stripe, self.memory, self.figures),
        ]

    def _wait_until_idle(self) -> list[str]:
        """Wait for jobs and trainings as long as they make progress, and run the periodic tasks."""
        from billing.models import Hold, TopUp
        from billing.tokens import debts, lots
        from marketplace.approvals import requests
        from marketplace.jobs.models import Job
        from marketplace.trainings.models import Training

        stuck = _wait_for(Job, STANDS_STILL_SECONDS) + _wait_for(Training, TRAINING_STANDS_STILL_SECONDS)
        for request in requests.Request.objects.filter(status=requests.Status.APPROVED):
            if requests.finish(request).status == requests.Status.APPROVED:
                stuck.append(f"{request} is not finished: {request.outcome}")
        stuck += market_books.settle()
        stuck += self._reconcile()
        lots.catch_up(), debts.collect(), lots.expire()
        if not stuck:
            held = Hold.objects.filter(status=Hold.Status.HELD).values_list("reference", flat=True)
            stuck += [f"hold {reference} is open and no job is" for reference in held]
        paid = {each["client_reference_id"] for each in self.stripe.every("checkout/sessions")
                if each["payment_status"] == "paid"}  # fmt: skip
        unpaid = TopUp.objects.filter(paid_at=None, id__in=paid)
        return stuck + [f"{top_up} is {top_up.status}, and Stripe has the money" for top_up in unpaid]

    def _reconcile(self) -> list[str]:
        """Repair what was lost until nothing changes any more, and count it.

        An event that Kiln had acknowledged must not be among it.
        """
        from billing.models import StripeEvent, TopUp
        from billing.payments import reconcile, stripe
        from marketplace.maintenance import tasks

        wrong: list[str] = []
        for _ in range(40):  # a repair may cause further events, and a wallet that is still low another payment
            before = list(TopUp.objects.order_by("id").values_list("id", "status", "payment_intent"))
            tasks.keep_payments()
            acknowledged = self.stripe.delivered()
            repaired, failed = reconcile.run(stripe.from_settings())
            for line in repaired:
                what, _, rest = line.partition(" ")
                self.repaired[what if "." in what else line.lstrip("0123456789 ")] += 1
                if rest.partition(":")[0] in acknowledged:
                    wrong.append(f"acknowledged and not acted on: {line}")
            after = list(TopUp.objects.order_by("id").values_list("id", "status", "payment_intent"))
            if not repaired and not failed and before == after:
                break
            time.sleep(1)
        else:
            wrong.append(f"{failed} of Stripe's events cannot be acted on, and {len(repaired)} are new each time")
        self.figures["repaired by reconciliation"] = dict(self.repaired)
        self.figures["events of Stripe's acted on"] = StripeEvent.objects.count()
        return wrong

    def _jobs(self) -> list[str]:
        """Check that each key has one job, each asked for by a client, and charged once, as its transfers say."""
        from django.db import connection

        from marketplace.jobs.models import Job

        known = dict(Job.objects.values_list("idempotency_key", "id"))
        wrong = [f"key {key} bought {job_id}, the books say {known.get(key)}"
                 for key, job_id in list(self.memory.jobs.items()) if str(known.get(key)) != job_id]  # fmt: skip
        wrong += [f"nobody asked for job {job_id}, key {key}"
                  for key, job_id in known.items() if key not in self.memory.asked]  # fmt: skip
        wrong += [f"key {key} was refused, and has job {job_id}"
                  for key, job_id in known.items() if key in self.memory.refused]  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute(_OF_JOBS)
            wrong += [f"job {row[0]}: {row[1]}, charged {row[2]} in {row[3]} captures of {row[4]}" for row in cursor]
        self.figures["jobs"] = dict(_counts(Job.objects.values_list("status", flat=True)))
        return wrong

    def _webhooks(self) -> list[str]:
        """Check that each job that ended was told of at least once, and as what it is. Nothing waits for its pause."""
        from django.db.models.functions import Now

        from marketplace.jobs.models import FINAL, Job
        from marketplace.webhooks.models import Delivery, Endpoint

        if self.listener is None:
            return []
        waiting, since = Delivery.objects.filter(status="waiting", channel="endpoint"), time.monotonic()
        while waiting.exists() and time.monotonic() - since < STANDS_STILL_SECONDS:
            waiting.filter(next_at__gt=Now()).update(next_at=Now())
            Endpoint.objects.update(paused_until=None)
            time.sleep(1)
        ended = {(str(job_id), f"job.{status}") for job_id, status in
                 Job.objects.filter(status__in=FINAL).values_list("id", "status")}  # fmt: skip
        told = set(self.listener.told)
        times = sum(self.listener.told.values())
        self.figures["webhooks"] = {"jobs told of": len(told), "times": times, "refused": self.listener.refused}
        wrong = [f"job {job_id} ended, and {kind} was not told" for job_id, kind in ended - told]
        return wrong + [f"job {job_id} was told to be {kind}" for job_id, kind in told - ended] + self.listener.wrong

    def _pictures(self) -> list[str]:
        """Check that every picture of a paid job can be read and matches its row."""
        from marketplace.jobs import storage
        from marketplace.jobs.models import Image, Job, Status

        wrong = []
        bare = Job.objects.filter(status=Status.SUCCEEDED, images=None, forgotten_at=None).values_list("id", flat=True)
        wrong += [f"job {job_id} succeeded without a picture" for job_id in bare]
        for image in Image.objects.exclude(id__in=self.seen_pictures):
            try:
                with storage.open_image(image) as file:
                    if hashlib.sha256(file.read()).hexdigest() != image.sha256:
                        wrong.append(f"picture {image.path} of job {image.job_id} is not what it was")
            except OSError as error:
                wrong.append(f"picture {image.path} of job {image.job_id}: {error}")
            self.seen_pictures.add(image.id)
        self.figures["pictures read"] = len(self.seen_pictures)
        return wrong

    def _money(self) -> list[str]:
        """Check that each charge, refund and dispute at Stripe is booked with the same amount, and nothing else is."""
        from billing.models import Reversal, TopUp

        back: dict[str, dict[str, tuple[int, bool]]] = defaultdict(dict)
        for refund in self.stripe.every("refunds"):
            stands = refund["status"] not in {"failed", "canceled"}
            back[refund["payment_intent"]][refund["id"]] = refund["amount"], stands
        for dispute in self.stripe.every("disputes"):
            stands = dispute["status"] not in DISPUTE_VOID
            back[dispute["payment_intent"]][dispute["id"]] = dispute["amount"], stands
        charges = {
            each["payment_intent"]: each for each in self.stripe.every("charges")
            if each["status"] == "succeeded" and "own" not in each["metadata"]  # the platform's, to pay makers from
        }  # fmt: skip
        top_ups = {each.payment_intent: each for each in TopUp.objects.exclude(paid_at=None)}
        wrong = [f"Stripe has no charge {intent} of {top_ups[intent]}" for intent in top_ups.keys() - charges.keys()]
        booked: dict[str, dict[str, tuple[int, bool, bool]]] = defaultdict(dict)
        for reversal in Reversal.objects.exclude(id__in=self._given_up()):
            terms = reversal.amount_minor, reversal.standing, reversal.applied
            booked[reversal.payment_intent][reversal.stripe_id or reversal.id] = terms
        for intent, charge in charges.items():
            if intent not in top_ups:
                wrong.append(f"charge {charge['id']} of {intent} was not booked")
                continue
            expected = {key: (amount, stands, stands) for key, (amount, stands) in back[intent].items()}
            if booked[intent] != expected:
                wrong.append(f"{top_ups[intent]}: Stripe took back {expected}, booked is {booked[intent]}")
            else:
                wrong += self._payment(top_ups[intent], charge, back[intent])
        wrong += [f"reversals of {intent}, which Stripe does not know" for intent in booked.keys() - charges.keys()]
        self._sum(charges, back, top_ups)
        return wrong

    def _given_up(self) -> Any:
        """Return the refunds that Kiln asked for and Stripe refused."""
        from billing.models import Reversal

        ours = Reversal.objects.exclude(id__startswith="re_").exclude(kind=Reversal.Kind.DISPUTE)
        return ours.filter(stripe_id="", standing=False, applied=False).values_list("id", flat=True)

    def _payment(self, top_up: Any, charge: Any, back: dict[str, tuple[int, bool]]) -> list[str]:
        from billing.models import Clawback, Lot, Reversal

        wrong = []
        lot = Lot.objects.filter(transfer__idempotency_key=f"purchase:{top_up.id}").first()
        said = lot and (lot.price_minor, lot.currency, lot.amount)
        if said != (charge["amount"], charge["currency"], top_up.pack.tokens) or not top_up.paid_at:
            wrong.append(f"{top_up}: charge {charge['amount']} {charge['currency']}, its lot is {said}")
        refunded = sum(amount for key, (amount, stands) in back.items() if stands and key.startswith("re_"))
        away = min(charge["amount"], sum(amount for amount, stands in back.values() if stands))
        if top_up.refunded_minor != min(refunded, charge["amount"]):
            wrong.append(f"{top_up}: {refunded} was refunded, it says {top_up.refunded_minor}")
        demanded = 0
        standing = set(Reversal.objects.filter(standing=True).values_list("id", flat=True))
        for debt in Clawback.objects.filter(lot__transfer__reference=top_up.id):
            if debt.idempotency_key.partition(":")[0] in standing:
                demanded += debt.money_minor
        if demanded != away:
            wrong.append(f"{top_up}: of {charge['amount']}, {away} is away ({back}) and {demanded} was demanded back")
        return wrong

    def _sum(self, charges: Any, back: Any, top_ups: Any) -> None:
        """Record, for the report, both sides' sums by currency, and what became of the Tokens demanded back.

        Those open, paid or waived were debts.
        """
        from billing.models import Clawback

        settled = Clawback.objects.values_list("settlement", flat=True)
        self.figures["claw-backs"] = dict(_counts(each or "open" for each in settled))
        for currency in sorted({charge["currency"] for charge in charges.values()}):
            of = [intent for intent, charge in charges.items() if charge["currency"] == currency]
            at_stripe = sum(charges[intent]["amount"] for intent in of)
            booked = sum(each.price_minor for each in top_ups.values() if each.currency == currency)
            away = sum(amount for intent in of for amount, stands in back[intent].values() if stands)
            self.figures[f"money, {currency}"] = {
                "payments": len(of), "charged at Stripe": f"{at_stripe / 100:.2f}", "booked": f"{booked / 100:.2f}",
                "refunds and disputes": sum(len(back[intent]) for intent in of), "away": f"{away / 100:.2f}",
            }  # fmt: skip

    def _automatic(self) -> list[str]:
        """Check that automatic top-ups took no more than the customer ever allowed; a run is shorter than a day."""
        from billing.models import TopUp

        ours = {str(each.id): each for each in TopUp.objects.filter(automatic=True)}
        taken: Counter[tuple[Any, str]] = Counter()
        for charge in self.stripe.every("charges"):
            if charge["status"] == "succeeded" and (top_up := ours.get(charge["metadata"].get("top_up", ""))):
                taken[top_up.owner, charge["currency"]] += charge["amount"]
        self.figures["automatic top-ups"] = dict(_counts(each.status for each in ours.values()))
        return [f"account {whose[0]}: {amount} {whose[1]} were charged automatically, allowed were {most}"
                for whose, amount in taken.items() if amount > (most := self.memory.caps[whose])]  # fmt: skip

    def _caps_of_keys(self) -> list[str]:
        """Check that no API key spent more than its cap: holds and charges less refunds, by day."""
        from django.db.models import F, Sum
        from django.db.models.functions import TruncDate

        from billing.models import Hold
        from marketplace.accounts.models import ApiKey

        wrong, capped = [], ApiKey.objects.exclude(daily_cap=None)
        for key in capped:
            spent = Hold.objects.filter(spender=key.id, status=Hold.Status.CAPTURED)
            for each in spent.values(day=TruncDate("resolved_at")).annotate(net=Sum(F("captured") - F("refunded"))):
                if each["net"] > (key.daily_cap or 0):
                    wrong.append(f"key {key.id} may spend {key.daily_cap} a day, and spent {each['net']}")
        self.figures["jobs of capped keys"] = Hold.objects.filter(spender__in=capped.values("id")).count()
        return wrong

    def _customers(self) -> list[str]:
        """Check that each customer's statement adds up to the balance, and so do the lots."""
        from django.db.models import Sum

        from billing.models import Transfer
        from billing.tokens import lots

        wrong = []
        for account, *_ in self.accounts:
            now = lots.position(account)
            into, out = (
                Transfer.objects.filter(**{f"{side}__owner": account, f"{side}__kind": "customer"}).aggregate(
                    sum=Sum("amount", default=0)
                )["sum"]
                for side in ("target", "source")
            )
            left = sum(lot.remaining for lot in now.lots)
            if not into - out == now.balance.total == left or now.balance.available < 0 or now.balance.held:
                wrong.append(f"account {account}: {into} − {out} came and went, {now.balance} and {left} in lots")
        return wrong


def _wait_for(model: Any, patience: float) -> list[str]:
    """Wait until every job or training has ended; return those that stand still for so many seconds."""
    from marketplace.jobs.models import FINAL

    left, since = None, time.monotonic()
    while waiting := set(model.objects.exclude(status__in=FINAL).values_list("id", "status", "step", "attempt")):
        if waiting != left:
            left, since = waiting, time.monotonic()
        elif time.monotonic() - since > patience:
            name = model.__name__.lower()
            return [f"{name} {row[0]} is stuck: {row[1]}, attempt {row[3]}" for row in waiting]
        time.sleep(0.2)
    return []


def _counts(values: Any) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for value in values:
        found[value] += 1
    return found
