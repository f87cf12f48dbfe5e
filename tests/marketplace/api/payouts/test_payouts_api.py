"""A maker says to Stripe who they are, is paid out, and has it in their statements; Stripe's thin events count."""

import csv
import io
from uuid import uuid4

import pytest
from pypdf import PdfReader

from billing.models import Payee, Payout, Wallet
from billing.tokens import lots, wallets
from devstack import processes
from marketplace.webhooks import events
from marketplace.webhooks.models import Delivery
from tests.marketplace.api.earnings.test_earnings_pages import use
from tests.marketplace.shops import heard

pytestmark = pytest.mark.django_db(transaction=True)
CHANGED = "v2.core.account[configuration.recipient].capability_status_updated"


@pytest.fixture
def maker(shop, settings):
    """Bob, whose adapter somebody else used for 20.00 EUR, and a platform that has money at Stripe."""
    settings.EARNINGS_DAYS = 0
    order = {"amount": 100_000, "currency": "eur", "payment_method": "pm_card_bypassPending", "confirm": True}
    shop.v1.payment_intents.create(
        {**order, "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"}}
    )
    wallets.create(shop.customer.account.id, Wallet.Kind.CREATOR)
    someone = uuid4()
    wallets.create(someone)
    wallets.purchase(someone, 1_000, 50_000, "eur", f"pi {someone}")
    use(someone, shop.customer.account.id, 40)
    lots.catch_up()
    return shop.customer


def onboard(shop, country="de"):
    answer = shop.customer.post("/v1/payouts/account", {"country": country})
    assert answer.status_code == 200, answer.content
    return answer.json()


@pytest.fixture
def payee(shop, maker):
    """The maker, whom Stripe pays since it said so by a thin event."""
    assert shop.pay(onboard(shop)) == 303
    assert processes.wait_until(lambda: Payee.objects.filter(status="active").exists(), 15)
    heard(CHANGED)
    return maker


def transfers(shop):
    made = shop.v1.transfers.list({"limit": 100}).data
    return [each for each in made if Payout.objects.filter(transfer_id=each.id).exists()]


def test_a_maker_is_paid_out_once_stripe_says_that_it_pays_them(shop, payee):
    assert payee.get("/v1/payouts/account").json()["status"] == "active"
    answers = [payee.post("/v1/payouts", {"currency": "eur"}, Idempotency_Key="once") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    payout = answers[0].json()
    assert (payout["status"], payout["amount"], payout["tokens"]) == ("paid", "20.00", "0.04")
    assert answers[1].json()["id"] == payout["id"]
    assert [each.amount for each in transfers(shop)] == [2_000]
    assert payee.get("/v1/payouts").json()["data"] == [payout]
    assert payee.get(f"/v1/payouts/{payout['id']}").json() == payout
    assert payee.get("/v1/earnings/summary").json()["purses"][0]["amount"] == "0"


def test_payouts_are_told_by_webhook_and_e_mail(payee):
    order = {"url": "https://example.com/hook", "types": ["payout.paid", "payout.failed"]}
    assert payee.post("/v1/webhooks", order).status_code == 201
    payout = payee.post("/v1/payouts", {"currency": "eur"}).json()
    events.tell_notices()
    told = list(Delivery.objects.order_by("channel").values_list("channel", "type", "data"))
    data = {"payout": payout["id"], "amount": "20.00", "currency": "eur"}
    assert told == [("endpoint", "payout.paid", data), ("mail", "payout.paid", data)]


def test_a_capability_that_is_lost_stops_payouts(shop, payee):
    shop.control(f"accounts/{Payee.objects.get().account_id}", recipient="restricted")
    assert processes.wait_until(lambda: Payee.objects.filter(status="inactive").exists(), 15)
    answer = payee.post("/v1/payouts", {"currency": "eur"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_a_payee")
    assert (Payout.objects.count(), transfers(shop)) == (0, [])


def test_a_thin_event_that_is_lost_is_made_up_for_by_looking(shop, maker):
    shop.fault("lose", "v2.core.account*")
    page = onboard(shop)
    assert maker.get("/v1/payouts/account").json()["status"] == "onboarding"
    assert shop.pay(page) == 303
    assert maker.get("/v1/payouts/account").json()["status"] == "active"


def test_an_onboarding_that_is_left_is_gone_on_with(shop, maker):
    assert shop.pay(onboard(shop), later="yes") == 303
    assert maker.post("/v1/payouts", {"currency": "eur"}).json()["error"]["code"] == "not_a_payee"
    assert shop.pay(onboard(shop)) == 303
    assert processes.wait_until(lambda: Payee.objects.filter(status="active").exists(), 15)


def test_elsewhere_earnings_are_spent_as_tokens(shop, maker):
    answer = maker.post("/v1/payouts/account", {"country": "br"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "country_not_paid")
    assert "/v1/earnings/spend" in answer.json()["error"]["message"]
    assert not Payee.objects.exists()
    before = wallets.balance(maker.account.id).total
    assert maker.post("/v1/earnings/spend", {}).status_code == 201
    assert wallets.balance(maker.account.id).total == before + 40


def test_less_than_the_minimum_is_refused(payee, settings):
    settings.PAYOUT_MINIMUMS = {"eur": 2_001}
    answer = payee.post("/v1/payouts", {"currency": "eur"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "below_minimum")
    assert "20.00 EUR" in answer.json()["error"]["message"]
    assert not Payout.objects.exists()


def test_a_year_is_in_its_statements(shop, payee):
    payee.post("/v1/payouts", {"currency": "eur"})
    year = f"{Payout.objects.get().created_at:%Y}"
    lines = list(csv.DictReader(io.StringIO(payee.get(f"/v1/earnings/years/{year}.csv").content.decode())))
    months, total = lines[:-1], lines[-1]
    assert (total["month"], total["currency"], total["earned"], total["worth"], total["paid_out"]) == (
        "", "eur", "0.04", "20.00", "20.00",
    )  # fmt: skip
    assert sum(float(each["paid_out"]) for each in months) == 20.0
    page = PdfReader(io.BytesIO(payee.get(f"/v1/earnings/years/{year}.pdf").content)).pages[0].extract_text()
    assert f"Earnings of {year}" in page
    assert page.count("20.00") >= 4
    text = b"".join(payee.get("/v1/earnings.csv").streaming_content).decode()
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["amount"], row["currency"], row["worth"], row["state"]) == ("0.04", "eur", "20.00", "matured")
