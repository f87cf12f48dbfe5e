"""The audit: every sensitive act leaves a record in its own transaction, and whoever meddles is found out."""

import io
import json
from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client

from billing.models import Wallet
from billing.prices import packs, price_lists
from billing.tokens import debts, wallets
from lora import publications, tiers
from marketplace.accounts.models import STANDARD, Person
from marketplace.audit import proof, trail
from marketplace.audit.models import Record
from tests.marketplace.api.test_market import ready
from tests.marketplace.trainings import making
from tests.threads import database_setting, together

pytestmark = pytest.mark.django_db(transaction=True)
PHRASE = "a long pass phrase"


def run(sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)


def meddle(sql, *values):
    """What somebody can do who owns the database: past every trigger."""
    with transaction.atomic():
        run("SET LOCAL session_replication_role = replica")
        run(sql, *values)


def audit(*anchors):
    """The command's lines, whether it is content or not."""
    said = io.StringIO()
    try:
        call_command("check_audit", *[f"--anchor={anchor}" for anchor in anchors], stdout=said)
    except CommandError as error:
        assert not said.getvalue()
        return str(error).splitlines()
    return said.getvalue().splitlines()


def acts():
    return list(Record.objects.order_by("seq").values_list("actor", "act", "details")[1:])


@pytest.fixture
def operator():
    return Person.objects.create_superuser("operator@example.com", PHRASE)


@pytest.fixture
def five():
    """A chain of the beginning and five records."""
    for number in range(5):
        trail.record("somebody", "try", f"thing {number}", {"number": number, "what": 'é "quoted" \n 窑'})
    return audit()[-1].split()[-1]


# --- what is recorded ---


def test_grants_refunds_and_keys_name_who_did_it_and_holds_and_captures_leave_nothing(alice):
    before = Record.objects.count()
    wallets.hold(alice.account.id, 5_000, reference := uuid4(), timedelta(hours=1))
    wallets.capture(reference, 4_000)
    wallets.balance(alice.account.id)
    assert Record.objects.count() == before
    with trail.acting("person 1 alice@example.com"):
        wallets.refund(reference, 1_000, "case 1", memo="sorry")
    made = alice.post("/v1/keys", {"name": "second"}).json()
    alice.delete(f"/v1/keys/{made['id']}")
    (_, refund, details), (maker, made_key, _), (_, revoked, _) = acts()[-3:]
    assert (refund, details["amount"], details["memo"], details["reference"]) == (
        "refund", 1_000, "sorry", str(reference),
    )  # fmt: skip
    assert (maker, made_key, revoked) == (f"account {alice.account.id}", "key.made", "key.revoked")
    assert audit()[-1].startswith("audit ok: ")


def test_caps_and_accounts_that_are_switched_off_name_who_did_it(operator, alice):
    other = alice.post("/v1/keys", {"name": "second"}).json()["id"]
    before = acts()
    alice.patch(f"/v1/keys/{other}", {"name": "renamed"})
    assert acts() == before
    alice.patch(f"/v1/keys/{other}", {"daily_cap": "5"})
    client = Client()
    client.force_login(operator)
    page = f"/admin/accounts/account/{alice.account.id}/change/"
    keys = {f"keys-{name}": 0 for name in ("TOTAL_FORMS", "INITIAL_FORMS")}
    form = {"name": "Alice", "tier": STANDARD, "time_zone": "UTC", "monthly_cap": "7.5", **keys}
    assert client.post(page, form).status_code == 302
    (customer, capped, key), *_, (actor, changed, account) = acts()[len(before) :]
    assert (customer, capped, key["daily_cap"]) == (f"account {alice.account.id}", "key.capped", 5_000)
    assert (actor, changed) == (f"person {operator.pk} operator@example.com", "account.changed")
    assert (account["is_active"], account["monthly_cap"]) == (False, 7_500)


def test_shares_and_deletions_of_adapters_name_the_account(alice, bob):
    adapter = making.adapter(alice)
    version = ready(adapter)
    before, address = len(acts()), f"/v1/adapters/{adapter.id}"
    for _ in range(2):  # again is nothing new
        assert alice.put(f"{address}/shared/{bob.account.id}", {}).status_code == 204
    for _ in range(2):
        assert alice.delete(f"{address}/shared/{bob.account.id}").status_code == 204
    assert alice.delete(f"{address}/versions/{version.number}").status_code == 204
    assert alice.delete(address).status_code == 204
    found = acts()[before:]
    assert [act for _, act, _ in found] == ["adapter.shared", "adapter.unshared", "version.deleted", "adapter.deleted"]
    assert {actor for actor, _, _ in found} == {f"account {alice.account.id}"}
    assert [details.get("account") for _, _, details in found[:2]] == [str(bob.account.id)] * 2
    assert [details.get("adapter_id") for _, _, details in found[:3]] == [str(adapter.id)] * 3
    assert bob.delete(address).status_code == 404
    assert len(acts()) == before + 4


