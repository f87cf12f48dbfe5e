"""An account that is closed: nothing acts for it any more, nothing tells of its person, and its books stay."""

import json

import pytest
from django.conf import settings
from django.core.files.storage import storages
from django.db import connection
from django.db.models.functions import Now

from billing.models import Payer, TopUp, Transfer
from billing.tokens import wallets
from inference.models import catalog
from marketplace import closing
from marketplace.accounts.models import Account, ApiKey, Identity, Person
from marketplace.approvals import acts, requests
from marketplace.audit.models import Record
from marketplace.files import uploads
from marketplace.files.models import File
from marketplace.jobs import forgetting, lifecycle
from marketplace.jobs.models import Image, Job
from marketplace.maintenance.tasks import keep_forgetting
from marketplace.webhooks import endpoints
from marketplace.webhooks.models import Endpoint
from tests.marketplace.api.asking import buy, deliver, error
from tests.marketplace.api.money import months
from tests.marketplace.files.test_uploads import encoded, send

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
SECRET = "a very private wish"


def close(customer, **body):
    headers = {"Authorization": f"Bearer {customer.key}"}
    return customer._http().generic(
        "DELETE", "/v1/account", json.dumps(body), content_type="application/json", headers=headers
    )


def settle():
    """Time passes in which a late worker or request might still have written."""
    Account.objects.exclude(closed_at=None).update(closed_at=Now() - 2 * closing.SETTLED)
    Job.objects.exclude(finished_at=None).update(finished_at=Now() - 2 * forgetting.SETTLED)


def dump(*but):
    """All that the database has, as text, without these tables."""
    found = []
    with connection.cursor() as cursor:
        for table in set(connection.introspection.table_names(cursor)) - set(but):
            cursor.execute(f'SELECT row_to_json(t)::text FROM "{table}" t')
            found += [row for (row,) in cursor.fetchall()]
    return "\n".join(found)


def test_all_goes_but_the_books(alice, picture):
    done = buy(alice, prompt=SECRET)["id"]
    deliver(done, picture)
    queued = buy(alice, prompt=SECRET)["id"]
    file = send(alice, encoded()).json()["id"]
    alice.post("/v1/webhooks", {"url": "https://hooks.example.com/alice", "types": ["job.succeeded"]})
    Identity.objects.create(account=alice.account, issuer="https://id.example.com/", subject="user-1")
    before = list(Transfer.objects.values())
    left = wallets.balance(alice.account.id)

    answer = close(alice, confirm="Alice@example.com", forfeit=True)
    assert answer.status_code == 200, answer.content
    assert answer.json()["id"] == str(alice.account.id)
    assert float(answer.json()["forfeited"]) == (left.available + left.held) / 1000
    assert error(alice.get("/v1/balance"), 401)
    settle()
    keep_forgetting()

    account = Account.objects.select_related("owner").get(id=alice.account.id)
    assert (account.is_active, account.to_erase, account.name) == (False, False, "closed account")
    assert account.owner.email == f"closed-{account.id}@closed.invalid"
    assert not ApiKey.objects.filter(account=account, revoked_at=None).exists()
    assert Job.objects.get(id=queued).status == "canceled"
    assert not Job.objects.filter(forgotten_at=None).exists()
    assert not File.objects.exists()
    assert not Image.objects.exists()
    assert not storages["files"].exists(f"{account.id}/{file}")
    assert storages["images"].listdir(f"{account.id}/{done}")[1] == []
    text = dump()
    for word in (SECRET, "alice@", "hooks.example.com"):
        assert word not in text.lower(), word
    assert list(Transfer.objects.values()) == before
    assert wallets.balance(account.id).held == 0
    assert Record.objects.filter(act="account.closed", actor=f"account {account.id}").count() == 1


def test_it_takes_the_right_address_and_says_what_would_be_lost(alice, bob):
    for body in ({}, {"confirm": "bob@example.com", "forfeit": True}, {"confirm": "x", "forfeit": True}):
        assert error(close(alice, **body), 422)["param"] == "confirm"
    refused = error(close(alice, confirm="alice@example.com"), 409)
    assert (refused["code"], "1000 Tokens" in refused["message"]) == ("tokens_left", True)
    assert alice.get("/v1/account").status_code == 200
    assert close(bob, confirm="bob@example.com").json()["forfeited"] == "0"
    assert alice.get("/v1/account").status_code == 200


def test_a_key_with_a_cap_closes_nothing(alice):
    alice.patch(f"/v1/keys/{alice.key_id}", {"daily_cap": "5"})
    assert error(close(alice, confirm="alice@example.com", forfeit=True), 403)["code"] == "capped_key"


