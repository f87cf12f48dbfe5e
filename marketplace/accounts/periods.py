"""The days and months of an account, in its own time zone: what spend caps and invoices count by.

They follow each other without gap or overlap, also where the zone changes: then the running day and month end where the
new zone's do, but never earlier than they would have, so that no cap begins anew before its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from django.db import transaction
from django.db.models.functions import Now

from billing.tokens import spending
from marketplace.accounts.models import Account

# A month goes on to the new zone's end of it if that is so near; else it ends as before. Zones are 26 hours apart.
NEAR = timedelta(days=2)


@dataclass(frozen=True)
class Period:
    """From `first` until just before `end`."""

    first: datetime
    end: datetime


@cache
def zones() -> list[str]:
    """Return the names of all time zones (IANA)."""
    return sorted(available_timezones() - {"Factory", "localtime"})


def day(account: Account, moment: datetime) -> Period:
    """Return the account's day at a moment, which must not be before its last change of zone."""
    first = _midnight(account.time_zone, moment)
    end = _midnight(account.time_zone, moment, days=1)
    until = account.day_until and _midnight_after(account.time_zone, account.day_until)
    return _running(account.day_from, until, moment, Period(first, end))


def month(account: Account, moment: datetime) -> Period:
    """Return the account's month at a moment, which must not be before its last change of zone."""
    period = Period(_month(account.time_zone, moment), _month(account.time_zone, moment, later=1))
    return _running(account.month_from, account.month_until, moment, period)


def end_of_month(account: Account, first: datetime) -> datetime:
    """Return when the month ends that begins at `first`, also if it was over before the zone changed."""
    if account.month_from and first < account.month_from:
        return account.month_from
    return month(account, first).end


@transaction.atomic
def change_zone(account_id: UUID, zone: str) -> Account:
    """Change the account's time zone to one of `zones`. Raises Account.DoesNotExist."""
    spending.lock(account_id)
    account = Account.objects.annotate(moment=Now()).get(id=account_id)
    if zone != account.time_zone:
        _move(account, zone, account.moment)
        account.save(update_fields=["time_zone", "day_from", "day_until", "month_from", "month_until"])
    return account


def _move(account: Account, zone: str, moment: datetime) -> None:
    """Change the zone, from this moment on.

    What is kept of the day is when it is over without the change, so that changes to and fro do not make it longer.
    """
    today, this_month = day(account, moment), month(account, moment)
    over = account.day_until if account.day_until and today.first == account.day_from else today.end
    account.time_zone = zone
    account.day_from, account.day_until = today.first, max(over, moment)
    account.month_from, account.month_until = this_month.first, _month_after(zone, this_month.end)


def _running(first: datetime | None, until: datetime | None, moment: datetime, period: Period) -> Period:
    if first is None or until is None:
        return period
    return Period(first, until) if moment < until else Period(max(until, period.first), period.end)


def _midnight_after(zone: str, end: datetime) -> datetime:
    midnight = _midnight(zone, end)
    return midnight if midnight == end else _midnight(zone, end, days=1)


def _month_after(zone: str, end: datetime) -> datetime:
    following = _month(zone, end, later=1)
    return following if following - end < NEAR else end


def _midnight(zone: str, moment: datetime, days: int = 0) -> datetime:
    """Return when the moment's day began in the zone, or the day that is so much later."""
    local = moment.astimezone(ZoneInfo(zone)).date() + timedelta(days=days)
    return datetime(local.year, local.month, local.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def _month(zone: str, moment: datetime, later: int = 0) -> datetime:
    local = moment.astimezone(ZoneInfo(zone))
    years, month = divmod(local.month - 1 + later, 12)
    return datetime(local.year + years, month + 1, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
