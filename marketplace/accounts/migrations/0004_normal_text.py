"""E-mail addresses in one normal form, held by the database; names in columns whose forms do the same."""

from django.db import migrations, models

import marketplace.accounts.columns
from marketplace import text


def normalise(apps, schema_editor):
    """Rewrite the addresses that are not in the normal form.

    A second person of the same address gets their number in it, `alice+7@example.com`, which mail systems deliver to
    the same place: whose account is whose, only the operator can tell.
    """
    people = apps.get_model("accounts", "Person")
    taken = set(people.objects.values_list("email", flat=True))
    for person in people.objects.order_by("pk"):
        written = person.email
        try:
            email = text.email(written)
        except ValueError as error:
            raise ValueError(f"person {person.pk} has no valid e-mail address: change it, then migrate again") from error
        if email == written:
            continue
        if email in taken:
            local, _, domain = email.rpartition("@")
            email = f"{local}+{person.pk}@{domain}"
        taken.add(email)
        people.objects.filter(pk=person.pk).update(email=email)
    # what the audit defers must be written before the table can be altered
    schema_editor.execute("SET CONSTRAINTS ALL IMMEDIATE")


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_time_zones'),
    ]

    operations = [
        migrations.AlterField('person', 'email', marketplace.accounts.columns.Email(max_length=254, unique=True)),
        migrations.AlterField('person', 'name', marketplace.accounts.columns.Line(blank=True, max_length=200)),
        migrations.AlterField('account', 'name', marketplace.accounts.columns.Line(max_length=200)),
        migrations.AlterField('apikey', 'name', marketplace.accounts.columns.Line(max_length=100)),
        migrations.RunPython(normalise, migrations.RunPython.noop),
        migrations.AddConstraint(
            'person',
            models.CheckConstraint(condition=models.Q(email__regex='^[!-@\\[-~]+$'), name='person_email_normal'),
        ),
    ]
