"""What makers earn, and an earning for every draw of a transfer to a maker that was followed before.

Transfers between a maker and the platform or the mint have no customer, and so no customer's balance.
"""

import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
import uuid
from django.db import migrations, models

EARNINGS = """
INSERT INTO billing_earning (maker_id, transfer_id, lot_id, reference, amount, money_minor, currency, weighed,
                             created_at)
SELECT maker.id, move.id, draw.lot_id, move.reference, draw.amount, draw.money_minor, lot.currency,
       lot.kind = 'paid', move.created_at
FROM billing_draw AS draw JOIN billing_transfer AS move ON move.id = draw.transfer_id AND move.kind = 'capture'
JOIN billing_wallet AS maker ON maker.id = move.target_id AND maker.kind = 'creator'
JOIN billing_lot AS lot ON lot.id = draw.lot_id ORDER BY draw.id;
"""

GUARDS = """
CREATE FUNCTION billing_guard_earning() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.maker_id, NEW.transfer_id, NEW.lot_id, NEW.reference, NEW.amount, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.maker_id, OLD.transfer_id, OLD.lot_id, OLD.reference, OLD.amount, OLD.created_at)
       OR OLD.weighed AND (NEW.weighed, NEW.money_minor, NEW.currency)
                          IS DISTINCT FROM (OLD.weighed, OLD.money_minor, OLD.currency)
       OR NEW.back < OLD.back OR NEW.back_minor < OLD.back_minor THEN
        RAISE EXCEPTION 'earning % keeps its terms', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER earning_kept BEFORE DELETE OR TRUNCATE ON billing_earning
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER earning_keeps_its_terms BEFORE UPDATE ON billing_earning
    FOR EACH ROW EXECUTE FUNCTION billing_guard_earning();
CREATE TRIGGER exchange_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_exchange
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER funding_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_funding
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER purse_kept BEFORE DELETE OR TRUNCATE ON billing_purse
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
"""

