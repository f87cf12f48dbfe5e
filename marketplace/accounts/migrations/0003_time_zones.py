"""Accounts have a time zone, in which their days and months begin."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_spend_caps")]

    operations = [
        migrations.AddField("account", "time_zone", models.CharField(default="UTC", max_length=64)),
        *(
            migrations.AddField("account", name, models.DateTimeField(editable=False, null=True))
            for name in ("day_from", "day_until", "month_from", "month_until")
        ),
    ]
