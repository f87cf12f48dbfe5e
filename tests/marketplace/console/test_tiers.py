"""Tiers in the console: made, changed and given by operators, felt at once, and in the audit."""

import pytest

from marketplace.accounts import tiers
from marketplace.accounts.models import Tier
from marketplace.audit.models import Record

pytestmark = pytest.mark.django_db(transaction=True)
LIMITS = {
    "requests_minute": 7, "key_requests_minute": 6, "requests_day": 50, "upload_mb_hour": 4, "queued_jobs": 3,
    "streams": 2, "files": 9, "files_mb": 8, "files_unfunded": 1,
}  # fmt: skip


def test_an_operator_makes_a_tier_and_gives_it_to_an_account(operator, alice):
    assert tiers.of(alice.account.id).requests_minute == 9000
    assert operator.post("/admin/accounts/tier/add/", {"name": "small", **LIMITS}).status_code == 302
    tier = Tier.objects.get(name="small")
    inline = {"keys-TOTAL_FORMS": 0, "keys-INITIAL_FORMS": 0}
    form = {"name": "Alice", "is_active": "on", "time_zone": "UTC", "tier": tier.pk, **inline}
    assert operator.post(f"/admin/accounts/account/{alice.account.id}/change/", form).status_code == 302
    assert vars(tiers.of(alice.account.id)) == LIMITS
    assert operator.post(
        f"/admin/accounts/tier/{tier.pk}/change/", {"name": "small", **LIMITS, "files": 10}
    ).status_code
    assert tiers.of(alice.account.id).files == 10
    told = Record.objects.filter(act__in=["tier.changed", "account.changed"]).order_by("seq")
    assert [record.act for record in told] == ["tier.changed", "account.changed", "tier.changed"]
    assert told[1].details["tier_id"] == tier.pk
    assert [record.details["files"] for record in told if record.act == "tier.changed"] == [9, 10]
    assert all(record.actor.startswith("person ") for record in told)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1000000001"])
def test_a_tier_lets_something_through(operator, value):
    answer = operator.post("/admin/accounts/tier/add/", {"name": "none", **LIMITS, "queued_jobs": value})
    assert answer.status_code == 200
    assert not Tier.objects.filter(name="none").exists()