UNGUARD = """
DROP TRIGGER earning_kept ON billing_earning;
DROP TRIGGER earning_keeps_its_terms ON billing_earning;
DROP TRIGGER exchange_append_only ON billing_exchange;
DROP TRIGGER funding_append_only ON billing_funding;
DROP TRIGGER purse_kept ON billing_purse;
DROP FUNCTION billing_guard_earning();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0020_notices'),
    ]

    operations = [
        migrations.CreateModel(
            name='Earning',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('reference', models.UUIDField()),
                ('amount', models.BigIntegerField()),
                ('money_minor', models.BigIntegerField()),
                ('currency', models.TextField()),
                ('back', models.BigIntegerField(db_default=0)),
                ('back_minor', models.BigIntegerField(db_default=0)),
                ('owed', models.BigIntegerField(db_default=0)),
                ('owed_minor', models.BigIntegerField(db_default=0)),
                ('weighed', models.BooleanField()),
                ('created_at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='Exchange',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ('amount', models.BigIntegerField()),
                ('money_minor', models.BigIntegerField()),
                ('requested', models.BigIntegerField(null=True)),
                ('idempotency_key', models.TextField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name='Funding',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('amount_minor', models.BigIntegerField()),
                ('idempotency_key', models.TextField(unique=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name='Marketing',
            fields=[
                ('currency', models.TextField(primary_key=True, serialize=False)),
                ('price_minor', models.BigIntegerField()),
                ('funded_minor', models.BigIntegerField(default=0)),
                ('used_minor', models.BigIntegerField(default=0)),
                ('weighed', models.BigIntegerField(default=0)),
                ('is_open', models.BooleanField(default=True)),
            ],
            options={
                'verbose_name': 'marketing account',
            },
        ),
        migrations.CreateModel(
            name='Purse',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('currency', models.TextField()),
                ('out', models.BigIntegerField(default=0)),
                ('out_minor', models.BigIntegerField(default=0)),
                ('advanced', models.BigIntegerField(default=0)),
                ('moves', models.PositiveBigIntegerField(default=0)),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='transfer',
            name='transfer_kind_has_reference',
        ),
        migrations.AlterField(
            model_name='transfer',
            name='balance',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AlterField(
            model_name='transfer',
            name='kind',
            field=models.TextField(choices=[('grant', 'Grant'), ('purchase', 'Purchase'), ('capture', 'Capture'), ('refund', 'Refund'), ('expiry', 'Expiry'), ('clawback', 'Clawback'), ('settlement', 'Settlement'), ('exchange', 'Exchange'), ('takeback', 'Takeback'), ('giveback', 'Giveback'), ('advance', 'Advance'), ('recovery', 'Recovery'), ('payout', 'Payout'), ('payout_return', 'Payout Return')]),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', ['grant', 'purchase']), models.Q(('kind__in', ['capture', 'refund', 'expiry', 'clawback', 'settlement']), ('reference__isnull', False)), models.Q(('kind__in', ['exchange', 'takeback', 'giveback', 'payout', 'payout_return']), ('reference__isnull', False)), ('kind__in', ['advance', 'recovery']), _connector='OR'), name='transfer_kind_has_reference'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('balance', None), ('kind__in', ['takeback', 'giveback', 'advance', 'recovery', 'payout', 'payout_return'])), models.Q(('balance__isnull', False), ('kind__in', ['grant', 'purchase', 'capture', 'refund', 'expiry', 'clawback', 'settlement', 'exchange'])), _connector='OR'), name='transfer_of_a_customer_has_balance'),
        ),
        migrations.AddField(
            model_name='earning',
            name='lot',
            field=models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='earnings', to='billing.lot'),
        ),
        migrations.AddField(
            model_name='earning',
            name='maker',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='earnings', to='billing.wallet'),
        ),
        migrations.AddField(
            model_name='earning',
            name='transfer',
            field=models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='earnings', to='billing.transfer'),
        ),
        migrations.AddConstraint(
            model_name='marketing',
            constraint=models.UniqueConstraint(condition=models.Q(('is_open', True)), fields=('is_open',), name='marketing_one_open'),
        ),
        migrations.AddConstraint(
            model_name='marketing',
            constraint=models.CheckConstraint(condition=models.Q(('currency__regex', '^[a-z]{3}$'), ('price_minor__gt', 0), ('used_minor__gte', 0), ('weighed__gte', 0), ('funded_minor__gte', models.F('used_minor'))), name='marketing_within_funds'),
        ),
        migrations.AddField(
            model_name='funding',
            name='account',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='fundings', to='billing.marketing'),
        ),
        migrations.AddField(
            model_name='purse',
            name='maker',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='purses', to='billing.wallet'),
        ),
        migrations.AddField(
            model_name='exchange',
            name='purse',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='exchanges', to='billing.purse'),
        ),
        migrations.AddIndex(
            model_name='earning',
            index=models.Index(models.F('maker'), models.F('transfer'), name='earning_by_maker'),
        ),
        migrations.AddIndex(
            model_name='earning',
            index=models.Index(models.F('id'), condition=models.Q(('weighed', False)), name='earning_to_weigh'),
        ),
        migrations.AddConstraint(
            model_name='earning',
            constraint=models.UniqueConstraint(fields=('reference', 'maker', 'lot'), name='earning_once'),
        ),
        migrations.AddConstraint(
            model_name='earning',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0), ('back__gte', 0), ('back__lte', models.F('amount')), ('owed__gte', 0), ('owed__lte', models.F('amount'))), name='earning_within_amount'),
        ),
        migrations.AddConstraint(
            model_name='earning',
            constraint=models.CheckConstraint(condition=models.Q(('back_minor__gte', 0), ('back_minor__lte', models.F('money_minor')), ('owed_minor__gte', 0), ('owed_minor__lte', models.F('money_minor'))), name='earning_within_worth'),
        ),
        migrations.AddConstraint(
            model_name='earning',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('currency', ''), ('money_minor', 0)), models.Q(('currency__regex', '^[a-z]{3}$'), ('weighed', True)), _connector='OR'), name='earning_worth_has_currency'),
        ),
        migrations.AddConstraint(
            model_name='funding',
            constraint=models.CheckConstraint(condition=models.Q(('amount_minor', 0), _negated=True), name='funding_moves'),
        ),
        migrations.AddConstraint(
            model_name='purse',
            constraint=models.UniqueConstraint(fields=('maker', 'currency'), name='purse_once'),
        ),
        migrations.AddConstraint(
            model_name='purse',
            constraint=models.CheckConstraint(condition=models.Q(('advanced__gte', 0), ('out__gte', 0), ('out_minor__gte', 0)), name='purse_in_range'),
        ),
        migrations.AddConstraint(
            model_name='exchange',
            constraint=models.UniqueConstraint(fields=('purse', 'idempotency_key'), name='exchange_once'),
        ),
        migrations.AddConstraint(
            model_name='exchange',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0), ('money_minor__gte', 0)), name='exchange_in_range'),
        ),
        migrations.RunSQL(EARNINGS, migrations.RunSQL.noop),
        migrations.RunSQL(GUARDS, UNGUARD),
    ]
