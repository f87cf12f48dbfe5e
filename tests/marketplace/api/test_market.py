"""The market over HTTP: published with the operator's approval, found, bought with, rated, reported, ended."""

from uuid import UUID

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import IntegrityError

from billing.models import Earning
from billing.tokens import lots, wallets
from lora import opinions, publications, versions
from lora.errors import UnknownVersion
from lora.models import Adapter, Listing, Publication, Report, Version
from lora.versions import Facts
from tests.marketplace.api.asking import buy, deliver
from tests.marketplace.people import customer
from tests.marketplace.trainings import making

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
TERMS = {"fee": "0.25", "licence": "any-use", "tags": ["glaze", "blue"]}


@pytest.fixture
def carol(alice):
    """A maker."""
    return customer("carol", 10)


@pytest.fixture
def glaze(carol):
    """Carol's adapter, whose only version is ready."""
    adapter = making.adapter(carol)
    assert carol.patch("/v1/maker", {"handle": "carol"}).status_code == 200
    ready(adapter)
    return adapter


def ready(adapter, **facts):
    path = storages["adapters"].save("samples.png", ContentFile(b"\x89PNG"))
    version = versions.begin(adapter, Version.Origin.TRAINED, 1000, most=9, mebibytes=9)
    known = {"rank": 16, "layers": 3, "samples": [{"step": 1, "path": path}], "surcharge": 50}
    versions.accept(version, Facts(sha256=f"{version.number}" * 64, size=1000, **{**known, **facts}))
    return version


@pytest.fixture
def published(carol, glaze):
    carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS)
    publications.approve(Publication.objects.get(), 700)
    return f"/v1/market/{Adapter.objects.get().owner.handle}/glaze"


def test_a_publication_waits_for_the_operator_and_then_is_in_the_catalogue(carol, alice, glaze, client):
    asked = carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS)
    assert (asked.status_code, asked.json()["status"], asked.json()["fee"]) == (202, "pending", "0.25")
    assert client.get("/v1/market").json()["data"] == []
    order = {"prompt": "x", "adapters": [{"id": str(glaze.id)}]}
    assert alice.post("/v1/quotes", order).json()["error"]["code"] == "unknown_adapter"
    again = carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "publication_pending")
    assert publications.approve(Publication.objects.get(), 700)
    assert not publications.approve(Publication.objects.get(), 900)
    (offer,) = client.get("/v1/market").json()["data"]
    told = ("name", "slug", "version", "fee", "surcharge", "licence", "tags", "uses", "rating", "ratings")
    expected = ("Glaze", "glaze", 1, "0.25", "0.05", "any-use", ["glaze", "blue"], 0, None, 0)
    assert tuple(offer[name] for name in told) == expected
    quoted = alice.post("/v1/quotes", {"prompt": "x", "width": 256, "height": 256})
    assert quoted.status_code == 200
    assert str(carol.account.id) not in str(offer)
    samples = client.get(offer["samples"])
    assert b"".join(samples.streaming_content) == b"\x89PNG"
    assert Listing.objects.get().share == 700


