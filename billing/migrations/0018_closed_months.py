"""Months are closed once, spending is kept by the quarter of an hour, and a transfer's time is read under its lock."""

import django.db.models.deletion
import django.db.models.functions.datetime
import django.utils.timezone
from django.db import migrations, models

# A transaction that writes money and Tokens sets its moment once, so that both lie in the same month (`ledger.moment`).
# All others read the clock after they have locked the wallet, so that times of one wallet never go back.
MOMENT = """
CREATE FUNCTION billing_moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(nullif(current_setting('kiln.moment', true), '')::timestamptz, clock_timestamp())
$$;
"""
NO_MOMENT = "DROP FUNCTION billing_moment()"

GUARDS = """
CREATE FUNCTION billing_number_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('invoice number'), hashtext(NEW.kind));
    SELECT coalesce(max(number), 0) + 1 INTO NEW.number FROM billing_invoice WHERE kind = NEW.kind;
    RETURN NEW;
END $$;

CREATE TRIGGER invoice_numbered BEFORE INSERT ON billing_invoice
    FOR EACH ROW EXECUTE FUNCTION billing_number_invoice();
CREATE TRIGGER invoice_final BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_invoice
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER month_final BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_month
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
"""
NO_GUARDS = """
DROP TRIGGER month_final ON billing_month;
DROP TRIGGER invoice_final ON billing_invoice;
DROP TRIGGER invoice_numbered ON billing_invoice;
DROP FUNCTION billing_number_invoice();
"""

# Exactly as `spending` would have kept it.
SPENDING = """
INSERT INTO billing_spending (wallet_id, spender, quarter, amount)
SELECT hold.wallet_id, hold.spender, date_bin('15 minutes', hold.resolved_at, 'epoch'),
       sum(CASE transfer.kind WHEN 'capture' THEN transfer.amount ELSE -transfer.amount END)::bigint
FROM billing_transfer AS transfer JOIN billing_hold AS hold ON hold.reference = transfer.reference
JOIN billing_lotcursor AS cursor ON cursor.wallet_id = hold.wallet_id AND cursor.last_transfer_id >= transfer.id
WHERE transfer.kind IN ('capture', 'refund')
GROUP BY 1, 2, 3;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0017_asked_of_stripe")]

    operations = [
        migrations.RunSQL(MOMENT, NO_MOMENT),
        migrations.AlterField(
            model_name="transfer",
            name="created_at",
            field=models.DateTimeField(db_default=models.Func(function="billing_moment")),
        ),
        migrations.AddField("reversal", "currency", models.TextField(default="")),
        migrations.CreateModel(
            name="Month",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("owner", models.UUIDField()),
                ("first", models.DateTimeField()),
                ("end", models.DateTimeField()),
                ("zone", models.TextField()),
                ("opening", models.BigIntegerField()),
                ("closing", models.BigIntegerField()),
                ("moved", models.JSONField()),
                ("last_transfer_id", models.BigIntegerField()),
                ("closed_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("owner", "first"), name="month_once"),
                    models.CheckConstraint(condition=models.Q(end__gt=models.F("first")), name="month_lasts"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Invoice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.TextField(choices=[("invoice", "Invoice"), ("credit_note", "Credit Note")])),
                ("number", models.PositiveIntegerField(db_default=0)),
                (
                    "month",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="invoices", to="billing.month"
                    ),
                ),
                ("currency", models.TextField()),
                ("total_minor", models.BigIntegerField()),
                ("tax_minor", models.BigIntegerField(null=True)),
                ("lines", models.JSONField()),
                ("seller", models.JSONField()),
                ("buyer", models.JSONField()),
                ("issued_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("kind", "number"), name="invoice_number_once"),
                    models.UniqueConstraint(fields=("month", "kind", "currency"), name="invoice_once_a_month"),
                    models.CheckConstraint(condition=models.Q(total_minor__gt=0), name="invoice_in_range"),
                ],
            },
        ),
        migrations.RunSQL(GUARDS, NO_GUARDS),
        migrations.RunSQL("DELETE FROM billing_spending", migrations.RunSQL.noop),
        migrations.RemoveConstraint(model_name="spending", name="spending_once_a_day"),
        migrations.RemoveField(model_name="spending", name="day"),
        migrations.AddField(
            "spending", "quarter", models.DateTimeField(default=django.utils.timezone.now), preserve_default=False
        ),
        migrations.AddConstraint(
            model_name="spending",
            constraint=models.UniqueConstraint(
                fields=("wallet", "quarter", "spender"), nulls_distinct=False, name="spending_once_a_quarter"
            ),
        ),
        migrations.RunSQL(SPENDING, migrations.RunSQL.noop),  # last: the table cannot be altered after it
    ]
