"""Tells the holds that there are which API key spent, and adds up what was spent so far."""

from django.db import migrations

SPENDERS = """
UPDATE billing_hold SET spender = job.api_key_id
FROM jobs_job AS job WHERE job.id = billing_hold.reference AND job.api_key_id IS NOT NULL;
"""
SPENDING = """
INSERT INTO billing_spending (wallet_id, spender, day, amount)
SELECT hold.wallet_id, hold.spender, (hold.resolved_at AT TIME ZONE 'UTC')::date,
       sum(CASE transfer.kind WHEN 'capture' THEN transfer.amount ELSE -transfer.amount END)
FROM billing_transfer AS transfer JOIN billing_hold AS hold ON hold.reference = transfer.reference
JOIN billing_lotcursor AS cursor ON cursor.wallet_id = hold.wallet_id AND cursor.last_transfer_id >= transfer.id
WHERE transfer.kind IN ('capture', 'refund')
GROUP BY 1, 2, 3;
"""


class Migration(migrations.Migration):
    dependencies = [("jobs", "0002_not_before"), ("billing", "0011_spending")]
    run_before = [("billing", "0018_closed_months")]  # which keeps spending in another column

    operations = [
        migrations.RunSQL(SPENDERS, migrations.RunSQL.noop),
        migrations.RunSQL(SPENDING, migrations.RunSQL.noop),
    ]
