"""Tiers of trainings: their table, the guard that keeps their terms, and the first three."""

import django.db.models.functions.datetime
from django.db import migrations, models

GUARD = """
CREATE FUNCTION lora_guard_tier() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(NEW) - 'active' IS DISTINCT FROM to_jsonb(OLD) - 'active' OR (NEW.active AND NOT OLD.active) THEN
        RAISE EXCEPTION 'tier % keeps its terms', OLD.name USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER tier_keeps_its_terms BEFORE UPDATE ON lora_tier
    FOR EACH ROW EXECUTE FUNCTION lora_guard_tier();
CREATE TRIGGER tier_kept BEFORE DELETE OR TRUNCATE ON lora_tier
    FOR EACH STATEMENT EXECUTE FUNCTION lora_refuse();
"""

UNGUARD = """
DROP TRIGGER tier_keeps_its_terms ON lora_tier;
DROP TRIGGER tier_kept ON lora_tier;
DROP FUNCTION lora_guard_tier();
"""

OPENING_ROWS = """
INSERT INTO lora_tier (name, version, description, base_cost, floor, most_pictures, side, rank, most_steps,
                       versions_kept, service_class, may_publish, surcharge, active) VALUES
    ('sketch', 1, 'To try an idea: few pictures, a small adapter, trained when there is room.',
     2400000, 589824, 20, 512, 8, 1000, 2, 'batch', false, 100, true),
    ('craft', 1, 'For a style or a product: may be published and sold.',
     2500000, 589824, 60, 1024, 16, 2000, 5, 'standard', true, 50, true),
    ('brand', 1, 'For what must be right: many pictures, the most detail, no surcharge on pictures, next in turn.',
     3500000, 589824, 200, 1328, 32, 4000, 20, 'interactive', true, 0, true);
"""


class Migration(migrations.Migration):

    dependencies = [
        ('lora', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Tier',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.SlugField(max_length=40)),
                ('version', models.PositiveIntegerField()),
                ('description', models.CharField(max_length=500)),
                ('base_cost', models.BigIntegerField(help_text='milli-Tokens for 1,000 steps at 1024²')),
                ('floor', models.PositiveIntegerField(help_text='pixels, below which a training costs no less')),
                ('most_pictures', models.PositiveSmallIntegerField()),
                ('side', models.PositiveSmallIntegerField(help_text='pixels')),
                ('rank', models.PositiveSmallIntegerField()),
                ('most_steps', models.PositiveIntegerField()),
                ('versions_kept', models.PositiveSmallIntegerField(help_text='checkpoints that can be compared afterwards')),
                ('service_class', models.CharField(max_length=20)),
                ('may_publish', models.BooleanField()),
                ('surcharge', models.PositiveIntegerField(help_text='thousandths of the price of each picture')),
                ('active', models.BooleanField(default=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'verbose_name': 'training tier',
                'constraints': [models.UniqueConstraint(fields=('name', 'version'), name='tier_version_once'), models.UniqueConstraint(condition=models.Q(('active', True)), fields=('name',), name='tier_one_active_version'), models.CheckConstraint(condition=models.Q(('base_cost__gt', 0), ('most_pictures__gte', 4), ('most_steps__gt', 0), ('rank__range', (1, 256)), ('side__gt', 0), ('version__gt', 0), ('versions_kept__gt', 0)), name='tier_in_range')],
            },
        ),
        migrations.RunSQL(GUARD, UNGUARD),
        migrations.RunSQL(OPENING_ROWS, migrations.RunSQL.noop),
    ]