def test_what_operators_decide_in_the_market_is_recorded(alice):
    adapter = making.adapter(alice)
    ready(adapter)
    asked = publications.ask(uuid4(), adapter, None, fee=250, licence="any-use", most=1000)
    before = len(acts())
    with trail.acting("person 1 op@example.com"):
        publications.approve(asked, 700)
    tier = tiers.find("craft")
    with trail.acting("person 1 op@example.com"):
        tiers.stop(tier)
    assert alice.delete(f"/v1/adapters/{adapter.id}/publication").status_code == 204
    assert [act for _, act, _ in acts()[before:]] == [
        "publication.approved", "training_tier.switched", "publication.withdrawn",
    ]  # fmt: skip
    assert [actor for actor, _, _ in acts()[before:]] == [
        "person 1 op@example.com", "person 1 op@example.com", f"account {alice.account.id}",
    ]  # fmt: skip


def test_an_act_that_is_rolled_back_leaves_no_record(alice):
    before = acts()
    with trail.acting("person 1 x"):
        wallets.grant(alice.account.id, 5, "a grant")
        transaction.set_rollback(True)
    assert acts() == before


def test_prices_packs_freezing_and_waiving_are_recorded(bob):
    prices = price_lists.current()
    terms = {name: value for name, value in vars(prices).items() if name != "version"}
    price_lists.publish(**terms | {"base_cost": 7})
    pack = packs.publish("tiny", 1_000, 0, {"eur": 60})
    packs.stop(pack)
    lot = wallets.purchase(bob.account.id, 1_000, 100, "eur", "payment 1")
    wallets.hold(bob.account.id, 1_000, reference := uuid4(), timedelta(hours=1))
    wallets.capture(reference, 1_000)
    debt = debts.claw_back(lot, 100, "dispute", "dp_1")
    debts.waive(debt.id, "an old customer")
    found = [(act, details) for _, act, details in acts()]
    assert [act for act, _ in found[-6:]] == [
        "price_list.published", "pack.published", "pack.switched", "wallet.frozen", "debt.waived", "wallet.frozen",
    ]  # fmt: skip
    assert found[-6][1]["base_cost"] == 7
    assert [details["frozen"] for act, details in found if act == "wallet.frozen"] == [True, False]
    assert found[-2][1]["waiver"] == "an old customer"


def test_log_ins_of_staff_are_recorded_also_those_that_fail_and_strangers_are_not(operator, alice):
    for email, phrase in ((operator.email, "wrong"), ("nobody@example.com", "wrong"), (operator.email, PHRASE)):
        Client().post("/admin/login/", {"username": email, "password": phrase})
    client = Client()
    client.force_login(operator)
    client.post("/admin/logout/")
    name = f"person {operator.pk} operator@example.com"
    found = [(actor, act) for actor, act, _ in acts() if act.startswith("log")]
    assert found == [("somebody not logged in", "login.failed"), (name, "login"), (name, "login"), (name, "logout")]
    assert Record.objects.get(act="login.failed").details["address"] == "127.0.0.1"


def test_rights_that_are_given_and_keys_that_are_revoked_in_the_console_name_the_operator(operator, alice):
    client = Client()
    client.force_login(operator)
    person, right = alice.account.owner, Permission.objects.latest("pk").pk
    form = {"email": person.email, "is_active": "on", "is_staff": "on", "user_permissions": [right]}
    assert client.post(f"/admin/accounts/person/{person.pk}/change/", form).status_code == 302
    secret = {"usable_password": "true", "password1": PHRASE, "password2": PHRASE}
    assert client.post(f"/admin/accounts/person/{person.pk}/password/", secret).status_code == 302
    client.post(f"/admin/accounts/apikey/{alice.key_id}/revoke/", {"_form_submitted": "on"})
    found = acts()[-4:]
    assert {act for _, act, _ in found} == {"person.changed", "right.given", "person.password_changed", "key.revoked"}
    assert {actor for actor, _, _ in found} == {f"person {operator.pk} operator@example.com"}
    page = client.get("/admin/audit/record/").content.decode()
    assert "right.given" in page
    whole = client.get(f"/admin/audit/record/{Record.objects.latest('seq').pk}/change/").content.decode()
    assert proof.head().hash in whole


# --- the chain ---


