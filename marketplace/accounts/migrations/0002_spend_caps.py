"""Spend caps of accounts and API keys; none to begin with."""

from django.db import migrations, models


def caps(model):
    names = ("daily_cap", "monthly_cap")
    return [
        *(migrations.AddField(model, name, models.BigIntegerField(blank=True, null=True)) for name in names),
        migrations.AddConstraint(
            model,
            models.CheckConstraint(
                condition=(
                    (models.Q(("daily_cap", None)) | models.Q(("daily_cap__gte", 0)))
                    & (models.Q(("monthly_cap", None)) | models.Q(("monthly_cap__gte", 0)))
                ),
                name=f"{model}_caps_not_negative",
            ),
        ),
    ]


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0001_initial'),
    ]

    operations = [*caps("account"), *caps("apikey")]
