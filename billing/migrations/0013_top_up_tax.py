"""Top-ups store the tax that Stripe reported; it is unknown for those paid before."""

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
