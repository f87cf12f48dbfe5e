"""Token packs: their table, the guard that keeps their terms, and the first three."""

import django.db.models.functions.datetime
from django.db import migrations, models


GUARD = """
CREATE FUNCTION billing_guard_pack() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.name, NEW.version, NEW.tokens, NEW.bonus, NEW.prices, NEW.created_at)
       IS DISTINCT FROM (OLD.id, OLD.name, OLD.version, OLD.tokens, OLD.bonus, OLD.prices, OLD.created_at) THEN
        RAISE EXCEPTION 'pack % keeps its terms', OLD.name USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER pack_keeps_its_terms BEFORE UPDATE ON billing_pack
    FOR EACH ROW EXECUTE FUNCTION billing_guard_pack();
CREATE TRIGGER pack_kept BEFORE DELETE OR TRUNCATE ON billing_pack
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
"""

UNGUARD = """
DROP TRIGGER pack_keeps_its_terms ON billing_pack;
DROP TRIGGER pack_kept ON billing_pack;
DROP FUNCTION billing_guard_pack();
"""

FIRST_PACKS = """
INSERT INTO billing_pack (name, version, tokens, bonus, prices, active) VALUES
    ('small', 1, 10000000, 0, '{"eur": 500, "usd": 500}', true),
    ('medium', 1, 40000000, 4000000, '{"eur": 2000, "usd": 2000}', true),
    ('large', 1, 200000000, 40000000, '{"eur": 10000, "usd": 10000}', true);
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0005_lot_guards'),
    ]

    operations = [
        migrations.CreateModel(
            name='Pack',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.SlugField(max_length=40)),
                ('version', models.PositiveIntegerField()),
                ('tokens', models.BigIntegerField()),
                ('bonus', models.BigIntegerField()),
                ('prices', models.JSONField()),
                ('active', models.BooleanField(default=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'verbose_name': 'Token pack',
                'constraints': [models.UniqueConstraint(fields=('name', 'version'), name='pack_version_once'), models.UniqueConstraint(condition=models.Q(('active', True)), fields=('name',), name='pack_one_active_version'), models.CheckConstraint(condition=models.Q(('bonus__gte', 0), ('tokens__gt', 0), ('version__gt', 0)), name='pack_in_range')],
            },
        ),
        migrations.RunSQL(GUARD, UNGUARD),
        migrations.RunSQL(FIRST_PACKS, migrations.RunSQL.noop),
    ]
