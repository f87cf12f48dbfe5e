"""The operator's pages: what they show, what they refuse, and that they stay fast however many rows there are."""

import re
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from billing.models import MINT_ID, PLATFORM_ID, AutomaticTopUp, Hold, Payer, PriceListVersion, TopUp, Transfer, Wallet
from billing.prices import packs, price_lists
from billing.tokens import debts, wallets
from marketplace.accounts.models import STANDARD, Account, ApiKey, Person
from marketplace.approvals.models import Request
from marketplace.console import tables
from marketplace.jobs import lifecycle
from marketplace.jobs.models import Job, Worker
from marketplace.maintenance.models import PeriodicTask
from marketplace.webhooks import endpoints
from marketplace.webhooks.models import Delivery, Endpoint
from tests.marketplace.console.operators import browser, delivered, job_of, queries, staff, text

pytestmark = pytest.mark.django_db

LISTS = (
    "jobs/job", "jobs/worker", "accounts/account", "accounts/apikey", "accounts/person", "accounts/tier", "auth/group",
    "billing/wallet", "billing/hold", "billing/transfer", "billing/pricelistversion", "billing/pack",
    "billing/topup", "billing/automatictopup", "audit/record", "approvals/request", "lora/maker", "billing/earning",
    "billing/payout", "billing/payee", "billing/marketing",
)  # fmt: skip
UNKNOWN = "01a1fe8f-d576-7a0d-b330-5968c97979f7"
NARROWED = (
    "jobs/job/?status__exact=queued", "jobs/job/?created=day", "jobs/job/?q=alice@example.com",
    f"jobs/job/?q={UNKNOWN}",
    "billing/transfer/?kind=grant", "billing/transfer/?kind=capture", f"billing/transfer/?q={UNKNOWN}",
    "billing/hold/?state=open", f"billing/hold/?q={UNKNOWN}", "billing/wallet/?q=alice@example.com",
    "billing/topup/?q=alice@example.com", "billing/topup/?q=pi_1",
    "accounts/account/?q=ali", "accounts/account/?q=kiln_abc", "accounts/apikey/?q=kiln_abc", "accounts/person/?q=ali",
)  # fmt: skip


# --- lists ---


@pytest.mark.parametrize("path", [f"{path}/" for path in LISTS] + list(NARROWED))
def test_a_list_counts_no_further_than_its_bound_and_asks_as_much_for_many_rows_as_for_few(
    operator, alice, order, picture, path
):
    """Neither a count of all rows nor a query a row: that is what stays fast with a million."""
    delivered(alice, order, picture)
    job_of(alice, order)
    text(operator, path)  # the content types that permissions want are cached now
    few = queries(operator, path)
    for _ in range(2):
        delivered(alice, order, picture)
        job_of(alice, order)
    many = queries(operator, path)
    assert len(many) == len(few) <= 8
    for sql in many:
        assert "COUNT(" not in sql.upper() or f"LIMIT {tables.FAR + 1}" in sql, sql


def test_a_list_shows_the_newest_rows_up_to_its_bound_and_says_that_there_are_more(operator, alice, order, monkeypatch):
    monkeypatch.setattr(tables, "FAR", 3)
    oldest, *_ = [job_of(alice, order, prompt=f"pot {number}") for number in range(4)]
    page = text(operator, "jobs/job/")
    assert "the newest 3 jobs" in page
    assert str(oldest.id) in text(operator, f"jobs/job/?q={oldest.id}")
    monkeypatch.setattr(tables, "FAR", 4)
    assert "4 jobs" in text(operator, "jobs/job/")


def test_the_rows_beyond_the_first_page_are_a_click_away(operator, alice, order):
    prompts = [f"pot number {number:02}" for number in range(30)]
    for prompt in prompts:
        job_of(alice, order, prompt=prompt)
    first, second = text(operator, "jobs/job/"), text(operator, "jobs/job/?p=2")
    shown = [[prompt for prompt in prompts if prompt in page] for page in (first, second)]
    assert sorted(shown[0] + shown[1]) == prompts
    assert "?p=2" in first


@pytest.mark.parametrize("term", ["{account}", "ALICE@example.com", "{job}"])
def test_jobs_are_found_by_job_account_and_address(operator, alice, bob, order, term):
    wallets.grant(bob.account.id, 10_000, "a grant")
    job, other = job_of(alice, order), job_of(bob, order)
    page = text(operator, f"jobs/job/?q={term.format(account=alice.account.id, job=job.id)}")
    assert str(job.id) in page
    assert str(other.id) not in page


