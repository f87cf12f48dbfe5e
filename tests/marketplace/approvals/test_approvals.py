"""What operators ask for: at once within their limit, by a second person above it, and each thing once.

After each test ledger and audit must be right.
"""

import io
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client

from billing.errors import IdempotencyMismatch
from billing.models import Transfer
from billing.prices import packs, price_lists
from billing.tokens import debts, lots, wallets
from marketplace.accounts.models import Person
from marketplace.approvals import acts, requests
from marketplace.approvals.acts import DebtWaiver, Grant, JobRefund, PackChange, PriceListChange
from marketplace.approvals.models import Request
from marketplace.approvals.requests import AlreadyDecided, NotAllowed, OwnRequest, Refused
from marketplace.audit.models import Record
from marketplace.identifiers import uuid7
from marketplace.jobs import lifecycle, submission
from tests.marketplace.people import check_ledger
from tests.threads import together

pytestmark = pytest.mark.django_db(transaction=True)
THREADS = 8
BIG, SMALL = 200_000_000, 1_000


def staff(name, *permissions):
    person = Person.objects.create_user(f"{name}@example.com", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return Person.objects.get(pk=person.pk)


@pytest.fixture
def dora():
    """She asks."""
    return staff("dora", "ask_grant", "ask_refund", "ask_prices", "decide_request", "view_request", "view_account")


@pytest.fixture
def emil():
    """He decides."""
    return staff("emil", "decide_request", "view_request")


@pytest.fixture(autouse=True)
def books_are_right(transactional_db):
    yield
    assert check_ledger().startswith("ledger ok")
    call_command("check_audit", stdout=io.StringIO())


@pytest.fixture
def job(alice, order, picture):
    """One of alice's that was charged 1.25 Tokens."""
    made = submission.submit(alice.account.id, order(), key_id=alice.key_id).job
    lifecycle.complete(claimed := lifecycle.claim(made.id, "w1"), [picture(claimed)], {})
    return made


def grant(customer, amount):
    return Grant(str(customer.account.id), amount)


def browser(person):
    client = Client()
    client.force_login(person)
    return client


# --- within the limit and above it ---


def test_a_grant_within_the_limit_happens_at_once_and_names_who_and_why(dora, bob):
    done = requests.ask(dora, grant(bob, SMALL), "a broken batch")
    assert (done.status, done.needs_approval, bob.balance) == ("executed", False, (SMALL, 0))
    actor, details = Record.objects.filter(act="request.executed").values_list("actor", "details").get()
    assert (actor, details["reason"]) == (f"person {dora.pk} dora@example.com", "a broken batch")
    assert Record.objects.filter(act="grant").latest("seq").actor == actor


def test_above_the_limit_nothing_moves_until_another_person_approves(dora, emil, bob):
    asked = requests.ask(dora, grant(bob, BIG), "a large customer")
    assert (asked.status, bob.balance) == ("pending", (0, 0))
    with pytest.raises(OwnRequest):
        requests.approve(dora, asked.id)
    assert bob.balance == (0, 0)
    done = requests.approve(emil, asked.id)
    assert (done.status, done.decided_by, bob.balance) == ("executed", emil, (BIG, 0))
    with pytest.raises(AlreadyDecided, match="already executed"):
        requests.approve(emil, asked.id)
    assert bob.balance == (BIG, 0)
    actors = list(Record.objects.filter(object=f"request {asked.id}").order_by("seq").values_list("actor", "act"))
    assert actors == [
        (f"person {dora.pk} dora@example.com", "request.pending"),
        (f"person {emil.pk} emil@example.com", "request.executed"),
    ]


def test_many_small_grants_of_one_day_are_one_large_one(dora, bob, settings):
    settings.GRANT_LIMIT = 3
    statuses = [requests.ask(dora, grant(bob, SMALL), f"the {turn}th").status for turn in range(4)]
    assert statuses == ["executed"] * 3 + ["pending"]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE approvals_request SET asked_at = asked_at - interval '25 hours'")
    assert requests.ask(dora, grant(bob, SMALL), "tomorrow").status == "executed"


def test_many_small_grants_at_the_same_moment_are_one_large_one(dora, bob, settings):
    settings.GRANT_LIMIT = 3
    found = together(THREADS, lambda number: requests.ask(dora, grant(bob, SMALL), f"the {number}th").status)
    assert sorted(found) == ["executed"] * 3 + ["pending"] * (THREADS - 3)
    assert bob.balance == (3 * SMALL, 0)


def test_rejected_and_late_requests_are_never_carried_out(dora, emil, bob):
    asked = [requests.ask(dora, grant(bob, BIG), "please") for _ in range(2)]
    assert requests.reject(emil, asked[0].id, "too much").note == "too much"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE approvals_request SET expires_at = now() WHERE id = %s", [asked[1].id])
    for request in asked:
        with pytest.raises(AlreadyDecided):
            requests.approve(emil, request.id)
    requests.keep()
    assert sorted(Request.objects.values_list("status", flat=True)) == ["expired", "rejected"]
    assert bob.balance == (0, 0)


def test_only_staff_with_the_right_ask_and_decide(dora, emil, alice, bob):
    with pytest.raises(NotAllowed):
        requests.ask(emil, grant(bob, SMALL), "I may not")
    with pytest.raises(NotAllowed):
        requests.ask(alice.account.owner, grant(alice, SMALL), "for me")
    asked = requests.ask(dora, grant(bob, BIG), "please")
    for person in (staff("finn", "ask_grant", "view_request"), alice.account.owner):
        for verb in (requests.approve, lambda who, what: requests.reject(who, what, "no")):
            with pytest.raises(NotAllowed):
                verb(person, asked.id)
    Person.objects.filter(pk=emil.pk).update(is_active=False)
    with pytest.raises(NotAllowed):
        requests.approve(Person.objects.get(pk=emil.pk), asked.id)
    assert (Request.objects.get().status, bob.balance) == ("pending", (0, 0))


# --- once ---


def test_two_who_approve_at_once_carry_it_out_once(dora, emil, bob):
    finn = staff("finn", "decide_request")
    asked = requests.ask(dora, grant(bob, BIG), "please")
    found = together(THREADS, lambda number: requests.approve((emil, finn)[number % 2], asked.id).status)
    assert [type(each) for each in found].count(AlreadyDecided) == THREADS - 1
    assert found.count("executed") == 1
    assert bob.balance == (BIG, 0)


def test_approving_and_rejecting_at_once_does_one_of_them(dora, emil, bob):
    finn = staff("finn", "decide_request")
    asked = requests.ask(dora, grant(bob, BIG), "please")

    def decide(number):
        return requests.approve(emil, asked.id) if number % 2 else requests.reject(finn, asked.id, "no")

    decided = [each for each in together(THREADS, decide) if isinstance(each, Request)]
    assert len(decided) == 1
    assert bob.balance == ((BIG, 0) if decided[0].status == "executed" else (0, 0))


def test_the_same_form_sent_by_many_threads_asks_once(dora, bob):
    request_id = uuid7()
    found = together(THREADS, lambda _: requests.ask(dora, grant(bob, SMALL), "once", request_id).status)
    assert found == ["executed"] * THREADS
    assert bob.balance == (SMALL, 0)
    with pytest.raises(IdempotencyMismatch):
        requests.ask(dora, grant(bob, SMALL + 1), "once", request_id)


def test_a_job_is_never_refunded_more_than_it_was_charged(dora, job, alice):
    wallet = alice.balance
    assert requests.ask(dora, JobRefund(str(job.id), 250), "a stripe").status == "executed"
    found = together(THREADS, lambda _: requests.ask(dora, JobRefund(str(job.id), 500), "the rest"))
    assert [type(each) for each in found].count(Refused) == THREADS - 2
    assert alice.balance == (wallet[0] + 1_250, 0)
    assert (lots.cost(job.id).parts, Request.objects.count()) == ([], 3)
    with pytest.raises(Refused, match="At most 0 Tokens"):
        requests.ask(dora, JobRefund(str(job.id), 1), "more")


def test_what_cannot_be_carried_out_any_more_stays_pending_and_changes_nothing(dora, emil, job, alice, settings):
    settings.REFUND_LIMIT = 0
    asked = [requests.ask(dora, JobRefund(str(job.id), 1_000), "a crack") for _ in range(2)]
    requests.approve(emil, asked[0].id)
    after = alice.balance
    with pytest.raises(Refused):
        requests.approve(emil, asked[1].id)
    assert alice.balance == after
    assert Request.objects.get(id=asked[1].id).status == "pending"


# --- debts ---


@pytest.fixture
def debt(bob, order, picture):
    """bob spent 1.25 paid Tokens, and their payment was disputed."""
    lot = wallets.purchase(bob.account.id, 1_250, 100, "eur", "payment 1")
    claimed = lifecycle.claim(submission.submit(bob.account.id, order()).job.id, "w1")
    lifecycle.complete(claimed, [picture(claimed)], {})
    return debts.claw_back(lot, 100, "dispute", "dp_1")


def test_a_debt_is_seen_and_waived_in_the_console_and_the_account_is_free_again(dora, bob, debt):
    dora.user_permissions.add(Permission.objects.get(codename="view_clawback"))
    client, page = browser(dora), f"/admin/billing/clawback/{debt.id}"
    listed = client.get("/admin/billing/clawback/?state=open").content.decode()
    assert "bob@example.com" in listed
    assert "1.25 Tokens" in listed
    assert f"{page}/waive/" in client.get(f"{page}/change/").content.decode()
    assert bob.get("/v1/balance").json()["frozen"] is True
    form = {"_form_submitted": "on", "request_id": str(uuid4()), "reason": "an old customer"}
    answer = client.post(f"{page}/waive/", form)
    assert "the debt of 1.25 Tokens is waived" in client.get(answer["HX-Redirect"]).content.decode()
    assert bob.get("/v1/balance").json()["frozen"] is False
    assert Record.objects.get(act="debt.waived").actor == f"person {dora.pk} dora@example.com"
    assert f"{page}/waive/" not in client.get(f"{page}/change/").content.decode()
    assert "bob@example.com" not in client.get("/admin/billing/clawback/?state=open").content.decode()


def test_a_large_debt_takes_two_and_one_that_was_paid_meanwhile_is_not_waived(dora, emil, bob, debt, settings):
    settings.REFUND_LIMIT = 0
    asked = requests.ask(dora, DebtWaiver(str(debt.id), 1_250), "please")
    assert (asked.status, bob.get("/v1/balance").json()["frozen"]) == ("pending", True)
    wallets.purchase(bob.account.id, 1_250, 100, "eur", "payment 2")
    with pytest.raises(Refused, match="already settled"):
        requests.approve(emil, asked.id)
    with pytest.raises(Refused, match="settled"):
        requests.ask(dora, DebtWaiver(str(debt.id), 1_250), "again")


# --- prices ---


def terms():
    return {name: value for name, value in vars(price_lists.current()).items() if name != "version"}


def test_a_price_list_takes_two_whatever_it_says(dora, emil):
    dearer = PriceListChange(**terms() | {"base_cost": 120_000})
    asked = requests.ask(dora, dearer, "energy")
    assert (asked.status, price_lists.current().version) == ("pending", 2)
    requests.approve(emil, asked.id)
    assert (price_lists.current().version, price_lists.current().base_cost) == (3, 120_000)


@pytest.mark.parametrize("change", [{"base_cost": 0}, {"skipped_step": 1001}, {"operations": {"generate": 1}}])
def test_a_price_list_that_cannot_be_is_refused_when_it_is_asked_for(dora, change):
    with pytest.raises(Refused):
        requests.ask(dora, PriceListChange(**terms() | change), "a slip")
    assert not Request.objects.exists()


def test_a_pack_takes_two(dora, emil):
    asked = requests.ask(dora, PackChange("tiny", 1_000, 0, {"eur": 60}), "for schools")
    assert "tiny" not in [pack.name for pack in packs.offered()]
    requests.approve(emil, asked.id)
    assert packs.find("tiny").prices == {"eur": 60}


# --- what the database itself refuses ---


@pytest.mark.parametrize(
    "change",
    [
        "status = 'executed', ended_at = now()",
        "status = 'executed', ended_at = now(), decided_by_id = asked_by_id",
        "arguments = '{}'",
        "needs_approval = false",
        "asked_by_id = (SELECT max(id) FROM accounts_person)",
        "reason = 'another'",
    ],
)
def test_no_statement_approves_ones_own_request_or_changes_its_terms(dora, emil, bob, change):
    requests.ask(dora, grant(bob, BIG), "please")
    with pytest.raises(IntegrityError), connection.cursor() as cursor:
        cursor.execute(f"UPDATE approvals_request SET {change}")
    with pytest.raises(IntegrityError), connection.cursor() as cursor:
        cursor.execute("DELETE FROM approvals_request")


def test_what_was_carried_out_is_never_opened_again(dora, bob):
    requests.ask(dora, grant(bob, SMALL), "please")
    with pytest.raises(IntegrityError, match="is executed already"), connection.cursor() as cursor:
        cursor.execute("UPDATE approvals_request SET status = 'pending', ended_at = NULL")


# --- the pages ---


def test_a_grant_is_asked_for_and_approved_in_the_console(dora, emil, bob):
    page = f"/admin/accounts/account/{bob.account.id}"
    asking, deciding = browser(dora), browser(emil)
    assert f"{page}/grant/" in asking.get(f"{page}/change/").content.decode()
    form = {"_form_submitted": "on", "request_id": str(uuid4()), "amount": "200000.5", "reason": "a <b>large</b> one"}
    missing = asking.post(f"{page}/grant/", form | {"reason": ""}).content.decode()
    assert "This field is required" in missing
    answer = asking.post(f"{page}/grant/", form)
    assert asking.post(f"{page}/grant/", form)["HX-Redirect"] == answer["HX-Redirect"]
    request = Request.objects.get()
    assert answer["HX-Redirect"] == f"/admin/approvals/request/{request.id}/change/"
    seen = asking.get(answer["HX-Redirect"]).content.decode()
    assert "a second person must approve" in seen
    for shown in ("200,000.5 Tokens", "bob@example.com"):
        assert shown in seen, shown
    assert "<b>large" not in seen
    assert f"{request.id}/approve/" not in seen
    assert f"{request.id}/approve/" in deciding.get(answer["HX-Redirect"]).content.decode()
    assert "Grant Tokens" in deciding.get("/admin/approvals/request/?status=pending").content.decode()
    sent = {"_form_submitted": "on"}
    refused = asking.post(f"/admin/approvals/request/{request.id}/approve/", sent, follow=True)
    assert "somebody else must decide" in asking.get(refused["HX-Redirect"]).content.decode()
    assert bob.balance == (0, 0)
    deciding.post(f"/admin/approvals/request/{request.id}/approve/", sent)
    assert bob.balance == (200_000_500, 0)
    assert "Done: 200,000.5 Tokens granted." in deciding.get(answer["HX-Redirect"]).content.decode()


def test_a_form_sent_again_after_the_rejection_says_so(dora, emil, bob):
    asking = browser(dora)
    form = {"_form_submitted": "on", "request_id": str(uuid4()), "amount": "200000", "reason": "please"}
    asking.post(page := f"/admin/accounts/account/{bob.account.id}/grant/", form)
    browser(emil).post(
        f"/admin/approvals/request/{form['request_id']}/reject/", {"_form_submitted": "on", "note": "not this year"}
    )
    answer = asking.post(page, form)
    assert "Rejected: not this year" in asking.get(answer["HX-Redirect"]).content.decode()
    assert (Request.objects.get().status, bob.balance) == ("rejected", (0, 0))


def test_nobody_without_the_right_sees_or_uses_the_dialogs(dora, alice, job):
    asked, pack = requests.ask(dora, grant(alice, BIG), "please"), packs.find("small")
    looking = browser(staff("gina", "view_account", "view_job", "view_pack", "view_pricelistversion", "view_request"))
    form = {"_form_submitted": "on", "request_id": str(uuid4()), "amount": "1", "reason": "mine"}
    for path in (
        f"accounts/account/{alice.account.id}/grant/", f"jobs/job/{job.id}/refund/", "billing/pack/new_pack/",
        "billing/pricelistversion/new_version/", f"billing/pack/{pack.pk}/new_version/",
        f"billing/pack/{pack.pk}/stop_sale/",
        f"billing/topup/{uuid4()}/refund/", f"billing/clawback/{uuid4()}/waive/",
        f"approvals/request/{asked.pk}/approve/", f"approvals/request/{asked.pk}/reject/",
    ):  # fmt: skip
        assert looking.post(f"/admin/{path}", form | {"note": "no"}).status_code == 403
    assert "/grant/" not in looking.get(f"/admin/accounts/account/{alice.account.id}/change/").content.decode()
    assert (Request.objects.get().status, packs.find("small").pk) == ("pending", pack.pk)


def test_the_refund_of_a_job_says_how_much_is_left(dora, job, alice):
    dora.user_permissions.add(Permission.objects.get(codename="view_job"))
    page = f"/admin/jobs/job/{job.id}/refund/"
    client = browser(dora)
    assert "Up to 1.25 Tokens" in client.get(page).content.decode()
    form = {"_form_submitted": "on", "request_id": str(uuid4()), "amount": "1.251", "reason": "a crack"}
    assert "At most 1.25 Tokens are left" in client.post(page, form).content.decode()
    client.post(page, form | {"amount": "0.25"})
    assert Transfer.objects.filter(kind="refund").get().amount == 250
    assert "Up to 1 Tokens" in client.get(page).content.decode()


def test_a_kind_reads_its_own_arguments_back(bob):
    made = grant(bob, 5)
    assert acts.read("grant", {"account": str(bob.account.id), "amount": 5}) == made
    with pytest.raises(TypeError):
        acts.read("grant", {"account": "x", "amount": 5, "more": 1})
