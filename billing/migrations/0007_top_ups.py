"""Top-ups, their refunds and disputes, and the Stripe events that were acted on."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

GUARD = """
CREATE FUNCTION billing_guard_top_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.owner, NEW.pack_id, NEW.currency, NEW.price_minor, NEW.idempotency_key, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.owner, OLD.pack_id, OLD.currency, OLD.price_minor, OLD.idempotency_key, OLD.created_at)
       OR OLD.paid_at IS NOT NULL
          AND (NEW.paid_at, NEW.payment_intent) IS DISTINCT FROM (OLD.paid_at, OLD.payment_intent) THEN
        RAISE EXCEPTION 'top-up % keeps its terms', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER top_up_keeps_its_terms BEFORE UPDATE ON billing_topup
    FOR EACH ROW EXECUTE FUNCTION billing_guard_top_up();
CREATE TRIGGER top_up_kept BEFORE DELETE OR TRUNCATE ON billing_topup
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER stripe_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_stripeevent
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
"""

UNGUARD = """
DROP TRIGGER top_up_keeps_its_terms ON billing_topup;
DROP TRIGGER top_up_kept ON billing_topup;
DROP TRIGGER stripe_event_append_only ON billing_stripeevent;
DROP FUNCTION billing_guard_top_up();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0006_packs'),
    ]

    operations = [
        migrations.CreateModel(
            name='Reconciliation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('until', models.DateTimeField()),
                ('seen', models.PositiveIntegerField()),
                ('repaired', models.PositiveIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='StripeEvent',
            fields=[
                ('id', models.TextField(primary_key=True, serialize=False)),
                ('type', models.TextField()),
                ('processed_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name='Reversal',
            fields=[
                ('id', models.TextField(primary_key=True, serialize=False)),
                ('kind', models.TextField(choices=[('refund', 'Refund'), ('dispute', 'Dispute')])),
                ('payment_intent', models.TextField(db_index=True)),
                ('amount_minor', models.BigIntegerField()),
                ('standing', models.BooleanField(default=False)),
                ('final', models.BooleanField(default=False)),
                ('applied', models.BooleanField(default=False)),
                ('bonus_taken', models.BigIntegerField(default=0)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('amount_minor__gt', 0), ('bonus_taken__gte', 0)), name='reversal_in_range')],
            },
        ),
        migrations.CreateModel(
            name='TopUp',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('owner', models.UUIDField()),
                ('currency', models.TextField()),
                ('price_minor', models.BigIntegerField()),
                ('status', models.TextField(choices=[('open', 'Open'), ('processing', 'Processing'), ('paid', 'Paid'), ('failed', 'Failed'), ('expired', 'Expired'), ('partially_refunded', 'Partially Refunded'), ('refunded', 'Refunded'), ('disputed', 'Disputed')], default='open')),
                ('refunded_minor', models.BigIntegerField(default=0)),
                ('order', models.JSONField()),
                ('idempotency_key', models.TextField(null=True)),
                ('session_id', models.TextField(default='')),
                ('url', models.TextField(default='')),
                ('payment_intent', models.TextField(default='')),
                ('created_at', models.DateTimeField()),
                ('expires_at', models.DateTimeField()),
                ('paid_at', models.DateTimeField(null=True)),
                ('pack', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='top_ups', to='billing.pack')),
            ],
            options={
                'verbose_name': 'top-up',
                'indexes': [models.Index(models.F('owner'), models.F('id'), name='topup_by_owner')],
                'constraints': [models.UniqueConstraint(fields=('owner', 'idempotency_key'), name='topup_key_once'), models.UniqueConstraint(condition=models.Q(('session_id', ''), _negated=True), fields=('session_id',), name='topup_session_once'), models.UniqueConstraint(condition=models.Q(('payment_intent', ''), _negated=True), fields=('payment_intent',), name='topup_payment_once'), models.CheckConstraint(condition=models.Q(('price_minor__gt', 0), ('refunded_minor__gte', 0), ('refunded_minor__lte', models.F('price_minor'))), name='topup_refunded_within_price'), models.CheckConstraint(condition=models.Q(models.Q(('paid_at', None), ('status__in', ['open', 'processing', 'failed', 'expired'])), models.Q(('paid_at__isnull', False), ('payment_intent__gt', ''), ('status__in', ['paid', 'partially_refunded', 'refunded', 'disputed'])), _connector='OR'), name='topup_paid_says_so')],
            },
        ),
        migrations.RunSQL(GUARD, UNGUARD),
    ]
