"""Payouts by Stripe's transfers, and to whom."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


GUARDS = """
CREATE FUNCTION billing_guard_payout() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.purse_id, NEW.account_id, NEW.amount, NEW.money_minor, NEW.idempotency_key, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.purse_id, OLD.account_id, OLD.amount, OLD.money_minor, OLD.idempotency_key, OLD.created_at)
       OR NEW.back < OLD.back OR NEW.back_minor < OLD.back_minor
       OR OLD.transfer_id <> '' AND NEW.transfer_id <> OLD.transfer_id
       OR OLD.status IN ('failed', 'reversed') AND NEW.status <> OLD.status THEN
        RAISE EXCEPTION 'payout % keeps its terms', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER payout_kept BEFORE DELETE OR TRUNCATE ON billing_payout
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER payout_keeps_its_terms BEFORE UPDATE ON billing_payout
    FOR EACH ROW EXECUTE FUNCTION billing_guard_payout();
"""

UNGUARD = """
DROP TRIGGER payout_kept ON billing_payout;
DROP TRIGGER payout_keeps_its_terms ON billing_payout;
DROP FUNCTION billing_guard_payout();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0021_earnings'),
    ]

    operations = [
        migrations.CreateModel(
            name='Payee',
            fields=[
                ('owner', models.UUIDField(primary_key=True, serialize=False)),
                ('country', models.TextField()),
                ('email', models.TextField()),
                ('account_id', models.TextField(default='')),
                ('status', models.TextField(choices=[('onboarding', 'Onboarding'), ('active', 'Active'), ('inactive', 'Inactive')], default='onboarding')),
                ('news', models.TextField(default='')),
                ('attempt', models.PositiveIntegerField(default=0)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'indexes': [models.Index(models.F('owner'), condition=models.Q(('news', ''), _negated=True), name='payee_with_news')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('account_id', ''), _negated=True), fields=('account_id',), name='payee_account_once'), models.CheckConstraint(condition=models.Q(('country__regex', '^[a-z]{2}$')), name='payee_has_country')],
            },
        ),
        migrations.CreateModel(
            name='Payout',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('account_id', models.TextField()),
                ('amount', models.BigIntegerField()),
                ('money_minor', models.BigIntegerField()),
                ('back', models.BigIntegerField(default=0)),
                ('back_minor', models.BigIntegerField(default=0)),
                ('status', models.TextField(choices=[('ordered', 'Ordered'), ('paid', 'Paid'), ('failed', 'Failed'), ('reversed', 'Reversed')], default='ordered')),
                ('transfer_id', models.TextField(default='')),
                ('failure', models.TextField(default='')),
                ('attempt', models.PositiveIntegerField(default=0)),
                ('tries', models.PositiveIntegerField(default=0)),
                ('due_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('idempotency_key', models.TextField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('done_at', models.DateTimeField(null=True)),
                ('purse', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='payouts', to='billing.purse')),
            ],
            options={
                'indexes': [models.Index(models.F('due_at'), condition=models.Q(('status', 'ordered')), name='payout_due')],
                'constraints': [models.UniqueConstraint(fields=('purse', 'idempotency_key'), name='payout_once'), models.UniqueConstraint(condition=models.Q(('transfer_id', ''), _negated=True), fields=('transfer_id',), name='payout_transfer_once'), models.CheckConstraint(condition=models.Q(('amount__gt', 0), ('back__gte', 0), ('back_minor__gte', 0), ('money_minor__gt', 0), ('back__lte', models.F('amount')), ('back_minor__lte', models.F('money_minor'))), name='payout_in_range'), models.CheckConstraint(condition=models.Q(models.Q(('back', 0), ('done_at', None), ('status', 'ordered'), ('transfer_id', '')), models.Q(('done_at__isnull', False), ('status', 'paid'), ('transfer_id__gt', '')), models.Q(('back', models.F('amount')), ('done_at__isnull', False), ('failure__gt', ''), ('status', 'failed'), ('transfer_id', '')), models.Q(('back', models.F('amount')), ('done_at__isnull', False), ('status', 'reversed'), ('transfer_id__gt', '')), _connector='OR'), name='payout_done_says_how')],
            },
        ),
        migrations.RunSQL(GUARDS, UNGUARD),
    ]
