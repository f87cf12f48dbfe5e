"""The page of limits says what holds, and each maximum is held."""

import re
from pathlib import Path

import pytest

from marketplace.accounts import tiers
from marketplace.accounts.models import Account, ApiKey, Tier
from tests.marketplace.api.asking import ORDER, error
from tests.marketplace.files.test_uploads import encoded, send
from tests.marketplace.people import restrict

pytestmark = pytest.mark.django_db(transaction=True)
PAGE = (Path(__file__).parents[3] / "docs" / "limits.md").read_text()
ROWS = re.findall(r"^\| ([^|]+?) \| ([0-9,]+) \|([^|]*)\|$", PAGE, re.M)
MOST = {name: int(number.replace(",", "")) for name, number, _ in ROWS}
COLUMNS = {
    "burst": "requests_minute",
    "key": "key_requests_minute",
    "sustained": "requests_day",
    "uploads": "upload_mb_hour",
    "streams": "streams",
    "queue": "queued_jobs",
}


def most(name):
    (found,) = [number for row, number in MOST.items() if name in row]
    return found


def test_the_page_has_the_tiers_that_there_are():
    for name in ("standard", "large"):
        tier = Tier.objects.get(name=name)
        for policy, column in COLUMNS.items():
            numbers = re.search(rf"^\| `{policy}` \|[^|]+\| ([0-9,]+) \| ([0-9,]+) \|$", PAGE, re.M)
            found = numbers[1 if name == "standard" else 2]
            assert int(found.replace(",", "")) == getattr(tier, column), (name, policy)


def test_the_page_has_the_numbers_of_strangers(settings):
    for policy, number in (("address", settings.ADDRESS_REQUESTS_MINUTE), ("failures", settings.FAILURES_MINUTE)):
        assert re.search(rf"^\| `{policy}` \|[^|]+\| {number:,} \|  ?\|$", PAGE, re.M), policy


def test_what_is_kept_is_what_the_standard_tier_lets_keep(alice, settings):
    limits = tiers.of(alice.account.id)
    assert Account.objects.get(id=alice.account.id).tier.name == "standard"
    assert (most("files kept without"), most("MiB of files")) == (limits.files_unfunded, limits.files_mb)
    assert (MOST["files kept"], MOST["jobs in the queue"]) == (limits.files, limits.queued_jobs)
    assert (most("MiB of a file"), most("KiB of a body")) == (settings.FILE_MB, settings.MAX_BODY_BYTES // 1024)


def test_an_account_has_so_many_keys_that_work(alice):
    rows = [
        ApiKey(account=alice.account, name="more", prefix=f"k{number:011}", secret_hash=bytes(32))
        for number in range(most("API keys that work") - 2)
    ]
    ApiKey.objects.bulk_create(rows)
    last = alice.post("/v1/keys", {"name": "the last"})
    assert last.status_code == 201
    assert error(alice.post("/v1/keys", {"name": "one more"}), 409)["code"] == "too_many_keys"
    alice.delete(f"/v1/keys/{last.json()['id']}")
    assert alice.post("/v1/keys", {"name": "instead"}).status_code == 201


def labels(count):
    return {"metadata": {f"label {number}": "x" for number in range(count)}}


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("pictures of an order", lambda number: {"n": number}),
        ("characters of a prompt", lambda number: {"prompt": "x" * number}),
        ("steps", lambda number: {"steps": number}),
        ("labels in", labels),
    ],
)
def test_an_order_may_have_so_much(alice, name, terms):
    assert alice.post("/v1/quotes", {**ORDER, **terms(most(name) + 1)}).status_code == 422
    answer = alice.post("/v1/quotes", {**ORDER, **terms(most(name))})
    # the house model's card may allow fewer
    assert answer.status_code == 200 or "at most" in answer.json()["error"]["message"]


def test_labels_and_their_values_have_so_many_characters(alice):
    told = re.search(r"of ([0-9]+) characters, values of ([0-9]+)", PAGE)
    label, value = int(told[1]), int(told[2])
    assert alice.post("/v1/quotes", {**ORDER, "metadata": {"x" * label: "y" * value}}).status_code == 200
    for metadata in ({"x" * (label + 1): "y"}, {"x": "y" * (value + 1)}):
        assert alice.post("/v1/quotes", {**ORDER, "metadata": metadata}).status_code == 422


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/transfers", "/v1/files", "/v1/topups"])
def test_a_page_has_so_many_rows(alice, path):
    assert alice.get(f"{path}?limit={most('rows of a page')}").status_code == 200
    assert error(alice.get(f"{path}?limit={most('rows of a page') + 1}"), 422)["param"] == "limit"


def test_an_idempotency_key_has_so_many_characters(alice):
    length = most("Idempotency-Key")
    assert alice.post("/v1/jobs", ORDER, Idempotency_Key="k" * length).status_code == 202
    assert alice.post("/v1/jobs", ORDER, Idempotency_Key="k" * (length + 1)).status_code == 422


def test_an_account_keeps_as_many_files_as_its_tier_says(alice):
    restrict(alice, files=1)
    assert send(alice, encoded()).status_code == 201
    assert error(send(alice, encoded(size=(64, 64))), 409)["code"] == "file_quota_reached"


def test_an_account_has_so_many_webhooks(alice):
    body = {"url": "https://hooks.example.com/", "types": ["job.succeeded"]}
    for number in range(most("webhooks")):
        assert alice.post("/v1/webhooks", body | {"url": f"https://hooks.example.com/{number}"}).status_code == 201
    assert error(alice.post("/v1/webhooks", body), 409)["code"] == "too_many_webhooks"
