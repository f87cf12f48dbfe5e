"""The sums of the platform's, the creators' and the mint's transfers, up to a mark."""

import django.db.models.deletion
from django.db import migrations, models

GUARD = """
CREATE FUNCTION billing_guard_rollup() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.wallet_id <> OLD.wallet_id OR NEW.last_transfer_id <= OLD.last_transfer_id THEN
        RAISE EXCEPTION 'the mark of wallet % only moves on', OLD.wallet_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER rollup_moves_on BEFORE UPDATE ON billing_rollup
    FOR EACH ROW EXECUTE FUNCTION billing_guard_rollup();
CREATE TRIGGER rollup_kept BEFORE DELETE OR TRUNCATE ON billing_rollup
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
"""

UNGUARD = """
DROP TRIGGER rollup_moves_on ON billing_rollup;
DROP TRIGGER rollup_kept ON billing_rollup;
DROP FUNCTION billing_guard_rollup();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0009_refund_orders'),
    ]

    operations = [
        migrations.CreateModel(
            name='Rollup',
            fields=[
                ('wallet', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='rollup', serialize=False, to='billing.wallet')),
                ('balance', models.BigIntegerField()),
                ('last_transfer_id', models.BigIntegerField()),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('last_transfer_id__gt', 0)), name='rollup_has_a_mark')],
            },
        ),
        migrations.RunSQL(GUARD, UNGUARD),
    ]
