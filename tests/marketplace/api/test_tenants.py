"""Whatever has an id of one account is, to another, as if it were not there. New addresses cannot be forgotten."""

import re
from uuid import uuid4

import pytest
from django.urls import URLPattern, get_resolver

from billing import clock
from billing.models import Payout, Purse, TopUp, Wallet
from billing.prices import packs
from billing.tokens import wallets
from marketplace.identifiers import uuid7
from marketplace.jobs.models import Image
from marketplace.webhooks import endpoints
from tests.marketplace.adapters import goods
from tests.marketplace.api.asking import buy, deliver
from tests.marketplace.api.test_order_pictures import terms
from tests.marketplace.files.test_uploads import encoded, send
from tests.marketplace.trainings import making

pytestmark = pytest.mark.django_db(transaction=True)
METHODS = ("get", "post", "put", "patch", "delete")
PUBLIC = {
    "v1/models", "v1/models/<str:name>", "v1/packs", "v1/prices", "v1/tiers", "v1/market",
    "v1/market/<slug:handle>/<slug:slug>", "v1/market/<slug:handle>/<slug:slug>/samples",
}  # fmt: skip
"""Addresses at which there is nothing of anybody."""
NAMES = {"month": "2026-11", "year": "2026", "step": "1", "number": "1", "handle": "nobody", "slug": "nothing"}
"""What else than ids is in addresses, and says nothing of whose it is."""


def routes():
    return sorted(
        each.pattern._route
        for each in get_resolver().url_patterns
        if isinstance(each, URLPattern) and str(each.pattern).startswith("v1/")
    )


def parameters(route):
    return re.findall(r"<\w+:(\w+)>", route)


@pytest.fixture
def mine(alice, picture, tmp_path):
    """An id of alice's for every kind of id that an address has."""
    job = buy(alice)["id"]
    deliver(job, picture)
    terms = {"pack": packs.offered()[0], "price_minor": 990, "currency": "eur", "order": {}}
    top_up = TopUp.objects.create(
        id=uuid7(), owner=alice.account.id, created_at=clock.now(), expires_at=clock.now(), **terms
    )
    trained = making.submit(alice).training
    endpoint, _ = endpoints.create(alice.account.id, "https://example.com/hook", ["job.succeeded"])
    made = goods.adapter(alice)
    goods.version(made, tmp_path)
    return {
        "adapter_id": str(made.id),
        "account_id": str(alice.account.id),
        "webhook_id": str(endpoint.id),
        "delivery_id": str(endpoints.test(endpoint).id),
        "job_id": job,
        "file_id": send(alice, encoded()).json()["id"],
        "key_id": str(alice.key_id),
        "topup_id": str(top_up.id),
        "training_id": str(trained.id),
        "payout_id": str(payout(alice).id),
    }


def payout(customer):
    """A payout of a maker's, as if it had been ordered."""
    wallets.create(customer.account.id, Wallet.Kind.CREATOR)
    purse = Purse.objects.create(maker=Wallet.objects.get(owner=customer.account.id, kind="creator"), currency="eur")
    return Payout.objects.create(id=uuid7(), purse=purse, amount=1, money_minor=1, idempotency_key="now")


def filled(route, ids):
    names = {**NAMES, **ids}
    return "/" + re.sub(r"<\w+:(\w+)>", lambda found: names[found[1]], route)


def asked(customer, method, path):
    send = {"get": customer.get, "delete": customer.delete}.get(method)
    answer = send(path) if send else getattr(customer, method)(path, {})
    body = re.sub(rb'"request_id": "[^"]*"', b"", answer.content)
    return answer.status_code, body


def test_every_id_in_an_address_is_made_here(mine):
    ids = {name for route in routes() if route not in PUBLIC for name in parameters(route)}
    assert ids - NAMES.keys() == mine.keys()


@pytest.mark.parametrize("route", [route for route in routes() if set(parameters(route)) - NAMES.keys() - {"name"}])
def test_what_is_another_accounts_is_answered_as_what_is_nowhere(route, mine, alice, bob):
    nowhere = {name: str(uuid4()) for name in mine}
    for method in METHODS:
        theirs, none = asked(bob, method, filled(route, mine)), asked(bob, method, filled(route, nowhere))
        assert theirs == none, method
        assert theirs[0] in {404, 405, 422}, (method, theirs)
    assert alice.get(f"/v1/jobs/{mine['job_id']}").status_code == 200
    assert alice.get(f"/v1/files/{mine['file_id']}").status_code == 200
    [version] = alice.get(f"/v1/adapters/{mine['adapter_id']}").json()["versions"]
    assert version["status"] == "ready"
    assert alice.get("/v1/keys").json()["data"][0]["revoked_at"] is None


@pytest.mark.parametrize("route", [route for route in routes() if route not in PUBLIC])
def test_without_a_key_nothing_is_told(route, mine, client):
    for method in METHODS:
        answer = getattr(client, method)(filled(route, mine))
        assert answer.status_code in {401, 405}, method


def test_lists_have_nothing_of_another_account(mine, bob):
    ids = {*mine.values(), *(str(image.id) for image in Image.objects.all())}
    for route in routes():
        if not parameters(route) and (answer := bob.get(f"/{route}")).status_code == 200:
            text = b"".join(answer.streaming_content) if answer.streaming else answer.content
            assert not [each for each in ids if each.encode() in text], route


def test_the_price_and_the_files_do_not_tell_that_another_account_had_the_same_order(alice, bob):
    alice.post("/v1/jobs", terms("edit"))
    wallets.grant(bob.account.id, 100_000, "a gift")
    quotes = [customer.post("/v1/quotes", terms("edit")).json() for customer in (alice, bob)]
    assert quotes[0] == quotes[1]
    job = bob.post("/v1/jobs", terms("edit")).json()
    (given,) = job["inputs"]
    assert bob.get(f"/v1/files/{given['file']}").status_code == 200
    assert alice.get(f"/v1/files/{given['file']}").status_code == 404
