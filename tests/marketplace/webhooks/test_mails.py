"""What accounts are told of their money, by webhook and by e-mail, and how they end the e-mails."""

import re
from uuid import uuid4

import pytest
from django.core import mail
from django.test import Client

from billing.tokens import wallets
from marketplace.environment import mail_server
from marketplace.maintenance import tasks
from marketplace.webhooks import events, mails
from marketplace.webhooks.models import MAILED, Delivery
from tests.marketplace.shops import DECLINED, arrives, completed, save_card, send, spend, switch_on
from tests.marketplace.webhooks.making import make

ASKS = "4000002760003184"
pytestmark = pytest.mark.django_db(transaction=True)


def kinds():
    return sorted(Delivery.objects.values_list("type", "channel"))


def test_tokens_that_run_low_are_told_once_until_there_are_enough_again(alice, receiver, sender):
    webhook = make(alice, receiver, types=["balance.low"])
    assert alice.patch("/v1/account/notifications", {"low_balance": "500"}).json()["low_balance"] == "500"
    tasks.watch_balances()
    assert kinds() == []
    spend(alice, 600_000)
    for _ in range(2):
        tasks.watch_balances()
    assert kinds() == [("balance.low", "endpoint"), ("balance.low", "mail")]
    sender.send()
    assert receiver.heard[0].verify(webhook["secret"])["data"] == {"available": "400", "threshold": "500"}
    (message,) = mail.outbox
    assert message.to == ["alice@example.com"]
    assert "400 Tokens are left, fewer than 500" in message.body
    wallets.grant(alice.account.id, 1_000_000, "more")
    tasks.watch_balances()
    spend(alice, 1_000_000)
    tasks.watch_balances()
    assert Delivery.objects.count() == 4


def test_what_happens_to_payments_is_told(shop, receiver, sender):
    """A cap that stops an automatic top-up, a card that is declined, and the end of trying."""
    webhook = make(shop.customer, receiver, types=["topup.cap_reached", "payment.failed", "topup.switched_off"])
    card = save_card(shop, switch_on(shop, daily_cap="5.00"))
    tasks.keep_payments()
    arrives(shop, 10_000_000)
    spend(shop.customer, 10_000_000)
    for _ in range(3):
        tasks.keep_payments()
    sender.send()
    (told,) = receiver.heard
    data = {"pack": "small", "price": "5.00", "daily_cap": "5.00", "currency": "eur"}
    assert told.verify(webhook["secret"])["type"] == "topup.cap_reached"
    assert told.event["data"] == data
    shop.control(f"payment_methods/{card}", number=DECLINED)
    assert shop.customer.put("/v1/topups/automatic", {**told_terms(), "daily_cap": "50.00"}).status_code == 200
    tasks.keep_payments()
    sender.send()
    failed = receiver.heard[-1].event
    assert (failed["type"], failed["data"]["price"], failed["data"]["automatic"]) == ("payment.failed", "5.00", True)
    assert shop.customer.get(f"/v1/topups/{failed['data']['topup']}").json()["status"] == "failed"
    shop.v1.payment_methods.detach(card)
    from billing.payments import automatic

    automatic.card_gone(shop.customer.account.id)
    sender.send()
    assert receiver.heard[-1].event["type"] == "topup.switched_off"
    subjects = [message.subject for message in mail.outbox]
    assert [subject.split(": ")[1] for subject in subjects][:2] == [
        "the daily cap stopped an automatic top-up", "a payment failed",
    ]  # fmt: skip


def test_a_bank_debit_that_fails_in_the_end_is_told_once(shop, receiver, sender, client):
    make(shop.customer, receiver, types=["payment.failed"])
    top_up = shop.buy("medium")
    event = completed(top_up, payment_status="unpaid") | {"type": "checkout.session.async_payment_failed"}
    for _ in range(2):
        assert send(client, event).status_code == 200
    sender.send()
    (told,) = receiver.heard
    assert told.event["data"] == {
        "topup": top_up["id"], "price": "20.00", "currency": "eur", "automatic": False, "failure": "declined",
    }  # fmt: skip
    assert kinds() == [("payment.failed", "endpoint"), ("payment.failed", "mail")]


def test_a_bank_that_wants_to_see_the_customer_is_told_with_the_page(shop, receiver, sender):
    make(shop.customer, receiver, types=["payment.action_required"])
    card = save_card(shop, switch_on(shop))
    shop.control(f"payment_methods/{card}", number=ASKS)
    for _ in range(3):
        tasks.keep_payments()
    sender.send()
    (told,) = receiver.heard
    top_up = shop.customer.get(f"/v1/topups/{told.event['data']['topup']}").json()
    assert (told.event["data"]["url"], top_up["status"]) == (top_up["url"], "open")
    assert top_up["url"] in mail.outbox[0].body
    assert shop.pay(top_up) == 303
    arrives(shop, 10_000_000)


