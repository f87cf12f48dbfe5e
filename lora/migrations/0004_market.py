"""The market: publications, what is used and how it is liked, reports, and which versions may be published."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

GUARD = """
CREATE OR REPLACE FUNCTION lora_guard_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    may_change text[] := ARRAY['deleted_at', 'stored'];
    settles CONSTANT text[] := ARRAY['status', 'reason', 'sha256', 'size', 'rank', 'layers', 'recipe', 'samples',
                                     'score', 'surcharge', 'may_publish'];
BEGIN
    IF OLD.status = 'checking' THEN
        may_change := may_change || settles;
    END IF;
    IF to_jsonb(NEW) - may_change IS DISTINCT FROM to_jsonb(OLD) - may_change THEN
        RAISE EXCEPTION 'version % of adapter % keeps what it is', OLD.number, OLD.adapter_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF (OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS DISTINCT FROM OLD.deleted_at)
       OR (NEW.stored AND NOT OLD.stored) THEN
        RAISE EXCEPTION 'version % of adapter % does not come back', OLD.number, OLD.adapter_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""

UNGUARD = """
CREATE OR REPLACE FUNCTION lora_guard_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    may_change text[] := ARRAY['deleted_at', 'stored'];
    settles CONSTANT text[] := ARRAY['status', 'reason', 'sha256', 'size', 'rank', 'layers', 'recipe', 'samples',
                                     'score', 'surcharge'];
BEGIN
    IF OLD.status = 'checking' THEN
        may_change := may_change || settles;
    END IF;
    IF to_jsonb(NEW) - may_change IS DISTINCT FROM to_jsonb(OLD) - may_change THEN
        RAISE EXCEPTION 'version % of adapter % keeps what it is', OLD.number, OLD.adapter_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF (OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS DISTINCT FROM OLD.deleted_at)
       OR (NEW.stored AND NOT OLD.stored) THEN
        RAISE EXCEPTION 'version % of adapter % does not come back', OLD.number, OLD.adapter_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('lora', '0003_listings'),
    ]

    operations = [
        migrations.AddField(
            model_name='adapter',
            name='tags',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=40), blank=True, default=list, size=None),
        ),
        migrations.AddField(
            model_name='adapter',
            name='uses',
            field=models.PositiveBigIntegerField(default=0, help_text='jobs that were charged, as of the last count'),
        ),
        migrations.AddField(
            model_name='version',
            name='may_publish',
            field=models.BooleanField(default=True),
        ),
        migrations.CreateModel(
            name='Publication',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('fee', models.PositiveIntegerField(help_text='thousandths of the price of a picture without adapters')),
                ('licence', models.CharField(max_length=100)),
                ('tags', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=40), blank=True, default=list, size=None)),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('approved', 'Approved'), ('refused', 'Refused'), ('withdrawn', 'Withdrawn')], default='pending', max_length=10)),
                ('reason', models.CharField(blank=True, default='', max_length=500)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('decided_at', models.DateTimeField(null=True)),
                ('adapter', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='publications', to='lora.adapter')),
                ('version', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='publications', to='lora.version')),
            ],
            options={
                'constraints': [models.UniqueConstraint(condition=models.Q(('status', 'pending')), fields=('adapter',), name='publication_one_pending'), models.CheckConstraint(condition=models.Q(models.Q(('decided_at', None), ('status', 'pending')), models.Q(('decided_at__isnull', False), ('status__in', ['approved', 'refused', 'withdrawn'])), _connector='OR'), name='publication_decided_has_time')],
            },
        ),
        migrations.CreateModel(
            name='Rating',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('account', models.UUIDField()),
                ('stars', models.PositiveSmallIntegerField()),
                ('rated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('adapter', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='ratings', to='lora.adapter')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('adapter', 'account'), name='rating_once'), models.CheckConstraint(condition=models.Q(('stars__range', (1, 5))), name='rating_in_range')],
            },
        ),
        migrations.CreateModel(
            name='Report',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('account', models.UUIDField()),
                ('reason', models.CharField(choices=[('illegal', 'Illegal'), ('copyright', 'Copyright'), ('person', 'Person'), ('misleading', 'Misleading'), ('other', 'Other')], max_length=20)),
                ('text', models.CharField(blank=True, default='', max_length=2000)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('closed_at', models.DateTimeField(null=True)),
                ('outcome', models.CharField(blank=True, default='', max_length=500)),
                ('adapter', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='reports', to='lora.adapter')),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('closed_at', None)), fields=['-id'], name='report_open')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('closed_at', None)), fields=('adapter', 'account'), name='report_one_open_each')],
            },
        ),
        migrations.CreateModel(
            name='Usage',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('account', models.UUIDField()),
                ('jobs', models.PositiveBigIntegerField(default=0)),
                ('adapter', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='usage', to='lora.adapter')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('adapter', 'account'), name='usage_once')],
            },
        ),
        migrations.RunSQL(GUARD, UNGUARD),
    ]
