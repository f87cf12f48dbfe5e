"""Accounts that are closed for good: whoever owned one is forgotten, and its books stay.

`close` ends everything that acts for the account, and its adapters for others, in one transaction. What takes longer,
or others must answer for, is done by `erase`, right after that and again by a periodic task, until all of it is done:
jobs that still run, what storages have, Stripe, and the person, whose name the invoices of the running month still
need.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.db import transaction
from django.db.models.functions import Now

from billing.models import Notice, Payout
from billing.payments import leaving as payments
from billing.payments import stripe
from billing.tokens import earned, spending, wallets
from billing.tokens.earnings import Standing
from lora import leaving as market
from marketplace import keeping
from marketplace.accounts.models import Account, ApiKey, Identity, Origin, Person
from marketplace.adapters import uploads as adapter_files
from marketplace.files import uploads
from marketplace.jobs import forgetting, lifecycle, reuse
from marketplace.jobs.models import FINAL, Job
from marketplace.trainings import lifecycle as trainings
from marketplace.trainings import pictures
from marketplace.trainings.models import Training
from marketplace.webhooks.models import Delivery, Endpoint, Preferences

CLOSED = "closed account"
# What Django takes for no password at all begins so.
NO_PASSWORD = "!"
# By then no request is answered any more that was let in before.
SETTLED = timedelta(minutes=10)
# Jobs that are forgotten in one turn, before others have theirs.
MOST_JOBS = 500

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class SomethingLeft(Exception):
    """What an account still has, which would be forfeited: milli-Tokens, held ones included, and earnings.

    Money on its way to the maker (`payouts`) would still arrive; what of it came back would be forfeited.
    """

    tokens: int
    purses: list[Standing]
    payouts: list[Payout]

    def __bool__(self) -> bool:
        return bool(self.tokens or self.purses or self.payouts)

    @property
    def earned(self) -> int:
        """The milli-Tokens of the earnings."""
        return sum(each.amount for each in self.purses)

    @property
    def worth(self) -> dict[str, int]:
        """What the earnings are worth, by currency."""
        return {each.currency: each.money_minor for each in self.purses if each.currency}


class Unfinished(Exception):
    """Something is still under way that must end first."""


@transaction.atomic
def close(account_id: UUID, *, forfeit: bool = False) -> SomethingLeft:
    """Close an account; return what is forfeited. Closing it again changes nothing.

    Raises SomethingLeft if there is anything, unless it may be forfeited.
    """
    spending.lock(account_id)
    account = Account.objects.select_for_update().get(id=account_id)
    left = left_of(account_id)
    if account.closed_at is None:
        if left and not forfeit:
            raise left
        Account.objects.filter(id=account_id).update(is_active=False, closed_at=Now(), to_erase=True)
        _end_access(account)
    return left


def left_of(account_id: UUID) -> SomethingLeft:
    """Return what an account would lose by being closed. A maker's debts are not among it: they stay the platform's."""
    found = wallets.balance(account_id)
    purses = [each for each in earned.purses(account_id) if each.amount > 0]
    under_way = Payout.objects.filter(purse__maker__owner=account_id, status=Payout.Status.ORDERED)
    return SomethingLeft(found.available + found.held, purses, list(under_way.select_related("purse").order_by("id")))


def erase(account: Account) -> bool:
    """Do what is left to do for a closed account, outside of transactions; return whether that was all.

    It is done again for a while: a request that was under way when the account was closed may still leave something.
    """
    steps = (
        _end_access, _end_jobs, _end_trainings, _forget_jobs, _forget_trainings, _remove_files, _remove_adapters,
        _remove_latents, _leave_stripe, _tell_nothing, _forget_person,
    )  # fmt: skip
    done = [_done(account, step) for step in steps]
    if all(done):
        Account.objects.filter(id=account.id, closed_at__lt=Now() - SETTLED).update(to_erase=False)
    return all(done)


def keep() -> None:
    """Go on with the accounts that are closed and not erased yet."""
    for account in Account.objects.filter(to_erase=True).order_by("id"):
        erase(account)


def _done(account: Account, step: Callable[[Account], None]) -> bool:
    """Return whether a step is done; one that fails holds up no other."""
    try:
        step(account)
    except Unfinished:
        return False
    except Exception:
        logger.exception("closed account %s: %s", account.id, step.__name__)
        return False
    return True


def _end_access(account: Account) -> None:
    ApiKey.objects.filter(account=account, revoked_at=None).update(revoked_at=Now())
    for table in (Identity, Origin, Endpoint, Preferences):
        table._default_manager.filter(account=account).delete()
    market.leave(account.id)
    payments.end_payouts(account.id)


def _end_jobs(account: Account) -> None:
    running = Job.objects.filter(account=account).exclude(status__in=FINAL)
    for job_id in running.values_list("id", flat=True):
        lifecycle.cancel(account.id, job_id)
    if running.exists():
        raise Unfinished


def _end_trainings(account: Account) -> None:
    running = Training.objects.filter(account=account).exclude(status__in=FINAL)
    for training_id in running.values_list("id", flat=True):
        trainings.cancel(account.id, training_id)
    if running.exists():
        raise Unfinished


def _forget_trainings(account: Account) -> None:
    """Forget how the account's adapters were made."""
    for training in Training.objects.filter(account=account, status__in=FINAL).exclude(order={}):
        pictures.forget(training)


def _forget_jobs(account: Account) -> None:
    known = Job.objects.filter(account=account, forgotten_at=None)
    for job_id in list(known.filter(status__in=FINAL).order_by("id").values_list("id", flat=True)[:MOST_JOBS]):
        forgetting.erase(forgetting.forget(account.id, job_id))
    if known.exists():
        raise Unfinished


def _remove_files(account: Account) -> None:
    if keeping.in_use(account.id):
        raise Unfinished
    uploads.delete_all(account.id)


def _remove_adapters(account: Account) -> None:
    if adapter_files.has_files(account.id):  # jobs of others may still be drawn with them
        raise Unfinished


def _remove_latents(account: Account) -> None:
    reuse.forget_latents(account.id)


def _leave_stripe(account: Account) -> None:
    """End what can still be paid, and delete the customer at Stripe. Without Stripe there must be neither."""
    if settings.STRIPE_SECRET_KEY:
        has_left = payments.leave(stripe.from_settings(), account.id)
    else:
        has_left = payments.has_left(account.id)
    if not has_left:
        raise Unfinished


def _tell_nothing(account: Account) -> None:
    Delivery.objects.filter(account=account).delete()
    Notice.objects.filter(owner=account.id).delete()


@transaction.atomic
def _forget_person(account: Account) -> None:
    """Remove the person, once every month with a payment is closed. Documents keep the name that they were given.

    A person who owns other accounts, or is an operator, stays; the account alone loses its name.
    """
    if not payments.is_invoiced(account.id):
        raise Unfinished
    payments.forget_person(account.id)
    Account.objects.filter(id=account.id).update(name=CLOSED)
    ApiKey.objects.filter(account=account).update(name=CLOSED)
    about, owner = [str(account.id)], account.owner
    if not owner.is_staff and not owner.accounts.filter(closed_at=None).exists():
        nobody = f"closed-{account.id}@closed.invalid"
        Person.objects.filter(pk=owner.pk).update(email=nobody, name="", is_active=False, password=NO_PASSWORD)
        about.append(str(owner.pk))
    LogEntry.objects.filter(content_type__app_label="accounts", object_id__in=about).update(object_repr=CLOSED)