def test_transfers_are_found_by_job(operator, alice, order, picture):
    first, second = delivered(alice, order, picture), delivered(alice, order, picture)
    page = text(operator, f"billing/transfer/?q={first.id}")
    assert str(first.id) in page
    assert str(second.id) not in page


def test_long_prompts_are_cut_and_nothing_in_them_is_markup(operator, alice, order):
    job = job_of(alice, order, prompt="<script>alert(1)</script> " + "clay " * 300 + "the end")
    page = text(operator, "jobs/job/")
    assert "<script>alert" not in page
    assert "the end" not in page
    whole = text(operator, f"jobs/job/{job.id}/change/")
    assert "<script>alert" not in whole
    assert "the end" in whole


# --- money, keys, people ---


@pytest.mark.parametrize("model", [Wallet, Hold, Transfer, PriceListVersion, Job, Worker, Endpoint, Delivery])
def test_not_even_a_superuser_adds_changes_or_deletes_by_hand(operator, alice, order, picture, model):
    delivered(alice, order, picture)
    Worker.objects.create(name="w1", model="kiln-house", revision="1", seen_at=timezone.now())
    endpoints.test(endpoints.create(alice.account.id, "https://example.com/", ["job.failed"])[0])
    path = f"/admin/{model._meta.app_label}/{model._meta.model_name}"
    row = model.objects.first()
    before = model.objects.values().order_by("pk")
    kept = list(before)
    assert operator.get(f"{path}/add/").status_code == 403
    assert operator.post(f"{path}/{row.pk}/change/", {"amount": 1, "balance": 1}).status_code == 403
    assert operator.post(f"{path}/{row.pk}/delete/", {"post": "yes"}).status_code == 403
    operator.post(f"{path}/", {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert list(before.all()) == kept


def test_webhooks_and_their_deliveries_are_shown_without_their_secrets(operator, alice, bob):
    endpoint, secret = endpoints.create(alice.account.id, "https://example.com/hook", ["job.failed"])
    delivery = endpoints.test(endpoint)
    other, _ = endpoints.create(bob.account.id, "https://example.org/", ["job.failed"])
    for path in ("webhooks/endpoint/", f"webhooks/endpoint/{endpoint.id}/change/"):
        page = text(operator, path)
        assert "https://example.com/hook" in page
        assert not {secret, str(endpoint.seed), endpoint.seed.hex} & set(page.split())
    assert "webhook.test" in text(operator, f"webhooks/delivery/{delivery.id}/change/")
    for term in (endpoint.id, delivery.id, alice.account.id, "alice@example.com"):
        assert str(delivery.id) in text(operator, f"webhooks/delivery/?q={term}")
    assert str(delivery.id) not in text(operator, f"webhooks/delivery/?q={other.id}")
    assert str(other.id) not in text(operator, "webhooks/endpoint/?q=alice@example.com")


def test_a_key_that_is_revoked_here_opens_nothing(operator, alice):
    assert alice.get("/v1/balance").status_code == 200
    page = text(operator, f"accounts/apikey/{alice.key_id}/change/")
    assert alice.key.split("_")[1] in page
    assert alice.key.split("_", 2)[2] not in page
    operator.post(f"/admin/accounts/apikey/{alice.key_id}/revoke/", {"_form_submitted": "on"})
    assert alice.get("/v1/balance").status_code == 401
    assert ApiKey.objects.get(id=alice.key_id).revoked_at is not None


def test_the_operator_sets_an_accounts_time_zone_and_caps(operator, alice):
    page = f"/admin/accounts/account/{alice.account.id}/change/"
    inline = {"keys-TOTAL_FORMS": 0, "keys-INITIAL_FORMS": 0}
    form = {"name": "Alice", "is_active": "on", "tier": STANDARD, "time_zone": "Asia/Tokyo", "daily_cap": "5", **inline}
    assert operator.post(page, form).status_code == 302
    account = Account.objects.get(id=alice.account.id)
    assert (account.time_zone, account.daily_cap, account.name) == ("Asia/Tokyo", 5000, "Alice")
    assert account.day_until > account.day_from
    assert operator.post(page, {**form, "time_zone": "Europe/Atlantis"}).status_code == 200
    account.refresh_from_db()
    assert account.time_zone == "Asia/Tokyo"


def test_a_periodic_task_that_is_late_is_on_the_first_page(operator):
    PeriodicTask.objects.create(name="keep_payments", finished_at=timezone.now() - timedelta(minutes=9))
    assert "keep_payments" in text(operator, "")


def test_an_account_shows_its_person_keys_and_tokens(operator, alice, order):
    job_of(alice, order)
    page = text(operator, f"accounts/account/{alice.account.id}/change/")
    for shown in ("alice@example.com", "first key", "1,000 Tokens", "1.25 Tokens"):
        assert shown in page


def test_a_wallet_shows_its_lots_and_that_it_is_frozen(operator, bob, order, picture):
    top_up = TopUp.objects.create(
        id=uuid4(), owner=bob.account.id, pack=packs.find("small"), currency="eur", price_minor=500, order={},
        created_at=timezone.now(), expires_at=timezone.now() + timedelta(hours=23),
    )  # fmt: skip
    lot = wallets.purchase(bob.account.id, 10_000, 500, "eur", f"purchase:{top_up.id}", reference=top_up.id)
    assert f"Top-up {top_up.id}" in text(operator, "billing/transfer/?kind=purchase")
    delivered(bob, order, picture)
    wallet = f"billing/wallet/{Wallet.objects.get(owner=bob.account.id).pk}/change/"
    account = f"accounts/account/{bob.account.id}/change/"
    page = text(operator, wallet)
    for shown in ("8.75 Tokens of 10 Tokens", "paid, 5.00 EUR", "no expiry"):
        assert shown in page, shown
    assert "frozen" not in page + text(operator, account)
    debts.claw_back(lot, 500, "dispute", "dp_1")
    assert "frozen" in text(operator, wallet)
    assert "frozen" in text(operator, account)


def test_only_a_superuser_changes_rights(alice):
    helper = staff("view_person", "change_person", "add_person", "change_group")
    person = alice.account.owner
    assert helper.post(f"/admin/accounts/person/{person.pk}/change/", {"is_superuser": "on"}).status_code == 403
    assert helper.get("/admin/accounts/person/add/").status_code == 403
    assert not Person.objects.filter(is_superuser=True).exists()


def test_a_person_is_added_with_a_small_letter_address_and_can_log_in(operator):
    secret = "glaze-and-embers"
    form = {"email": "Carol@Example.com", "usable_password": "true", "password1": secret, "password2": secret}
    assert operator.post("/admin/accounts/person/add/", form).status_code == 302
    assert Client().login(email="carol@example.com", password=secret)


# --- the dashboard ---


def test_the_dashboard_shows_todays_tokens_open_jobs_and_the_last_failure(operator, alice, order, picture):
    delivered(alice, order, picture)
    job_of(alice, order, service_class="batch")
    failed = lifecycle.claim(job_of(alice, order, prompt="a cracked bowl").id, "w1")
    lifecycle.fail(failed, "engine_failed", "The picture could not be made.", retry=False)
    Worker.objects.create(name="old", model="m", revision="r", warm=True, seen_at=timezone.now() - timedelta(minutes=5))
    Worker.objects.create(name="new", model="m", revision="r", warm=True, seen_at=timezone.now())
    yesterday = timezone.now() - timedelta(days=1)
    wallet = Wallet.objects.get(owner=alice.account.id)
    for source, kind, reference in ((MINT_ID, "grant", None), (PLATFORM_ID, "refund", uuid4())):
        Transfer.objects.create(
            source_id=source, target=wallet, amount=77, kind=kind, reference=reference,
            idempotency_key=kind, created_at=yesterday, balance=77,
        )  # fmt: skip
    page = operator.get("/admin/")
    found = page.context["figures"]
    today = {"held": "0.625 Tokens", "grant": "1,000 Tokens", "capture": "1.25 Tokens"}
    assert found["tokens"] == dict.fromkeys(Transfer.Kind.values, "0 Tokens") | today
    assert {status: count for status, count, _ in found["jobs"]} == {
        "queued": 1, "running": 0, "succeeded": 1, "failed": 1, "canceled": 0
    }  # fmt: skip
    assert [(name, count) for name, count, _ in found["queues"]] == [("interactive", 0), ("standard", 0), ("batch", 1)]
    assert found["alive"] == 1
    assert found["pictures"] == 1
    assert "a cracked bowl" in page.content.decode()


def test_the_dashboard_reads_indexes_only(operator, alice, order, picture):
    """With sequential scans forbidden, a plan that still has one has no index to use instead."""
    delivered(alice, order, picture)
    found = [sql for sql in queries(operator, "") if "jobs_" in sql or "billing_" in sql]
    assert len(found) >= 6
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        for sql in found:
            cursor.execute(f"EXPLAIN {sql}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "Seq Scan" not in plan or "Seq Scan on jobs_worker" in plan, plan


def test_an_operator_without_rights_to_the_figures_sees_none(alice, order):
    job_of(alice, order, prompt="a secret glaze")
    page = text(staff("view_account"), "")
    assert "Accounts" in page
    assert "Captured" not in page
    assert "/admin/billing/" not in page


def test_empty_pages_say_so(operator):
    page = text(operator, "")
    assert "No job has failed." in page
    assert "No worker has been seen" in page
    assert "No jobs yet" in text(operator, "jobs/job/")
    assert "Nothing found" in text(operator, "jobs/job/?q=nobody@example.com")


# --- what every page keeps to ---


@pytest.mark.parametrize("path", ["", "jobs/job/", "billing/transfer/"])
def test_customers_and_strangers_are_sent_to_the_login(alice, path):
    for client in (Client(), browser(alice.account.owner)):
        answer = client.get(f"/admin/{path}")
        assert answer.status_code == 302
        assert answer["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("path", ["/", "/docs", "/admin/", "/admin/login/", "/admin/jobs/job/"])
def test_pages_load_nothing_from_elsewhere_and_say_so_to_the_browser(operator, path):
    answer = operator.get(path, follow=True)
    page = answer.content.decode()
    assert not re.findall(r'(?:src|href|action)="(?:https?:)?//[^"]*"', page)
    policy = answer["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    scripts = re.search(r"script-src ([^;]*)", policy)
    assert "'self'" in scripts[1] if scripts else "<script" not in page, "the page's own scripts are let through"
    assert scripts is None or "'unsafe-inline'" not in scripts[1]
    assert not re.search(r"<script(?![^>]*\bsrc=)", page), "the policy forbids inline scripts"


def test_the_home_page_leads_to_pages_that_exist(alice):
    page = Client().get("/").content.decode()
    links = re.findall(r'<a href="([^"]+)"', page)
    assert {"/docs", "/v1/models", "/v1/packs", "/admin/", "/readyz"} == set(links)
    for link in links:
        assert Client().get(link).status_code in {200, 302, 503}


def test_prices_are_shown_with_their_units(operator):
    page = text(operator, f"billing/pricelistversion/{price_lists.current().version}/change/")
    for shown in ("100 Tokens", "25 characters", "interactive × 1.5", "× 0.25 of a step"):
        assert shown in page


def test_a_pack_is_changed_by_request_and_taken_off_sale_at_once(operator):
    old = packs.find("small")
    page = f"/admin/billing/pack/{old.pk}"
    sent = {"_form_submitted": "on", "request_id": str(uuid4()), "reason": "cheaper"}
    form = sent | {"tokens": "9000.5", "bonus": "0", "prices": '{"eur": 450}'}
    assert "10000" in operator.get(f"{page}/new_version/").content.decode()
    wrong = operator.post(f"{page}/new_version/", form | {"prices": '{"euro": 450}'})
    assert "is no currency that packs can be priced in" in wrong.content.decode()
    operator.post(f"{page}/new_version/", form)
    assert packs.find("small") == old
    asked = Request.objects.get()
    assert asked.arguments == {"name": "small", "tokens": 9_000_500, "bonus": 0, "prices": {"eur": 450}}
    operator.post("/admin/billing/pack/new_pack/", form | {"name": "tiny", "request_id": str(uuid4())})
    assert Request.objects.filter(status="pending").count() == 2
    operator.post(f"{page}/stop_sale/", {"_form_submitted": "on"})
    assert [pack.name for pack in packs.offered()] == ["medium", "large"]


def test_an_automatic_top_up_is_shown_with_its_card_and_cannot_be_changed(operator, alice):
    order = {"email": "alice@example.com", "success_url": "http://127.0.0.1", "cancel_url": "http://127.0.0.1"}
    AutomaticTopUp.objects.create(
        owner=alice.account.id, pack=packs.find("small"), currency="eur", threshold=500_000, daily_cap_minor=1500,
        status="off", reason="card_declined", order=order,
    )  # fmt: skip
    card = {"brand": "visa", "last4": "4242", "exp_month": 3, "exp_year": 2034}
    Payer.objects.create(owner=alice.account.id, customer_id="cus_1", card_id="pm_1", card=card)
    for path in ("billing/automatictopup/?q=alice@example.com", f"billing/automatictopup/{alice.account.id}/change/"):
        page = text(operator, path)
        for shown in ("card_declined", "small", "5.00 EUR", "500 Tokens", "15.00", "visa …4242, 03/2034"):
            assert shown in page, shown
    assert operator.post(f"/admin/billing/automatictopup/{alice.account.id}/change/", {}).status_code == 403
