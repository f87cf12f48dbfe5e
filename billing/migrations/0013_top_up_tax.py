"""Top-ups keep what Stripe said of tax; of those that were paid before, nobody knows it."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0012_automatic_top_ups'),
    ]

    operations = [
        migrations.AddField(
            model_name='topup',
            name='tax_minor',
            field=models.BigIntegerField(null=True),
        ),
    ]