def test_buying_with_it_pays_the_maker_and_lets_the_buyer_rate_it(alice, bob, carol, glaze, published, picture):
    refused = alice.put(f"{published}/rating", {"stars": 5})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_bought")
    job = buy(alice, adapters=[{"id": str(glaze.id)}])
    assert job["cost"]["quoted"] == "1.625", "1.25 Tokens, 5 % surcharge and 25 % fee"
    deliver(job["id"], picture)
    lots.catch_up()
    earning = Earning.objects.get()
    assert (earning.amount, earning.reference) == (1625 * 250 * 700 // 1_300_000, UUID(job["id"]))
    assert carol.get("/v1/earnings").json()["data"][0]["amount"] == "0.218"
    assert alice.put(f"{published}/rating", {"stars": 5}).json()["stars"] == 5
    assert alice.put(f"{published}/rating", {"stars": 4}).json()["stars"] == 4
    assert carol.put(f"{published}/rating", {"stars": 5}).status_code == 403
    opinions.sum_up()
    offer = bob.get(published).json()
    assert (offer["uses"], offer["rating"], offer["ratings"]) == (1, 4.0, 1)
    assert alice.delete(f"{published}/rating").status_code == 204
    assert bob.get(published).json()["rating"] is None


def test_uses_and_stars_are_those_of_buyers(alice, bob, carol, glaze, published, picture, client):
    with_it = {"adapters": [{"id": str(glaze.id)}]}
    assert carol.put(f"/v1/adapters/{glaze.id}/shared/{alice.account.id}", {}).status_code == 204
    for friend in (carol, alice):
        deliver(buy(friend, **with_it)["id"], picture)
        refused = friend.put(f"{published}/rating", {"stars": 5})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_bought")
    opinions.sum_up()
    assert client.get(published).json()["uses"] == 0
    wallets.grant(bob.account.id, 10_000, "to buy with")
    deliver(buy(bob, **with_it)["id"], picture)
    assert bob.put(f"{published}/rating", {"stars": 2}).status_code == 200
    opinions.sum_up()
    offer = client.get(published).json()
    assert (offer["uses"], offer["rating"], offer["ratings"]) == (1, 2.0, 1)


def test_the_terms_of_what_was_ordered_stay_whatever_comes_after(alice, carol, glaze, published, picture):
    job = buy(alice, adapters=[{"id": str(glaze.id)}])
    carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS | {"fee": "1"})
    publications.approve(Publication.objects.get(status="pending"), 100)
    assert alice.post("/v1/quotes", {"prompt": "x", "adapters": [{"id": str(glaze.id)}]}).status_code == 200
    carol.delete(f"/v1/adapters/{glaze.id}/publication")
    deliver(job["id"], picture)
    lots.catch_up()
    assert Earning.objects.get().amount == 1625 * 250 * 700 // 1_300_000
    assert alice.post("/v1/quotes", {"prompt": "x", "adapters": [{"id": str(glaze.id)}]}).status_code == 422


def test_what_is_ended_is_gone_for_all_but_its_maker(alice, carol, glaze, published, client):
    assert carol.delete(f"/v1/adapters/{glaze.id}/publication").status_code == 204
    assert client.get("/v1/market").json()["data"] == []
    assert client.get(published).status_code == 404
    assert alice.get(f"/v1/adapters/{glaze.id}").status_code == 404
    assert carol.get(f"/v1/adapters/{glaze.id}").json()["visibility"] == "private"
    assert carol.get(f"/v1/adapters/{glaze.id}/publication").json()["status"] == "withdrawn"
    for _ in range(3):
        assert carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS).status_code == 202
        carol.delete(f"/v1/adapters/{glaze.id}/publication")
    assert Publication.objects.count() == 1, "what was never decided leaves nothing behind"


def test_an_order_sent_again_is_the_same_though_a_newer_version_was_published(alice, carol, glaze, published):
    order = {"prompt": "x", "adapters": [{"id": str(glaze.id)}]}
    drawn = {"prompt": "x", "size": "256x256", "model": "adapter/carol/glaze"}
    bought = alice.post("/v1/jobs", order, Idempotency_Key="k").json()
    assert alice.post("/v1/images/generations", drawn).status_code == 503
    held = alice.balance
    ready(glaze)
    carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS | {"fee": "1"})
    assert publications.approve(Publication.objects.get(status="pending"), 700)
    again = alice.post("/v1/jobs", order, Idempotency_Key="k")
    assert (again["Idempotent-Replayed"], again.json()["id"]) == ("true", bought["id"])
    assert alice.post("/v1/images/generations", drawn, x_stainless_retry_count="1").status_code == 503
    assert alice.balance == held
    other = {"prompt": "x", "adapters": [{"id": str(glaze.id), "version": 2}]}
    assert alice.post("/v1/jobs", other, Idempotency_Key="k").json()["error"]["code"] == "idempotency_key_reused"


def test_what_the_operator_approved_keeps_its_words_until_it_is_ended(carol, glaze, client):
    words = {"name": "Official", "description": "<script>alert(1)</script>", "trigger_words": ["kiln"]}
    carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS)
    for step in (lambda: None, lambda: publications.approve(Publication.objects.get(), 700)):
        step()
        for name, text in words.items():
            refused = carol.patch(f"/v1/adapters/{glaze.id}", {name: text})
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "words_kept")
    assert [each["name"] for each in client.get("/v1/market").json()["data"]] == ["Glaze"]
    carol.delete(f"/v1/adapters/{glaze.id}/publication")
    assert carol.patch(f"/v1/adapters/{glaze.id}", words).json()["name"] == "Official"