def test_records_of_many_at_once_are_one_chain_and_an_act_that_waits_for_its_commit_stops_nobody(alice, bob):
    def give(number):
        with trail.acting(f"thread {number}"), database_setting("statement_timeout", "5s"):
            wallets.grant((alice, bob)[number % 2].account.id, 5, f"grant {number}")

    before = Record.objects.count()
    with transaction.atomic():
        wallets.grant(alice.account.id, 5, "a grant whose transaction is open")
        assert together(1, lambda _: give(1)) == [None]
    assert together(8, lambda number: give(number + 2)) == [None] * 8
    assert Record.objects.count() == before + 10
    assert len({actor for actor, _, _ in acts()[-10:]}) == 10
    assert audit()[-1].startswith(f"audit ok: {before + 10} records, head {before + 10}:")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE audit_record SET actor = 'me' WHERE seq = 3", ["record 3: changed since it was written"]),
        ("UPDATE audit_record SET act = 'me' WHERE seq = 3", ["record 3: changed since it was written"]),
        ("UPDATE audit_record SET object = 'me' WHERE seq = 3", ["record 3: changed since it was written"]),
        ("UPDATE audit_record SET details = '{}' WHERE seq = 3", ["record 3: changed since it was written"]),
        (
            "UPDATE audit_record SET at = at + interval '1 microsecond' WHERE seq = 3",
            ["record 3: changed since it was written"],
        ),
        (
            "UPDATE audit_record SET hash = sha256(hash) WHERE seq = 3",
            ["record 3: changed since it was written", "record 4: does not follow the one before it"],
        ),
        (
            "UPDATE audit_record SET actor = actor || 'x', hash = audit_digest(previous, seq::text, to_char(at AT TIME"
            " ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), actor || 'x', act, object, details::text)"
            " WHERE seq = 3",
            ["record 4: does not follow the one before it"],
        ),
        (
            "UPDATE audit_record SET previous = sha256(previous) WHERE seq = 3",
            ["record 3: does not follow the one before it", "record 3: changed since it was written"],
        ),
        ("DELETE FROM audit_record WHERE seq = 3", ["record 3: missing"]),
        ("DELETE FROM audit_record WHERE seq IN (3, 4)", ["record 3: missing, up to 4"]),
        ("UPDATE audit_record SET seq = 9 WHERE seq = 6", ["record 6: missing, up to 8"]),
        ("DELETE FROM audit_record", ["no record at all"]),
    ],
)
def test_whoever_changes_or_removes_a_record_is_found_out(five, sql, expected):
    meddle(sql)
    lines = audit()
    assert lines[: len(expected)] == expected
    assert lines[-1].startswith("audit broken: ")


def test_a_truncated_end_is_found_by_an_anchor_and_that_of_money_without_one(five, alice):
    head = audit(five)[-1].split()[-1]
    meddle("DELETE FROM audit_record WHERE seq > 6")
    transfer = wallets.Transfer.objects.latest("id")
    assert f"transfer {transfer.pk}: no record says who made it" in audit()
    assert "record 6: not the one that was anchored" in audit("6:" + "0" * 64)
    seq = head.split(":")[0]
    assert f"record {seq}: anchored, and gone" in audit(five, head)


def test_a_chain_that_was_written_anew_is_found_by_an_anchor(five):
    meddle("DELETE FROM audit_record WHERE seq > 3")
    for number in range(3):
        trail.record("nobody", "try", f"thing {number}", {})
    assert audit()[-1].startswith("audit ok")
    assert audit(five) == ["record 6: not the one that was anchored", "audit broken: 1"]


def test_a_trigger_that_is_switched_off_is_found(five):
    try:
        run("ALTER TABLE billing_transfer DISABLE TRIGGER audit_transfer")
        assert "trigger audit_transfer is missing or switched off" in audit()
    finally:
        run("ALTER TABLE billing_transfer ENABLE TRIGGER audit_transfer")


def test_the_proof_knows_every_trigger():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tgname FROM pg_trigger WHERE tgfoid = 'audit_act'::regproc OR tgrelid = 'audit_record'::regclass"
        )
        assert {name for (name,) in cursor.fetchall()} == set(proof.TRIGGERS)


@pytest.mark.parametrize(
    "sql",
    ["UPDATE audit_record SET actor = 'me'", "DELETE FROM audit_record WHERE false", "TRUNCATE audit_record"],
)
def test_the_database_refuses_to_change_records(five, sql):
    with pytest.raises(IntegrityError, match="of audit_record is refused"):
        run(sql)


def test_a_record_says_its_own_number_time_and_hash_whatever_it_was_told():
    run(
        "INSERT INTO audit_record (seq, at, actor, act, object, details, previous, hash)"
        " VALUES (77, '2000-01-01', 'me', 'try', '', '{}', '', '')"
    )
    assert (Record.objects.latest("seq").seq, audit()[-1][:8]) == (2, "audit ok")


def test_details_are_bounded(alice):
    with pytest.raises(IntegrityError, match="record_bounded"):
        trail.record("me", "try", "", {"long": "x" * 20_000})
    wallets.grant(alice.account.id, 5, "a grant", memo="x" * 20_000)
    assert len(json.dumps(Record.objects.latest("seq").details)) < 1_000
    assert Wallet.objects.get(owner=alice.account.id).balance == 1_000_005
