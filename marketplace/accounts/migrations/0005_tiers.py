"""Tiers, and the first two: every account that there is gets the standard one."""

import django.core.validators
import django.db.models.deletion
import marketplace.accounts.columns
from django.db import migrations, models


FIRST_TIERS = """
INSERT INTO accounts_tier (id, name, requests_minute, key_requests_minute, requests_day, upload_mb_hour, queued_jobs,
                           streams, files, files_mb, files_unfunded) VALUES
    (1, 'standard', 9000, 6000, 2000000, 2048, 5000, 600, 1000, 1024, 20),
    (2, 'large', 60000, 30000, 20000000, 20480, 50000, 3000, 10000, 10240, 20);
"""
NEXT = "SELECT setval(pg_get_serial_sequence('accounts_tier', 'id'), 2);"


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0004_normal_text'),
    ]

    operations = [
        migrations.CreateModel(
            name='Tier',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', marketplace.accounts.columns.Line(max_length=40, unique=True)),
                ('requests_minute', models.PositiveIntegerField(help_text='Requests a minute of an account.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(1000000000)])),
                ('key_requests_minute', models.PositiveIntegerField(help_text='Requests a minute of each of its API keys.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(1000000000)])),
                ('requests_day', models.PositiveIntegerField(help_text='Requests a day of an account.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(1000000000)])),
                ('upload_mb_hour', models.PositiveIntegerField(help_text='MiB sent an hour, of bodies above 64 KiB.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(1000000000)])),
                ('queued_jobs', models.PositiveIntegerField(help_text='Jobs that may wait for a worker at once.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(1000000000)])),
                ('streams', models.PositiveIntegerField(help_text='Streams of events that may be open at once.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(1000000000)])),
                ('files', models.PositiveIntegerField(help_text='Files kept at once.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(1000000000)])),
                ('files_mb', models.PositiveIntegerField(help_text='MiB of files kept at once.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(1000000000)])),
                ('files_unfunded', models.PositiveIntegerField(help_text='Files kept at once by an account that has no Tokens.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(1000000000)])),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('key_requests_minute__gte', 1), ('queued_jobs__gte', 1), ('requests_day__gte', 1), ('requests_minute__gte', 1), ('files__gte', 1), ('files_mb__gte', 1), ('streams__gte', 1), ('upload_mb_hour__gte', 1), ('files_unfunded__gte', 1)), name='tier_lets_something_through')],
            },
        ),
        migrations.RunSQL(FIRST_TIERS + NEXT, migrations.RunSQL.noop),
        migrations.AddField(
            model_name='account',
            name='tier',
            field=models.ForeignKey(default=1, on_delete=django.db.models.deletion.PROTECT, to='accounts.tier'),
        ),
    ]