def told_terms():
    from tests.marketplace.shops import AUTOMATIC

    return AUTOMATIC


DATA = {
    "available": "1", "threshold": "2", "price": "5.00", "daily_cap": "6.00", "currency": "eur", "failure": "declined",
    "reason": "gone", "url": "https://example.com/<b>", "pack": "small", "slug": "glaze", "version": 2,
    "amount": "20.00", "returned": "7.00",
}  # fmt: skip


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("kind", MAILED)
def test_each_kind_is_written_in_each_language_and_ended_by_its_link(alice, sender, settings, kind, language):
    settings.PUBLIC_URL = "https://kiln.example.com/"
    alice.account.name = "<i>Alice</i>"
    alice.account.save()
    alice.patch("/v1/account/notifications", {"language": language})
    events.tell(alice.account.id, kind, data=DATA)
    assert sender.send() == 1
    (message,) = mail.outbox
    ((page, page_type),) = message.alternatives
    assert ("\n" in message.subject, page_type) == (False, "text/html")
    assert ("Guten Tag" in message.body) == (language == "de")
    assert "<i>Alice</i>" in message.body
    assert "<i>" not in page
    assert not re.search(r"[{}]|None|: \.|\(\)", message.subject + message.body)
    link = message.extra_headers["List-Unsubscribe"].strip("<>")
    assert link in message.body
    assert message.extra_headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    path = link.removeprefix("https://kiln.example.com")
    browser = Client(enforce_csrf_checks=True)
    assert "<form" in browser.get(path).content.decode()
    assert alice.get("/v1/account/notifications").json()["muted"] == []
    for _ in range(2):
        assert browser.post(path, {"List-Unsubscribe": "One-Click"}).status_code == 200
    assert alice.get("/v1/account/notifications").json()["muted"] == [kind]
    events.tell(alice.account.id, kind, data=DATA)
    assert sender.send() == 0
    alice.patch("/v1/account/notifications", {"muted": []})
    events.tell(alice.account.id, kind, data=DATA)
    assert sender.send() == 1


def test_a_link_that_is_not_ours_ends_nothing(alice, settings):
    settings.PUBLIC_URL = "https://kiln.example.com"
    link = mails.address(uuid4(), "balance.low").removeprefix(settings.PUBLIC_URL)
    mine = mails.address(alice.account.id, "balance.low").removeprefix(settings.PUBLIC_URL)
    for path in (link, mine[:-1], "/unsubscribe/x", mine.replace("balance.low", "payment.failed")):
        assert Client().post(path).status_code == 404
    assert alice.get("/v1/account/notifications").json()["muted"] == []


def test_an_e_mail_that_no_server_takes_is_tried_again(alice, sender, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    events.tell(alice.account.id, "balance.low", data=DATA)
    sender.send()
    row = Delivery.objects.get()
    assert (row.status, row.attempts, row.error) == ("waiting", 1, "the mail server did not take it")


@pytest.mark.parametrize(
    ("body", "param"),
    [({"language": "fr"}, "language"), ({"low_balance": "0"}, "low_balance"), ({"muted": ["job.failed"]}, "muted")],
)
def test_what_an_account_cannot_want_is_refused(alice, body, param):
    answer = alice.patch("/v1/account/notifications", body)
    assert (answer.status_code, answer.json()["error"]["param"].split(".")[0]) == (422, param)


def test_what_is_told_of_one_account_stays_with_it(alice, bob):
    alice.patch("/v1/account/notifications", {"language": "de", "low_balance": "7"})
    seen = bob.get("/v1/account/notifications").json()
    assert seen == {"language": "en", "low_balance": None, "muted": [], "email": "bob@example.com"}


def test_the_mail_server_is_read_from_its_address(monkeypatch):
    monkeypatch.setenv("KILN_SMTP_URL", "smtp://me%40example.com:s%3Acret@mail.example.com")
    found = mail_server("KILN_SMTP_URL")
    assert (found["EMAIL_HOST"], found["EMAIL_PORT"], found["EMAIL_USE_TLS"]) == ("mail.example.com", 587, True)
    assert (found["EMAIL_HOST_USER"], found["EMAIL_HOST_PASSWORD"]) == ("me@example.com", "s:cret")
    monkeypatch.setenv("KILN_SMTP_URL", "smtps://mail.example.com")
    assert (mail_server("KILN_SMTP_URL")["EMAIL_PORT"], mail_server("KILN_SMTP_URL")["EMAIL_USE_SSL"]) == (465, True)
    monkeypatch.delenv("KILN_SMTP_URL")
    assert "console" in mail_server("KILN_SMTP_URL")["EMAIL_BACKEND"]
