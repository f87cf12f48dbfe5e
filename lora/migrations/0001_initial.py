"""Makers, adapters, whom they are shared with, and their versions, which nothing changes once they are ready."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

GUARDS = """
CREATE FUNCTION lora_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION lora_guard_version() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER version_keeps_what_it_is BEFORE UPDATE ON lora_version
    FOR EACH ROW EXECUTE FUNCTION lora_guard_version();
CREATE TRIGGER version_kept BEFORE DELETE OR TRUNCATE ON lora_version
    FOR EACH STATEMENT EXECUTE FUNCTION lora_refuse();
CREATE TRIGGER maker_kept BEFORE DELETE OR TRUNCATE ON lora_maker
    FOR EACH STATEMENT EXECUTE FUNCTION lora_refuse();
"""

UNGUARD = """
DROP TRIGGER version_keeps_what_it_is ON lora_version;
DROP TRIGGER version_kept ON lora_version;
DROP TRIGGER maker_kept ON lora_maker;
DROP FUNCTION lora_guard_version();
DROP FUNCTION lora_refuse();
"""


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Maker',
            fields=[
                ('account', models.UUIDField(primary_key=True, serialize=False)),
                ('handle', models.CharField(max_length=40, unique=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('handle__regex', '^[a-z0-9](-?[a-z0-9])*$')), name='maker_handle_normal')],
            },
        ),
        migrations.CreateModel(
            name='Adapter',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('slug', models.CharField(max_length=40)),
                ('name', models.CharField(max_length=100)),
                ('description', models.CharField(blank=True, default='', max_length=2000)),
                ('trigger_words', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=100), blank=True, default=list, size=None)),
                ('base_model', models.CharField(max_length=100)),
                ('base_revision', models.CharField(max_length=64)),
                ('visibility', models.CharField(choices=[('private', 'Private'), ('shared', 'Shared'), ('published', 'Published')], default='private', max_length=10)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('deleted_at', models.DateTimeField(editable=False, null=True)),
                ('owner', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='adapters', to='lora.maker')),
            ],
        ),
        migrations.CreateModel(
            name='Shared',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('account', models.UUIDField(db_index=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('adapter', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='shared', to='lora.adapter')),
            ],
            options={
                'verbose_name_plural': 'shared',
            },
        ),
        migrations.CreateModel(
            name='Version',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('number', models.PositiveIntegerField()),
                ('status', models.CharField(choices=[('checking', 'Checking'), ('ready', 'Ready'), ('refused', 'Refused')], default='checking', max_length=10)),
                ('reason', models.CharField(blank=True, default='', max_length=500)),
                ('origin', models.CharField(choices=[('uploaded', 'Uploaded'), ('trained', 'Trained')], max_length=10)),
                ('sha256', models.CharField(blank=True, default='', max_length=64)),
                ('size', models.BigIntegerField(help_text='bytes; of what was sent, until it is ready')),
                ('rank', models.PositiveIntegerField(default=0, help_text='the highest of any layer')),
                ('layers', models.PositiveIntegerField(default=0)),
                ('recipe', models.JSONField(blank=True, default=dict)),
                ('samples', models.JSONField(blank=True, default=list)),
                ('score', models.PositiveIntegerField(null=True)),
                ('surcharge', models.PositiveIntegerField(default=0)),
                ('stored', models.BooleanField(default=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('deleted_at', models.DateTimeField(editable=False, null=True)),
                ('adapter', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='versions', to='lora.adapter')),
            ],
        ),
        migrations.AddIndex(
            model_name='adapter',
            index=models.Index(fields=['owner', '-id'], name='adapter_of_owner'),
        ),
        migrations.AddConstraint(
            model_name='adapter',
            constraint=models.UniqueConstraint(condition=models.Q(('deleted_at', None)), fields=('owner', 'slug'), name='adapter_slug_once'),
        ),
        migrations.AddConstraint(
            model_name='adapter',
            constraint=models.CheckConstraint(condition=models.Q(('slug__regex', '^[a-z0-9](-?[a-z0-9])*$')), name='adapter_slug_normal'),
        ),
        migrations.AddConstraint(
            model_name='adapter',
            constraint=models.CheckConstraint(condition=models.Q(('visibility__in', ['private', 'shared', 'published'])), name='adapter_visibility_known'),
        ),
        migrations.AddConstraint(
            model_name='shared',
            constraint=models.UniqueConstraint(fields=('adapter', 'account'), name='shared_once'),
        ),
        migrations.AddIndex(
            model_name='version',
            index=models.Index(condition=models.Q(('status', 'checking')), fields=['id'], name='version_to_check'),
        ),
        migrations.AddIndex(
            model_name='version',
            index=models.Index(condition=models.Q(('deleted_at__isnull', False), ('stored', True)), fields=['id'], name='version_to_remove'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.UniqueConstraint(fields=('adapter', 'number'), name='version_once'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('layers__gt', 0), ('rank__range', (1, 256)), ('reason', ''), ('sha256__regex', '^[0-9a-f]{64}$'), ('status', 'ready')), models.Q(('reason', ''), ('sha256', ''), ('status', 'checking')), models.Q(('reason__gt', ''), ('sha256', ''), ('status', 'refused')), _connector='OR'), name='version_status_has_facts'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(('number__gt', 0), ('size__gt', 0)), name='version_in_range'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(('origin__in', ['uploaded', 'trained'])), name='version_origin_known'),
        ),
        migrations.AddConstraint(
            model_name='version',
            constraint=models.CheckConstraint(condition=models.Q(('stored', True), ('deleted_at__isnull', False), ('status', 'refused'), _connector='OR'), name='version_kept_while_used'),
        ),
        migrations.RunSQL(GUARDS, UNGUARD),
    ]
