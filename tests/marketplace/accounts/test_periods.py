"""Days and months of an account's time zone: right over changes of the clocks, and never begun anew by a new zone."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from billing.tokens import lots, wallets
from marketplace.accounts import caps, keys, periods
from marketplace.accounts.models import Account
from marketplace.audit.models import Record
from marketplace.jobs import lifecycle
from marketplace.jobs.models import Job
from tests.marketplace.people import Customer

ORDER = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 20}
UNIT = 1250
HOUR = timedelta(hours=1)


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "moment", "first", "end"),
    [
        ("UTC", "2026-11-28T12:00", "2026-11-28T00:00", "2026-11-29T00:00"),
        ("Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),  # 23 hours
        ("Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),  # 25 hours
        ("Asia/Kathmandu", "2026-11-28T18:14", "2026-11-27T18:15", "2026-11-28T18:15"),
        ("Pacific/Kiritimati", "2026-11-28T12:00", "2026-11-28T10:00", "2026-11-29T10:00"),
        ("Africa/Cairo", "2026-04-23T22:30", "2026-04-23T22:00", "2026-04-24T21:00"),  # has no midnight
        ("America/Havana", "2026-11-01T04:30", "2026-11-01T04:00", "2026-11-02T05:00"),  # has two
    ],
)
def test_a_day_begins_and_ends_at_its_midnights(zone, moment, first, end):
    assert periods.day(Account(time_zone=zone), at(moment)) == periods.Period(at(first), at(end))


@pytest.mark.parametrize(
    ("zone", "moment", "first", "end"),
    [
        ("UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("America/New_York", "2026-11-01T03:59", "2026-10-01T04:00", "2026-11-01T04:00"),
        ("America/New_York", "2026-11-01T04:00", "2026-11-01T04:00", "2026-12-01T05:00"),
        ("Pacific/Kiritimati", "2026-12-31T11:00", "2026-12-31T10:00", "2027-01-31T10:00"),
    ],
)
def test_a_month_begins_and_ends_at_its_midnights(zone, moment, first, end):
    account = Account(time_zone=zone)
    assert periods.month(account, at(moment)) == periods.Period(at(first), at(end))
    assert periods.end_of_month(account, at(first)) == at(end)


@given(
    st.lists(st.tuples(st.sampled_from(periods.zones()), st.integers(0, 900)), max_size=5),
    st.datetimes(datetime(2024, 1, 1), datetime(2029, 1, 1), timezones=st.just(UTC)),
)
def test_whatever_zones_follow_each_other_no_day_and_no_month_begins_before_its_time(changes, moment):
    account = Account()
    shortest = {"day": 22 * HOUR, "month": timedelta(days=26)}  # Antarctica/Troll changes by two hours
    found: dict[str, list[periods.Period]] = {"day": [], "month": []}
    for zone, hours in [*changes, ("UTC", 1500)]:
        for step in range(0, hours + 1, 6):
            moment += 6 * HOUR if step else 0 * HOUR
            for name, of in (("day", periods.day), ("month", periods.month)):
                period = of(account, moment)
                assert period.first <= moment < period.end
                if not found[name] or found[name][-1].first != period.first:
                    found[name].append(period)
                found[name][-1] = period
        periods._move(account, zone, moment)
    for name, several in found.items():
        for period, following in pairwise(several):
            assert period.end == following.first
            assert following.end - following.first >= shortest[name]


@pytest.mark.parametrize("moment", ["2026-11-28T12:00", "2026-12-31T23:59", "2026-03-29T00:30", "2026-10-25T00:30"])
def test_a_day_is_no_longer_after_many_changes_than_after_the_last_of_them(moment):
    for last in ("Europe/Berlin", "Pacific/Kiritimati", "America/Havana", "Asia/Kathmandu"):
        once, often = Account(time_zone="Europe/Berlin"), Account(time_zone="Europe/Berlin")
        before = periods.day(once, at(moment))
        periods._move(once, last, at(moment))
        for zone in ["Pacific/Kiritimati", "Etc/GMT+12", "UTC", "Asia/Kathmandu"] * 5 + [last]:
            periods._move(often, zone, at(moment))
            assert before.end <= periods.day(often, at(moment)).end < before.end + 25 * HOUR
        assert periods.day(often, at(moment)) == periods.day(once, at(moment))
        assert last != "Europe/Berlin" or periods.day(often, at(moment)) == before


@pytest.mark.django_db
def test_caps_count_by_the_accounts_day_and_change_at_its_midnight(alice, picture):
    row, text = keys.issue(alice.account.id, "capped", daily_cap=UNIT)
    key = Customer(alice.account, text, row.id)
    Account.objects.filter(id=alice.account.id).update(time_zone="Asia/Kathmandu")
    account = Account.objects.get(id=alice.account.id)
    today = periods.day(account, timezone.now())
    for moment, left in ((today.first - timedelta(seconds=1), UNIT), (today.first, 0)):
        charge(key, picture, moment)
        for _ in range(2):  # read from the transfers, then from what was kept
            budget = caps.budgets(alice.account.id, key.key_id)[0]
            assert (budget.left, budget.resets_at) == (left, today.end)
            lots.position(alice.account.id)
        assert key.post("/v1/jobs", ORDER).status_code == (202 if left else 402)
        if waiting := Job.objects.filter(status="queued").first():
            key.post(f"/v1/jobs/{waiting.id}/cancel")


def charge(key, picture, moment):
    """Charges a job at a moment."""
    job = key.post("/v1/jobs", ORDER).json()["id"]
    claimed = lifecycle.claim(job, "w1")
    lifecycle.complete(claimed, [picture(claimed)], {})
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE billing_hold SET resolved_at = %s WHERE reference = %s", [moment, job])
        cursor.execute("SET LOCAL session_replication_role = origin")


@pytest.mark.django_db
def test_a_new_zone_does_not_let_a_cap_be_passed_twice(alice):
    row, text = keys.issue(alice.account.id, "capped", daily_cap=UNIT, monthly_cap=UNIT)
    key = Customer(alice.account, text, row.id)
    assert key.post("/v1/jobs", ORDER).status_code == 202
    first = [budget.resets_at for budget in caps.budgets(alice.account.id, key.key_id)]
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Tokyo", "UTC"):
        assert alice.patch("/v1/account", {"time_zone": zone}).json()["time_zone"] == zone
        assert key.post("/v1/jobs", ORDER).status_code == 402
        resets = [budget.resets_at for budget in caps.budgets(alice.account.id, key.key_id)]
        assert all(new >= old for new, old in zip(resets, first, strict=True))
    assert resets[0] == first[0], "to and fro, the day ends when it would have"
    assert wallets.balance(alice.account.id).held == UNIT


@pytest.mark.django_db
@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "utc ", "../etc/passwd", "Factory", 1, None, "x" * 65])
def test_a_zone_that_is_none_is_refused(alice, zone):
    answer = alice.patch("/v1/account", {"time_zone": zone})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "time_zone")
    assert alice.get("/v1/account").json()["time_zone"] == "UTC"


@pytest.mark.django_db(transaction=True)
def test_the_zone_is_the_accounts_own_and_its_change_is_in_the_audit(alice, bob):
    shown = alice.patch("/v1/account", {"time_zone": "Europe/Berlin"}).json()
    assert shown == alice.get("/v1/account").json()
    assert (shown["id"], shown["email"]) == (str(alice.account.id), "alice@example.com")
    assert bob.get("/v1/account").json()["time_zone"] == "UTC"
    record = Record.objects.get(act="account.changed")
    assert (record.actor, record.details["time_zone"]) == (f"account {alice.account.id}", "Europe/Berlin")
    row, text = keys.issue(alice.account.id, "capped", monthly_cap=UNIT)
    refused = Customer(alice.account, text, row.id).patch("/v1/account", {"time_zone": "UTC"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "capped_key")


@pytest.mark.django_db(transaction=True)
def test_the_csv_has_the_accounts_times(alice):
    alice.patch("/v1/account", {"time_zone": "Asia/Kathmandu"})
    _, line, *_ = b"".join(alice.get("/v1/transfers.csv").streaming_content).decode().splitlines()
    assert line.endswith("+05:45")
