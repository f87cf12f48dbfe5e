"""Spend caps of API keys and accounts, per day and per month, in milli-Tokens: what is set, spent and left.

`billing.tokens.spending` decides what counts as spent, `periods` when a day and a month of the account begin. A key may
spend what both its own caps and its account's leave. Customers set the caps of keys through the API; operators set
those of accounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models.functions import Now

from billing.errors import NoWallet, SpendCapReached
from billing.tokens import spending
from marketplace.accounts import periods
from marketplace.accounts.models import Account, ApiKey


@dataclass(frozen=True)
class Budget:
    """What was spent in a period, and its cap if there is one."""

    whose: str
    period: str
    spent: int
    cap: int | None
    resets_at: datetime

    @property
    def left(self) -> int | None:
        return None if self.cap is None else max(0, self.cap - self.spent)


def budgets(account_id: UUID, key_id: UUID | None, *, lock: bool = False) -> list[Budget]:
    """Return the key's budgets, if there is a key, then the account's; a day's before a month's. Raises NoWallet.

    With `lock` the result stays valid until the end of the transaction.
    """
    if lock:
        spending.lock(account_id)
    account = Account.objects.annotate(moment=Now()).filter(id=account_id).first()
    if account is None:
        raise NoWallet(account_id)
    today, this_month = periods.day(account, account.moment), periods.month(account, account.moment)
    spent = spending.spent(account_id, key_id, today.first, this_month.first)
    found = []
    for whose, row, day, month in (
        ("key", ApiKey.objects.filter(id=key_id).first() if key_id else None, spent.spender_day, spent.spender_month),
        ("account", account, spent.day, spent.month),
    ):
        if row is not None:
            found.append(Budget(whose, "day", day, row.daily_cap, today.end))
            found.append(Budget(whose, "month", month, row.monthly_cap, this_month.end))
    return found


def check(account_id: UUID, key_id: UUID | None, needed: int) -> None:
    """Check that the caps leave `needed` milli-Tokens. Raises SpendCapReached if one does not, or NoWallet.

    The result stays valid until the end of the transaction.
    """
    for budget in budgets(account_id, key_id, lock=True):
        if budget.cap is not None and budget.left is not None and needed > budget.left:
            raise SpendCapReached(budget.whose, budget.period, budget.cap, budget.left, needed, budget.resets_at)
