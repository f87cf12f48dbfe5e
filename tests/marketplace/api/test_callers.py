"""Who calls the API: keys that work and that do not, requests sent twice, and what others own."""

from uuid import uuid4

import pytest

from marketplace.jobs.models import Job
from tests.marketplace.api.asking import COST, ORDER, buy, deliver, error

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]


# --- keys ---


def test_without_a_key_or_with_a_bad_one(alice, client):
    assert error(client.get("/v1/balance"), 401)["code"] == "missing_api_key"
    for text in ("", "kiln_", "x", alice.key[:-1], alice.key[:-1] + ("A" if alice.key[-1] != "A" else "B"), "ключ"):
        answer = client.get("/v1/balance", headers={"Authorization": f"Bearer {text}".encode().decode("latin-1")})
        assert error(answer, 401)["type"] == "authentication"
        assert answer["WWW-Authenticate"].startswith("Bearer")


def test_a_key_is_shown_once_and_can_be_revoked(alice):
    made = alice.post("/v1/keys", {"name": "laptop"})
    assert made.status_code == 201
    secret = made.json()["key"]
    assert secret.startswith(made.json()["prefix"])
    listed = alice.get("/v1/keys").json()["data"]
    assert [row["name"] for row in listed] == ["laptop", "first key"]
    assert secret not in str(listed)

    second = type(alice)(alice.account, secret, None)
    assert second.get("/v1/balance").status_code == 200
    assert alice.get("/v1/keys").json()["data"][0]["last_used_at"] is not None
    assert alice.delete(f"/v1/keys/{made.json()['id']}").json()["revoked_at"] is not None
    assert error(second.get("/v1/balance"), 401)
    assert alice.delete(f"/v1/keys/{made.json()['id']}").status_code == 200
    assert alice.get("/v1/balance").status_code == 200


def test_only_a_hash_of_the_secret_is_stored(alice):
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM accounts_apikey")
        stored = repr([[bytes(v) if isinstance(v, memoryview) else v for v in row] for row in cursor.fetchall()])
    assert alice.key.split("_", 2)[2] not in stored


EVERYWHERE = (
    ("get", "/v1/balance"), ("get", "/v1/transfers"), ("get", "/v1/transfers.csv"), ("get", "/v1/invoices"),
    ("get", "/v1/invoices/2026-11.pdf"), ("get", "/v1/jobs"), ("get", "/v1/keys"), ("get", "/v1/topups"),
    ("get", "/v1/topups/automatic"), ("post", "/v1/quotes"), ("post", "/v1/jobs"), ("post", "/v1/keys"),
    ("post", "/v1/topups"), ("post", f"/v1/jobs/{uuid4()}/cancel"), ("delete", f"/v1/keys/{uuid4()}"),
)  # fmt: skip


@pytest.mark.parametrize("whose", ["account", "owner"])
def test_a_switched_off_account_is_told_so_everywhere(whose, alice):
    buy(alice)  # the key worked a moment ago
    row = alice.account if whose == "account" else alice.account.owner
    row.is_active = False
    row.save()
    for method, path in EVERYWHERE:
        answer = alice.post(path, ORDER) if method == "post" else getattr(alice, method)(path)
        refused = error(answer, 403)
        assert (refused["type"], refused["code"]) == ("permission", "account_switched_off"), path
    assert Job.objects.count() == 1


def test_who_does_not_have_the_whole_key_is_not_told_of_its_account(alice):
    alice.account.is_active = False
    alice.account.save()
    alice.key = alice.key[:-1] + ("A" if alice.key[-1] != "A" else "B")
    assert error(alice.get("/v1/balance"), 401)["code"] == "invalid_api_key"


def test_a_revoked_key_of_a_switched_off_account_is_just_unknown(alice):
    alice.delete(f"/v1/keys/{alice.key_id}")
    alice.account.is_active = False
    alice.account.save()
    assert error(alice.get("/v1/balance"), 401)["code"] == "invalid_api_key"


# --- idempotency ---


def test_the_same_request_twice_buys_once(alice):
    first = alice.post("/v1/jobs", ORDER, Idempotency_Key="k-1")
    again = alice.post("/v1/jobs", ORDER, Idempotency_Key="k-1")
    assert first.json()["id"] == again.json()["id"]
    assert (first.status_code, again.status_code) == (202, 202)
    assert "Idempotent-Replayed" not in first
    assert again["Idempotent-Replayed"] == "true"
    assert alice.get("/v1/balance").json()["held"] == COST


def test_the_same_key_with_another_body(alice):
    alice.post("/v1/jobs", ORDER, Idempotency_Key="k-1")
    refused = error(alice.post("/v1/jobs", {**ORDER, "steps": 21}, Idempotency_Key="k-1"), 422)
    assert (refused["code"], refused["param"]) == ("idempotency_key_reused", "Idempotency-Key")


def test_a_replay_answers_also_when_the_tokens_are_gone(alice):
    first = alice.post("/v1/jobs", {**ORDER, "max_cost": COST}, Idempotency_Key="k-1").json()
    while alice.post("/v1/jobs", {"prompt": "x" * 4000, "width": 1024, "height": 1024, "steps": 50}).status_code == 202:
        pass
    again = alice.post("/v1/jobs", {**ORDER, "max_cost": COST}, Idempotency_Key="k-1")
    assert again.json()["id"] == first["id"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é"])
def test_a_malformed_idempotency_key(key, alice):
    assert error(alice.post("/v1/jobs", ORDER, Idempotency_Key=key), 422)["param"] == "Idempotency-Key"


# --- tenants ---


def test_another_customers_things_do_not_exist(alice, bob, picture):
    job = buy(alice)
    deliver(job["id"], picture)
    for answer in (
        bob.get(f"/v1/jobs/{job['id']}"),
        bob.post(f"/v1/jobs/{job['id']}/cancel"),
        bob.delete(f"/v1/keys/{alice.key_id}"),
    ):
        error(answer, 404)
    assert bob.get("/v1/jobs").json()["data"] == []
    assert bob.get("/v1/transfers").json()["data"] == []
    assert bob.get("/v1/balance").json()["total"] == "0"
    assert alice.get("/v1/balance").status_code == 200


def test_another_customers_cursor_shows_nothing_of_theirs(alice, bob):
    job = buy(alice)
    assert bob.get(f"/v1/jobs?cursor={job['id']}").json()["data"] == []
    assert bob.get("/v1/transfers?cursor=999999").json()["data"] == []
