"""Refunds that we request have our id first, and Stripe's later."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0013_top_up_tax'),
    ]

    operations = [
        migrations.AddField('reversal', 'stripe_id', models.TextField(default='')),
        migrations.AddConstraint(
            'reversal',
            models.UniqueConstraint(
                condition=models.Q(('stripe_id', ''), _negated=True), fields=('stripe_id',),
                name='reversal_stripe_id_once',
            ),
        ),
    ]
