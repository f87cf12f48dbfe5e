"""One person an e-mail address, however it is written; and what switched-off people are told."""

import io
from importlib import import_module
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client

from marketplace.accounts import customers, migrations
from marketplace.accounts.models import Account, ApiKey, Person
from marketplace.audit.models import Record
from tests.threads import together

PHRASE = "a long pass phrase"
WAYS = ("dora@münchen.de", " Dora@MÜNCHEN.de ", "DORA@mu\u0308nchen.de", "dora@xn--mnchen-3ya.de")


@pytest.mark.django_db
def test_an_address_written_another_way_is_the_same_customer():
    assert len({customers.create(each).id for each in WAYS}) == 1
    assert Person.objects.get().email == "dora@xn--mnchen-3ya.de"
    for each in WAYS:
        assert Person.objects.filter(email=each).exists()
        assert Account.objects.filter(owner__email=each).exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("email", "told"), [("DORA@mu\u0308nchen.de", "already taken"), ("dora", "valid"), ("dora\u200b@a.de", "valid")]
)
def test_no_second_operator_is_made_of_one_address(email, told):
    Person.objects.create_superuser("dora@münchen.de")
    with pytest.raises(CommandError, match=told):
        call_command("createsuperuser", "--noinput", email=email)
    assert Person.objects.count() == 1


@pytest.mark.django_db
def test_the_longest_address_has_an_account():
    longest = f"a@{'.'.join(['x' * 60] * 4)}.example"
    assert customers.create(longest).name == longest[:200]


@pytest.mark.django_db(transaction=True)
def test_a_customer_created_at_once_by_several_is_created_once():
    found = together(len(WAYS), lambda number: customers.create(WAYS[number]))
    assert len({account.id for account in found}) == 1
    assert (Person.objects.count(), Account.objects.count()) == (1, 1)


@pytest.mark.django_db
def test_the_command_knows_the_normal_form_too():
    for each in WAYS:
        call_command("create_customer", each, stdout=io.StringIO())
    assert (Person.objects.count(), ApiKey.objects.count()) == (1, 4)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["", " ", "x" * 101, " " * 101 + "x", "two\nlines", "nul \0", "\u200b"])
def test_the_command_takes_no_name_that_the_api_would_not_take(name, alice):
    with pytest.raises(CommandError):
        call_command("create_customer", "dora@example.com", f"--key-name={name}")
    assert alice.post("/v1/keys", {"name": name}).status_code == 422
    assert not Person.objects.filter(email="dora@example.com").exists()


@pytest.mark.django_db
def test_the_database_itself_keeps_addresses_normal():
    person = Person.objects.create_user("dora@example.com")
    for bad in ("Dora@example.com", "dora@münchen.de", "dora@example.com ", ""):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("UPDATE accounts_person SET email = %s WHERE id = %s", [bad, person.pk])


@pytest.mark.django_db(transaction=True)
def test_a_table_with_other_addresses_is_brought_to_the_normal_form():
    kept, twin, other = (Person.objects.create_user(f"{name}@example.com") for name in ("dora", "twin", "other"))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE accounts_person DROP CONSTRAINT person_email_normal")
        for person, written in ((twin, "DORA@example.com"), (other, "Other@MÜNCHEN.de")):
            cursor.execute("UPDATE accounts_person SET email = %s WHERE id = %s", [written, person.pk])
    (name,) = (path.stem for path in Path(migrations.__file__).parent.glob("*_normal_text.py"))
    with connection.schema_editor() as editor:
        import_module(f"{migrations.__name__}.{name}").normalise(apps, editor)
        editor.add_constraint(Person, Person._meta.constraints[0])
    found = dict(Person.objects.values_list("pk", "email"))
    assert found == {
        kept.pk: "dora@example.com",
        twin.pk: f"dora+{twin.pk}@example.com",
        other.pk: "other@xn--mnchen-3ya.de",
    }


# --- logging in ---


def log_in(email, phrase=PHRASE):
    return Client().post("/admin/login/?next=/admin/", {"username": email, "password": phrase})


@pytest.mark.django_db
@pytest.mark.parametrize("written", WAYS)
def test_operators_log_in_however_they_write_their_address(written):
    Person.objects.create_superuser("dora@münchen.de", PHRASE)
    assert log_in(written).status_code == 302


@pytest.mark.django_db
@pytest.mark.parametrize("written", ["", "nobody", "a\0b@example.com", "\ud83d", "x" * 5000])
def test_what_is_no_address_logs_nobody_in(written):
    answer = Client().post("/admin/login/", {"username": written.encode("utf-8", "replace").decode(), "password": "x"})
    assert answer.status_code == 200


@pytest.mark.django_db
def test_a_switched_off_operator_is_told_so_once_the_password_is_right():
    person = Person.objects.create_superuser("dora@example.com", PHRASE)
    client = Client()
    client.force_login(person)
    person.is_active = False
    person.save()
    assert client.get("/admin/").status_code == 302, "an open session ends"
    right, wrong = log_in("dora@example.com"), log_in("dora@example.com", "guessed")
    assert right.status_code == wrong.status_code == 200
    assert "switched off" in right.content.decode()
    assert "switched off" not in wrong.content.decode()
    assert Record.objects.filter(act="login.failed").count() == 2
    assert Record.objects.filter(act="login").count() == 1, "the one before"


@pytest.mark.django_db
def test_the_console_takes_the_normal_form_and_no_second_person(alice):
    client = Client()
    client.force_login(Person.objects.create_superuser("operator@example.com", PHRASE))
    form = {"usable_password": "false", "password1": "", "password2": ""}
    first, second = (
        client.post("/admin/accounts/person/add/", {"email": email, "name": " Dora ", **form})
        for email in ("dora@münchen.de", "DORA@mu\u0308nchen.de")
    )
    assert (first.status_code, second.status_code) == (302, 200)
    assert "already exists" in second.content.decode()
    person = Person.objects.get(email="dora@münchen.de")
    assert (person.email, person.name) == ("dora@xn--mnchen-3ya.de", "Dora")
    page = f"/admin/accounts/account/{alice.account.id}/change/"
    inline = {"keys-TOTAL_FORMS": "0", "keys-INITIAL_FORMS": "0", "time_zone": "UTC", "tier": "1"}
    for name in (" " * 200 + "x", "\u200b", "a\u202eb", " "):
        assert client.post(page, {"name": name, "is_active": "on", **inline}).status_code == 200
    assert client.post(page, {"name": " cafe\u0301 ", "is_active": "on", **inline}).status_code == 302
    assert Account.objects.get(id=alice.account.id).name == "café"


@pytest.mark.django_db
@pytest.mark.parametrize("written", ["1e3", "١٢", "NaN", "1_0", "+5", "0x1F", "1,5"])
def test_an_amount_in_the_console_is_a_plain_decimal(written, alice):
    client = Client()
    client.force_login(Person.objects.create_superuser("operator@example.com", PHRASE))
    page = f"/admin/accounts/account/{alice.account.id}/change/"
    form = {"name": "x", "is_active": "on", "keys-TOTAL_FORMS": "0", "keys-INITIAL_FORMS": "0", "daily_cap": written}
    assert client.post(page, form).status_code == 200
    assert Account.objects.get(id=alice.account.id).daily_cap is None
