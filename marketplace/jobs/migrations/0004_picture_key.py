from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("jobs", "0003_holds_know_their_keys")]

    operations = [
        migrations.AddField(
            model_name="job",
            name="picture_key",
            field=models.BinaryField(
                help_text="SHA-256 of what the pictures follow from, once they are there", max_length=32, null=True
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=Q(picture_key__isnull=False), fields=["account", "picture_key"], name="job_pictures"
            ),
        ),
    ]