def test_a_version_that_was_taken_down_does_not_come_back_with_another(alice, carol, glaze, published):
    publications.withdraw(glaze, "illegal")
    ready(glaze)
    carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS | {"version": 2, "fee": "0.5"})
    assert publications.approve(Publication.objects.get(status="pending"), 700)
    order = {"prompt": "x", "adapters": [{"id": str(glaze.id), "version": 1}]}
    refused = alice.post("/v1/quotes", order)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unknown_version")
    assert [each["number"] for each in alice.get(f"/v1/adapters/{glaze.id}").json()["versions"]] == [2]
    assert alice.post("/v1/quotes", {**order, "adapters": [{"id": str(glaze.id)}]}).status_code == 200
    with pytest.raises(IntegrityError):
        Listing.objects.filter(version__number=1).update(ended_at=None)
    with pytest.raises(IntegrityError):
        Listing.objects.update(fee=0)


def test_a_version_that_was_deleted_meanwhile_is_not_published(carol, glaze, client):
    ready(glaze)
    carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS | {"version": 2})
    carol.delete(f"/v1/adapters/{glaze.id}/versions/2")
    with pytest.raises(UnknownVersion):
        publications.approve(Publication.objects.get(), 700)
    assert (Publication.objects.get().status, Listing.objects.count()) == ("pending", 0)
    assert carol.get(f"/v1/adapters/{glaze.id}").json()["visibility"] == "private"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"fee": "1.001"}, "fee", "fee_outside_bounds"),
        ({"fee": "-1"}, "fee", "invalid_value"),
        ({"fee": "1e-1"}, "fee", "invalid_value"),
        ({"licence": "mine"}, "licence", "invalid_choice"),
        ({"tags": ["Blue!"]}, "tags", "invalid_value"),
        ({"version": 7}, None, "not_found"),
    ],
)
def test_what_cannot_be_asked_is_named(carol, glaze, change, param, code):
    answer = carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS | change)
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert not Publication.objects.exists()


def test_a_version_of_a_tier_without_the_right_is_not_published(carol, glaze):
    ready(glaze, may_publish=False)
    answer = carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_publishable")
    assert carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS | {"version": 1}).status_code == 202


def test_refused_with_a_reason_it_may_be_asked_again(carol, glaze):
    carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS)
    assert publications.refuse(Publication.objects.get(), "It shows a living person.")
    seen = carol.get(f"/v1/adapters/{glaze.id}/publication").json()
    assert (seen["status"], seen["reason"]) == ("refused", "It shows a living person.")
    assert carol.post(f"/v1/adapters/{glaze.id}/publication", TERMS).status_code == 202


def test_the_catalogue_is_searched_by_words_and_tags_and_sorted(carol, published, client, alice):
    other = making.adapter(carol, "frost")
    Adapter.objects.filter(id=other.id).update(name="Frost", description="like ice in the morning")
    ready(other)
    carol.post(f"/v1/adapters/{other.id}/publication", TERMS | {"tags": ["ice"]})
    publications.approve(Publication.objects.get(status="pending"), 700)
    opinions.count(alice.account.id, [Adapter.objects.get(slug="glaze").id])
    opinions.sum_up()

    def names(query=""):
        return [each["name"] for each in client.get(f"/v1/market{query}").json()["data"]]

    assert names() == ["Frost", "Glaze"]
    assert names("?sort=uses") == ["Glaze", "Frost"]
    assert names("?search=ICE+morning") == ["Frost"]
    assert names("?search=blue") == ["Glaze"]
    assert names("?tag=ice") == ["Frost"]
    assert names("?search=nothing") == []
    first = client.get("/v1/market?limit=1").json()
    assert [each["name"] for each in first["data"]] == ["Frost"]
    assert names(f"?limit=1&cursor={first['next_cursor']}") == ["Glaze"]


def test_a_report_reaches_the_operator_once(alice, published):
    first = alice.post(f"{published}/reports", {"reason": "copyright", "text": "It is our glaze."})
    again = alice.post(f"{published}/reports", {"reason": "other"})
    assert (first.status_code, again.json()["id"]) == (202, first.json()["id"])
    report = Report.objects.get()
    assert opinions.close(report, "taken down")
    assert not opinions.close(report, "again")
    assert alice.post(f"{published}/reports", {"reason": "other"}).json()["id"] != first.json()["id"]


def test_whoever_is_penniless_can_look_but_a_wallet_for_earnings_is_made_with_the_listing(published, carol, bob):
    assert wallets.balance(bob.account.id).total == 0
    assert bob.get(published).status_code == 200
    assert carol.get("/v1/earnings").json()["data"] == []
