"""What makers see of their earnings, how they spend it, and that nobody else sees any of it."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from billing.models import Earning, Exchange, Wallet
from billing.tokens import earnings, lots, marketing, proof, wallets
from billing.tokens.wallets import Share

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def proven():
    yield
    assert proof.check() == []


@pytest.fixture
def maker(alice):
    wallets.create(alice.account.id, Wallet.Kind.CREATOR)
    return alice


def use(customer: UUID, maker: UUID, share: int) -> UUID:
    """A picture of 100 milli-Tokens, of which the maker gets a share; the job."""
    wallets.hold(customer, 100, job := uuid4(), timedelta(hours=1))
    wallets.capture(job, 100, [Share(maker, share), Share("platform", 100 - share)])
    return job


@pytest.fixture
def jobs(maker, someone_else):
    """Two uses, one of 20 granted Tokens' 30 and one that was half refunded."""
    wallets.grant(someone_else, 20, "a gift")
    wallets.purchase(someone_else, 1_000, 500, "eur", "pi_1")
    made = [use(someone_else, maker.account.id, 30), use(someone_else, maker.account.id, 40)]
    wallets.refund(made[1], 50, "half")
    lots.catch_up()
    return made


@pytest.fixture
def someone_else() -> UUID:
    owner = uuid4()
    wallets.create(owner)
    return owner


def test_each_use_is_an_entry_that_does_not_tell_whose_it_was(maker, jobs, someone_else):
    answer = maker.get("/v1/earnings")
    second, first = answer.json()["data"]
    assert (first["amount"], first["worth"], first["state"]) == ("0.03", {"eur": "0.05"}, "maturing")
    assert (second["amount"], second["taken_back"], second["worth"]) == ("0.04", "0.02", {"eur": "0.10"})
    assert not [each for each in (*jobs, someone_else) if str(each).encode() in answer.content]
    assert first["use"] != second["use"]


def test_pages_fit_together(maker, jobs):
    first = maker.get("/v1/earnings?limit=1").json()
    second = maker.get(f"/v1/earnings?limit=1&cursor={first['next_cursor']}").json()
    assert second["next_cursor"] is None
    assert [*first["data"], *second["data"]] == maker.get("/v1/earnings").json()["data"]
    assert maker.get("/v1/earnings?cursor=x").status_code == 422


def test_the_summary_says_what_is_ready_once_it_has_matured(maker, jobs, settings):
    marketing.weigh()
    early = maker.get("/v1/earnings/summary").json()
    assert [(each["currency"], each["amount"], each["ready"]) for each in early["purses"]] == [
        (None, "0.02", "0"), ("eur", "0.03", "0"),
    ]  # fmt: skip
    settings.EARNINGS_DAYS = 0
    purses = maker.get("/v1/earnings/summary").json()["purses"]
    assert [(each["ready"], each["ready_worth"]) for each in purses] == [("0.02", None), ("0.03", "0.15")]


def test_what_has_matured_is_spent_as_tokens_once_for_each_key(maker, jobs, settings):
    before = wallets.balance(maker.account.id).total
    refused = maker.post("/v1/earnings/spend", {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "nothing_matured")
    assert not Exchange.objects.exists()
    settings.EARNINGS_DAYS = 0
    answers = [maker.post("/v1/earnings/spend", {}, Idempotency_Key="once") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert [(each["amount"], each["currency"], each["worth"]) for each in answers[0].json()["data"]] == [
        ("0.02", None, None), ("0.03", "eur", "0.15"),
    ]  # fmt: skip
    assert wallets.balance(maker.account.id).total == before + 50
    (newest, _) = maker.get("/v1/transfers?limit=2").json()["data"]
    assert (newest["kind"], newest["amount"]) == ("exchange", "0.03")
    other = maker.post("/v1/earnings/spend", {"amount": "0.01"}, Idempotency_Key="once")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_more_than_is_ready_is_refused_and_moves_nothing(maker, jobs, settings):
    settings.EARNINGS_DAYS = 0
    answer = maker.post("/v1/earnings/spend", {"amount": "0.051"})
    assert answer.status_code == 409
    assert not Exchange.objects.exists()


def test_nobody_else_sees_or_spends_them(maker, jobs, bob, settings):
    settings.EARNINGS_DAYS = 0
    assert bob.get("/v1/earnings").json() == {"data": [], "next_cursor": None}
    assert bob.get("/v1/earnings/summary").json()["purses"] == []
    assert bob.post("/v1/earnings/spend", {}).status_code == 409
    assert sum(each.amount for each in Earning.objects.all()) == 70
    assert sum(each.ready for each in earnings.purses(earnings.maker_of(maker.account.id))) == 50 - 20