def test_a_job_that_runs_is_waited_for_and_then_forgotten(alice, picture):
    job = buy(alice, prompt=SECRET)["id"]
    claimed = lifecycle.claim(job, "w1")
    assert close(alice, confirm="alice@example.com", forfeit=True).status_code == 200
    keep_forgetting()
    account = Account.objects.get(id=alice.account.id)
    assert account.to_erase
    assert Job.objects.get(id=job).cancel_requested_at
    lifecycle.stop(claimed, [picture(claimed)], {})
    keep_forgetting()
    settle()
    keep_forgetting()
    account.refresh_from_db()
    assert not account.to_erase
    assert SECRET not in dump()


def test_a_crash_after_the_first_step_is_finished_later(alice, picture, monkeypatch):
    job = buy(alice, prompt=SECRET)["id"]
    deliver(job, picture)
    monkeypatch.setattr(closing, "erase", lambda account: False)
    close(alice, confirm="alice@example.com", forfeit=True)
    assert Person.objects.get(accounts=alice.account).email == "alice@example.com"
    assert error(alice.get("/v1/balance"), 401)
    monkeypatch.undo()
    settle()
    keep_forgetting()
    assert not Account.objects.get(id=alice.account.id).to_erase
    assert "alice@" not in dump()


def test_what_a_request_leaves_that_was_under_way_goes_too(alice):
    """It was let in before the account was closed, and wrote after that."""
    close(alice, confirm="alice@example.com", forfeit=True)
    keep_forgetting()
    file = uploads.receive(alice.account.id, SECRET, encoded(), catalog.card(settings.MODEL))
    endpoints.create(alice.account.id, "https://hooks.example.com/alice", ["job.succeeded"])
    Identity.objects.create(account=alice.account, issuer="https://id.example.com/", subject="user-1")
    assert Account.objects.get(id=alice.account.id).to_erase
    settle()
    keep_forgetting()
    assert not Account.objects.get(id=alice.account.id).to_erase
    assert [table.objects.count() for table in (File, Identity, Endpoint)] == [0, 0, 0]
    assert not storages["files"].exists(file.path)
    told = Record.objects.count()
    closing.erase(Account.objects.get(id=alice.account.id))
    assert Record.objects.count() == told, "again is nothing new"


def test_one_account_that_cannot_be_erased_holds_up_no_other(alice, bob, monkeypatch):
    real = closing._remove_latents

    def fail(account):
        if account.id == alice.account.id:
            raise OSError("away")
        real(account)

    monkeypatch.setattr(closing, "_remove_latents", fail)
    for customer in (alice, bob):
        close(customer, confirm=customer.account.owner.email, forfeit=True)
    settle()
    keep_forgetting()
    assert [each.id for each in Account.objects.filter(to_erase=True)] == [alice.account.id]


def test_cards_and_the_customer_go_at_stripe_and_the_name_once_the_month_is_invoiced(shop, card):
    top_up, _ = shop.paid()
    customer_id = Payer.objects.get(owner=shop.customer.account.id).customer_id
    answer = close(shop.customer, confirm="bob@example.com", forfeit=True)
    assert answer.status_code == 200, answer.content
    settle()
    keep_forgetting()
    assert not Payer.objects.exists()
    assert shop.v1.customers.retrieve(customer_id).deleted
    account = Account.objects.select_related("owner").get(id=shop.customer.account.id)
    assert (account.to_erase, account.owner.email) == (True, "bob@example.com")  # the invoice needs it
    _, (invoice,) = months.close(shop.customer, name="Bob", email="bob@example.com")
    keep_forgetting()
    account.refresh_from_db()
    assert (account.to_erase, Person.objects.get(pk=account.owner_id).email[:7]) == (False, "closed-")
    assert TopUp.objects.get(id=top_up["id"]).order["email"] == ""
    assert invoice.buyer == {"name": "Bob", "email": "bob@example.com"}  # a document of the books
    assert "bob@example.com" not in dump("billing_invoice")


def test_an_operator_closes_an_account_with_a_second_person(alice):
    first, second = (
        Person.objects.create_superuser(f"{name}@example.com", "a long pass phrase") for name in ("a", "b")
    )
    asked = requests.ask(first, acts.AccountClosing(str(alice.account.id)), "the customer wrote a letter")
    assert asked.status == "pending"
    assert alice.get("/v1/account").status_code == 200
    assert requests.approve(second, asked.id).status == "executed"
    assert error(alice.get("/v1/balance"), 401)
    settle()
    keep_forgetting()
    assert not Account.objects.get(id=alice.account.id).to_erase


def test_an_operator_who_owns_an_account_stays_one(alice):
    Person.objects.filter(accounts=alice.account).update(is_staff=True)
    close(alice, confirm="alice@example.com", forfeit=True)
    account = Account.objects.select_related("owner").get(id=alice.account.id)
    assert (account.name, account.owner.email) == ("closed account", "alice@example.com")
