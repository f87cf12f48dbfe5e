"""Holds name their spender, and spending is kept by day."""

import django.db.models.deletion
from django.db import migrations, models

GUARD = """
CREATE OR REPLACE FUNCTION billing_guard_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.wallet_id, NEW.reference, NEW.amount, NEW.created_at)
       IS DISTINCT FROM (OLD.id, OLD.wallet_id, OLD.reference, OLD.amount, OLD.created_at)
       OR OLD.spender IS NOT NULL AND NEW.spender IS DISTINCT FROM OLD.spender THEN
        RAISE EXCEPTION 'hold % keeps its wallet and amount', OLD.reference
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.status <> 'held'
       AND ((NEW.status, NEW.captured, NEW.expires_at, NEW.resolved_at)
            IS DISTINCT FROM (OLD.status, OLD.captured, OLD.expires_at, OLD.resolved_at)
            OR NEW.refunded < OLD.refunded) THEN
        RAISE EXCEPTION 'hold % was % already', OLD.reference, OLD.status
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0010_rollups'),
    ]

    operations = [
        migrations.AddField(
            model_name='hold',
            name='spender',
            field=models.UUIDField(null=True),
        ),
        migrations.AddIndex(
            model_name='hold',
            index=models.Index(models.F('spender'), condition=models.Q(('spender__isnull', False), ('status', 'held')), name='hold_by_spender'),
        ),
        migrations.CreateModel(
            name='Spending',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('spender', models.UUIDField(null=True)),
                ('day', models.DateField()),
                ('amount', models.BigIntegerField()),
                ('wallet', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='spending', to='billing.wallet')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('wallet', 'day', 'spender'), name='spending_once_a_day', nulls_distinct=False)],
            },
        ),
        migrations.RunSQL(GUARD, migrations.RunSQL.noop),
    ]
