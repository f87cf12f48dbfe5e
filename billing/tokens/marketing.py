"""The marketing account: what the operator pays makers for the Tokens that were granted, at a price for 1,000 Tokens.

Whether it pays for an earning is decided once, in the order in which the earnings were made, soon after the lots have
followed. Without funds, or without an account, such earnings are worth no money. Not for who may fund it.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import F

from billing.errors import IdempotencyMismatch
from billing.models import Earning, Funding, Marketing

CHUNK = 1_000
# A price is that of 1,000 Tokens, as a Token costs less than the smallest unit of most currencies.
PRICED = 1_000_000


@transaction.atomic
def fund(currency: str, price_minor: int, amount_minor: int, key: str) -> bool:
    """Put money into the account in this currency, once for the key, and have it pay this price from now on.

    It becomes the one that pays, so much for 1,000 Tokens. A negative amount takes out what was not used. Return False
    if the key did this before. Raises IdempotencyMismatch; IntegrityError if less than that is left.
    """
    Marketing.objects.get_or_create(
        currency=currency, defaults={"price_minor": price_minor, "is_open": not Marketing.objects.exists()}
    )
    list(Marketing.objects.select_for_update().order_by("currency"))
    if (standing := Funding.objects.filter(idempotency_key=key).first()) is not None:
        if (standing.account_id, standing.amount_minor) != (currency, amount_minor):
            raise IdempotencyMismatch(key)
        return False
    Marketing.objects.exclude(currency=currency).update(is_open=False)
    changed = {"price_minor": price_minor, "funded_minor": F("funded_minor") + amount_minor, "is_open": True}
    Marketing.objects.filter(currency=currency).update(**changed)
    Funding.objects.create(account_id=currency, amount_minor=amount_minor, idempotency_key=key)
    return True


def weigh() -> int:
    """Decide of every earning from granted Tokens whether the account pays for it; return how many there were."""
    done = 0
    while found := _weigh():
        done += found
    return done


@transaction.atomic
def _weigh() -> int:
    waiting = Earning.objects.select_for_update(skip_locked=True).filter(weighed=False).order_by("id")
    found = list(waiting[:CHUNK])
    account = Marketing.objects.select_for_update().filter(is_open=True).first() if found else None
    for earning in found:
        earning.weighed = True
        if account is not None:
            _pay(account, earning)
    Earning.objects.bulk_update(found, ["weighed", "currency", "money_minor", "back_minor", "owed_minor"])
    if account is not None:
        account.save(update_fields=["used_minor", "weighed"])
    return len(found)


def _pay(account: Marketing, earning: Earning) -> None:
    """Give an earning its worth, as far as the account's money goes; what was refunded already costs nothing."""
    until = account.weighed + earning.amount
    price, left = account.price_minor, account.left_minor
    most = left * earning.amount // max(1, earning.amount - earning.back)
    worth = min(price * until // PRICED - price * account.weighed // PRICED, most)
    if not left:
        return
    account.weighed = until
    earning.money_minor, earning.currency = worth, account.currency
    earning.back_minor = worth * earning.back // earning.amount
    kept, kept_minor = earning.amount - earning.back, worth - earning.back_minor
    earning.owed_minor = kept_minor * earning.owed // kept if kept else 0
    account.used_minor += kept_minor
