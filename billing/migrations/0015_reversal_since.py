"""When a reversal's money left and when it came back; unknown for reversals that ended before."""

from django.db import migrations, models

KNOWN = "UPDATE billing_reversal SET since = created_at WHERE standing"


class Migration(migrations.Migration):

    dependencies = [
        ("billing", "0014_reversal_stripe_id"),
    ]

    operations = [
        migrations.AddField("reversal", "since", models.DateTimeField(null=True)),
        migrations.AddField("reversal", "until", models.DateTimeField(null=True)),
        migrations.RunSQL(KNOWN, migrations.RunSQL.noop),
        migrations.AddConstraint(
            "reversal",
            models.CheckConstraint(
                condition=models.Q(standing=True, since__isnull=False, until=None)
                | models.Q(standing=False, since=None, until=None)
                | models.Q(standing=False, since__isnull=False, until__isnull=False),
                name="reversal_stands_since",
            ),
        ),
    ]
