"""An account that is closed: nothing acts for it any more, nothing tells of its person, and its books stay."""

import json
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.core.files.storage import storages
from django.db import connection
from django.db.models.functions import Now

from billing.amounts import format_tokens
from billing.models import Payee, Payer, Payout, TopUp, Transfer
from billing.payments import payouts
from billing.tokens import earnings, lots, wallets
from inference.models import catalog
from lora import publications
from lora.models import Publication, Report
from marketplace import closing
from marketplace.accounts.models import Account, ApiKey, Identity, Person
from marketplace.adapters import uploads as adapter_files
from marketplace.approvals import acts, requests
from marketplace.audit.models import Record
from marketplace.files import uploads
from marketplace.files.models import File
from marketplace.jobs import forgetting, lifecycle
from marketplace.jobs.models import Image, Job
from marketplace.maintenance.tasks import keep_forgetting
from marketplace.webhooks import endpoints
from marketplace.webhooks.models import Endpoint
from tests.marketplace import people
from tests.marketplace.adapters.test_adapter_uploads import settle as let_deletions_be_long_ago
from tests.marketplace.api.asking import buy, deliver, error
from tests.marketplace.api.money import months
from tests.marketplace.api.test_market import ready
from tests.marketplace.files.test_uploads import encoded, send
from tests.marketplace.trainings import making

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


# --- a maker's account ---


@pytest.fixture
def carol():
    """A maker without Tokens, known as carol."""
    made = people.customer("carol", 0)
    assert made.patch("/v1/maker", {"handle": "carol"}).status_code == 200
    return made


@pytest.fixture
def glaze(carol):
    """Carol's adapter, published, with another publication pending."""
    adapter = making.adapter(carol)
    ready(adapter)
    terms = {"fee": 250, "licence": "any-use", "tags": ["blue"], "most": 1000}
    publications.approve(publications.ask(uuid4(), adapter, None, **terms), 700)
    publications.ask(uuid4(), adapter, None, **terms)
    return adapter


@pytest.fixture
def used(bob, glaze, picture):
    """One use of it, which bob paid with Tokens that he had bought."""
    wallets.purchase(bob.account.id, 10_000, 50_000, "eur", "pi_1")
    job = buy(bob, adapters=[{"id": str(glaze.id)}])["id"]
    deliver(job, picture)
    lots.catch_up()
    return job


def left(customer):
    (found,) = earnings.purses(earnings.maker_of(customer.account.id))
    return found.amount, found.money_minor


def test_earnings_are_named_once_and_then_forfeited(carol, used):
    tokens, minor = left(carol)
    moved = list(Transfer.objects.values())
    refused = error(close(carol, confirm="carol@example.com"), 409)
    assert refused["code"] == "earnings_left"
    assert f"{format_tokens(tokens)} Tokens of earnings, worth {minor / 100:.2f} EUR" in refused["message"]
    assert carol.get("/v1/maker").json()["handle"] == "carol"
    assert Publication.objects.filter(status="approved").exists()
    body = close(carol, confirm="carol@example.com", forfeit=True).json()
    assert (body["forfeited"], body["forfeited_earnings"]) == ("0", format_tokens(tokens))
    assert body["forfeited_worth"] == {"eur": f"{minor / 100:.2f}"}
    assert (left(carol), list(Transfer.objects.values())) == ((tokens, minor), moved), "the books stay"


def test_what_was_spent_is_not_left(carol, used, settings):
    settings.EARNINGS_DAYS = 0
    assert carol.post("/v1/earnings/spend", {}).status_code == 201
    assert error(close(carol, confirm="carol@example.com"), 409)["code"] == "tokens_left"


def test_a_payout_under_way_is_named_and_still_arrives(carol, used, settings):
    settings.EARNINGS_DAYS, settings.PAYOUT_MINIMUMS = 0, {"eur": 1}
    Payee.objects.create(owner=carol.account.id, country="de", email="c@x.de", account_id="acct_1", status="active")
    payout, _ = payouts.order(carol.account.id, "eur", uuid4(), "now")
    refused = error(close(carol, confirm="carol@example.com"), 409)
    assert (refused["code"], "a payout of" in refused["message"]) == ("earnings_left", True)
    assert Payee.objects.exists()
    assert close(carol, confirm="carol@example.com", forfeit=True).status_code == 200
    payout.refresh_from_db()
    assert (payout.status, Payee.objects.exists()) == ("ordered", False)
    assert "c@x.de" not in dump()


