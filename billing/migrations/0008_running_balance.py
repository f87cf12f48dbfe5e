"""Every transfer stores the customer's balance after it; existing ones are filled in."""

from django.db import migrations, models

FILL = """
ALTER TABLE billing_transfer DISABLE TRIGGER transfer_append_only;
UPDATE billing_transfer SET balance = running.balance FROM (
    SELECT side.id, sum(side.amount) OVER (PARTITION BY side.wallet ORDER BY side.id) AS balance FROM (
        SELECT id, target_id AS wallet, amount FROM billing_transfer
        UNION ALL SELECT id, source_id, -amount FROM billing_transfer) AS side
    JOIN billing_wallet ON billing_wallet.id = side.wallet AND billing_wallet.kind = 'customer'
) AS running WHERE running.id = billing_transfer.id;
ALTER TABLE billing_transfer ENABLE TRIGGER transfer_append_only;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0007_top_ups'),
    ]

    operations = [
        migrations.AddField(
            model_name='transfer',
            name='balance',
            field=models.BigIntegerField(null=True),
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
        migrations.AlterField(
            model_name='transfer',
            name='balance',
            field=models.BigIntegerField(),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.CheckConstraint(condition=models.Q(('balance__gte', 0)), name='transfer_never_overdraws'),
        ),
    ]
