"""Terms of published versions, which are never changed."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

GUARD = """
CREATE TRIGGER listing_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON lora_listing
    FOR EACH STATEMENT EXECUTE FUNCTION lora_refuse();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('lora', '0002_tiers'),
    ]

    operations = [
        migrations.CreateModel(
            name='Listing',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('fee', models.PositiveIntegerField()),
                ('share', models.PositiveIntegerField()),
                ('licence', models.CharField(max_length=100)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('version', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='listings', to='lora.version')),
            ],
            options={
                'indexes': [models.Index(fields=['version', '-id'], name='listing_of_version')],
                'constraints': [models.CheckConstraint(condition=models.Q(('fee__range', (0, 10000)), ('share__range', (0, 1000))), name='listing_in_range')],
            },
        ),
        migrations.RunSQL(GUARD, "DROP TRIGGER listing_immutable ON lora_listing;"),
    ]
