"""Jobs show what a cancel would cost."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('jobs', '0005_turns'),
    ]

    operations = [
        migrations.AddField(
            model_name='job',
            name='cancel_cost',
            field=models.BigIntegerField(db_default=0, default=0, help_text='milli-Tokens that a cancel would have cost when the worker last reported'),
        ),
    ]