def test_nothing_is_paid_out_monthly_any_more(carol, used, settings):
    settings.EARNINGS_DAYS, settings.PAYOUT_MINIMUMS = 0, {"eur": 1}
    Payee.objects.create(owner=carol.account.id, country="de", email="c@x.de", account_id="acct_1", status="active")
    close(carol, confirm="carol@example.com", forfeit=True)
    assert payouts.order_monthly(uuid4) == 0
    assert not Payout.objects.exists()


def test_a_maker_with_a_debt_may_leave(carol, used, settings):
    settings.EARNINGS_DAYS = 0
    carol.post("/v1/earnings/spend", {})
    wallets.refund(UUID(used), 1_000, "sorry")
    lots.catch_up()
    assert earnings.purses(earnings.maker_of(carol.account.id))[0].advanced > 0
    assert error(close(carol, confirm="carol@example.com"), 409)["code"] == "tokens_left"
    body = close(carol, confirm="carol@example.com", forfeit=True).json()
    assert (body["forfeited_earnings"], body["forfeited_worth"]) == ("0", {})


def test_adapters_end_at_once_and_what_was_ordered_is_drawn(carol, bob, glaze, used, picture, client):
    order = {"adapters": [{"id": str(glaze.id)}]}
    queued = buy(bob, **order)["id"]
    assert client.get("/v1/market").json()["data"]
    assert close(carol, confirm="carol@example.com", forfeit=True).status_code == 200
    assert client.get("/v1/market").json()["data"] == []
    assert error(bob.post("/v1/jobs", {"prompt": "x", **order}), 422)["code"] == "unknown_adapter"
    assert sorted(Publication.objects.values_list("status", flat=True)) == ["withdrawn"]
    deliver(queued, picture)
    assert Job.objects.get(id=queued).status == "succeeded"
    keep_forgetting()
    assert Account.objects.get(id=carol.account.id).to_erase, "its files are still there"
    let_deletions_be_long_ago()
    adapter_files.remove_unused(set())
    settle()
    keep_forgetting()
    assert not Account.objects.get(id=carol.account.id).to_erase


def test_a_handle_is_nobodys_any_more(carol, bob, glaze):
    close(carol, confirm="carol@example.com", forfeit=True)
    for handle in ("carol", f"closed-{bob.account.id.hex}"):
        assert error(bob.patch("/v1/maker", {"handle": handle}), 409)["code"] == "handle_taken"
    assert bob.patch("/v1/maker", {"handle": "bob"}).status_code == 200
    settle()
    keep_forgetting()
    for word in ("carol", "blue"):
        assert word not in dump("django_session").replace("glaze", ""), word


def test_what_somebody_wrote_in_reports_is_forgotten(carol, bob, glaze):
    bob.post("/v1/market/carol/glaze/reports", {"reason": "copyright", "text": SECRET})
    assert Report.objects.get().text == SECRET
    close(bob, confirm="bob@example.com", forfeit=True)
    assert (Report.objects.get().text, Report.objects.get().reason) == ("", "copyright")


def test_a_training_is_canceled_and_its_adapter_ends(carol):
    wallets.grant(carol.account.id, 1_000_000, "enough")
    training = making.submit(carol).training
    close(carol, confirm="carol@example.com", forfeit=True)
    settle()
    keep_forgetting()
    training.refresh_from_db()
    assert (training.status, training.order, training.adapter.slug) == ("canceled", {}, "deleted")
    assert not Account.objects.get(id=carol.account.id).to_erase


def test_an_operator_sees_what_is_forfeited(carol, used):
    tokens, minor = left(carol)
    act = acts.AccountClosing(str(carol.account.id))
    assert ("Earnings that are forfeited", f"{format_tokens(tokens)} Tokens worth {minor / 100:.2f} EUR") in act.lines()
