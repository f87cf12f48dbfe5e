"""What is asked of Stripe: which card is saved, and refunds under keys that change once Stripe has stored an error."""

from django.db import migrations, models
from django.db.models import Q

# A card saved before the upgrade is not replaced by an older one that Stripe still has.
KNOWN = "UPDATE billing_payer SET card_created = extract(epoch FROM now()) WHERE card_id <> ''"


class Migration(migrations.Migration):
    dependencies = [("billing", "0016_void_after_all")]

    operations = [
        migrations.AddField("payer", "card_created", models.BigIntegerField(default=0)),
        migrations.AddField("payer", "card_news", models.TextField(default="")),
        migrations.AddIndex(
            "payer", models.Index(models.F("owner"), condition=~Q(card_news=""), name="payer_with_news")
        ),
        migrations.AddField("reversal", "attempt", models.PositiveIntegerField(default=0)),
        migrations.RunSQL(KNOWN, migrations.RunSQL.noop),
    ]
