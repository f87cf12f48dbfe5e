"""Other sites' scripts: which may call, and which may read whose answers."""

import pytest
from django.db import OperationalError, connection
from django.test import Client

from marketplace.audit.models import Record
from tests.marketplace.api.asking import ORDER, error

pytestmark = pytest.mark.django_db(transaction=True)
SITE, OTHER = "https://app.example.com", "https://evil.example.com"
ALLOWED = "Access-Control-Allow-Origin"


def before(origin, path="/v1/jobs", method="POST"):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,x-stainless-lang",
    }
    return Client().options(path, headers=headers)


@pytest.fixture
def named(alice):
    answer = alice.patch("/v1/account", {"origins": [SITE, "http://localhost:5173"]})
    assert answer.status_code == 200, answer.content
    assert answer.json()["origins"] == ["http://localhost:5173", SITE]
    return alice


def test_a_script_of_a_site_that_was_named_buys_and_reads(named):
    asked = before(SITE)
    assert (asked.status_code, asked[ALLOWED]) == (200, SITE)
    accepted = asked["Access-Control-Allow-Headers"].split(", ")
    assert {"authorization", "content-type", "idempotency-key", "prefer", "x-stainless-lang"} <= set(accepted)
    assert "POST" in asked["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in asked
    bought = named.post("/v1/jobs", ORDER, Origin=SITE)
    assert (bought.status_code, bought[ALLOWED]) == (202, SITE)
    readable = bought["Access-Control-Expose-Headers"]
    for name in ("Location", "Retry-After", "RateLimit", "X-Request-Id", "Idempotent-Replayed", "Preference-Applied"):
        assert name in readable
    assert "origin" in bought["Vary"].lower()


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "https://app.example.com.evil.example.com", "http://app.example.com"]
)
def test_another_site_may_neither_call_nor_read(named, origin):
    assert ALLOWED not in before(origin)
    assert ALLOWED not in named.get("/v1/balance", Origin=origin)


def test_a_longer_name_that_begins_like_a_site_is_another(alice):
    long = f"https://{'.'.join(['a' * 61] * 4)}"[:255]
    assert alice.patch("/v1/account", {"origins": [long]}).json()["origins"] == [long]
    assert alice.get("/v1/balance", Origin=long)[ALLOWED] == long
    assert ALLOWED not in alice.get("/v1/balance", Origin=f"{long}.co")
    assert ALLOWED not in before(f"{long}.co")


def test_a_database_that_is_away_is_a_503_to_a_site_too(named):
    def away(*_):
        raise OperationalError

    with connection.execute_wrapper(away):
        assert named.get("/v1/models", Origin=SITE).status_code == 503
        assert before(SITE).status_code == 200


def test_the_site_of_one_account_does_not_read_anothers_answers(named, bob):
    assert before(SITE)[ALLOWED] == SITE
    answer = bob.get("/v1/balance", Origin=SITE)
    assert answer.status_code == 200
    assert ALLOWED not in answer


def test_a_script_reads_why_its_key_is_refused(named):
    answer = Client().get("/v1/balance", headers={"Origin": SITE, "Authorization": "Bearer kiln_x"})
    assert (answer.status_code, answer[ALLOWED]) == (401, SITE)


def test_what_is_public_stays_so_for_all(named):
    assert Client().get("/v1/models", headers={"Origin": OTHER})[ALLOWED] == "*"
    assert Client().get("/v1/models", headers={"Origin": SITE})[ALLOWED] in {"*", SITE}


def test_pages_outside_the_api_are_not_opened(named):
    assert ALLOWED not in Client().get("/healthz", headers={"Origin": SITE})
    assert ALLOWED not in before(SITE, "/admin/", "GET")


def test_the_list_is_replaced_and_in_the_audit(named):
    named.patch("/v1/account", {"origins": [OTHER]})
    assert ALLOWED not in before(SITE)
    assert before(OTHER)[ALLOWED] == OTHER
    named.patch("/v1/account", {"time_zone": "Europe/Berlin"})
    assert named.get("/v1/account").json()["origins"] == [OTHER]
    acts = Record.objects.filter(act__startswith="origin").values_list("act", "actor")
    assert sorted(act for act, _ in acts) == ["origin.linked"] * 3 + ["origin.unlinked"] * 2
    assert {actor for _, actor in acts} == {f"account {named.account.id}"}


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://App.Example.com", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_a_site_is_kept_as_browsers_write_it(alice, written, kept):
    assert alice.patch("/v1/account", {"origins": [written]}).json()["origins"] == [kept]


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example.com", "app.example.com", "https://app.example.com/", "https://app.example.com/path",
        "https://*.example.com", "*", "null", "", "https://user@app.example.com", "https://app.example.com?x",
        "https://app.example.com:99999", "ftp://localhost", "https://käse.example.com", "https://a b.example.com",
    ],
)  # fmt: skip
def test_what_is_no_such_site_is_refused(alice, origin):
    refused = error(alice.patch("/v1/account", {"origins": [origin]}), 422)
    assert refused["param"].startswith("origins")
    assert alice.get("/v1/account").json()["origins"] == []


def test_an_account_has_ten_sites_at_most(alice):
    many = [f"https://site-{number}.example.com" for number in range(11)]
    assert error(alice.patch("/v1/account", {"origins": many}), 422)["param"] == "origins"
    assert alice.patch("/v1/account", {"origins": many[:10]}).status_code == 200
