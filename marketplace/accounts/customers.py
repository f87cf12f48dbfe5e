"""Customers: a person, the account they own, and the account's wallet, created together or not at all."""

from __future__ import annotations

from django.db import transaction

from billing.tokens import wallets
from marketplace.accounts.models import Account, Person


@transaction.atomic
def create(email: str, name: str = "") -> Account:
    """Return the account that this e-mail address owns, and create it if there is none yet."""
    email = email.strip().lower()
    person = Person.objects.filter(email=email).first() or Person.objects.create_user(email)
    account = person.accounts.order_by("created_at").first()
    if account is None:
        account = Account.objects.create(owner=person, name=name or email)
    wallets.create(account.id)
    return account
