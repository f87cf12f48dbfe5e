"""Customers: a person, the account they own, and the account's wallet, created together or not at all."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from uuid import UUID

from django.contrib.auth.hashers import make_password
from django.db import transaction

from billing.payments import invoices
from billing.tokens import wallets
from marketplace import text
from marketplace.accounts import periods
from marketplace.accounts.models import Account, Person

MAX_NAME = 200


@transaction.atomic
def create(email: str, name: str = "") -> Account:
    """Return the account that this e-mail address owns, and create it if there is none yet.

    Raises ValueError if it is not an e-mail address.
    """
    email = text.email(email)
    Person.objects.bulk_create([Person(email=email, password=make_password(None))], ignore_conflicts=True)
    person = Person.objects.select_for_update().get(email=email)
    account = person.accounts.order_by("created_at").first()
    if account is None:
        account = Account.objects.create(owner=person, name=name or email[:MAX_NAME])
    wallets.create(account.id)
    return account


def invoiced(owners: Collection[UUID]) -> dict[UUID, invoices.Customer]:
    """Return these accounts as invoices name them, by id."""
    accounts = Account.objects.filter(id__in=owners).select_related("owner")
    return {account.id: as_invoiced(account) for account in accounts}


def as_invoiced(account: Account) -> invoices.Customer:
    ends = partial(periods.end_of_month, account)
    return invoices.Customer(account.name, account.owner.email, account.time_zone, ends)
