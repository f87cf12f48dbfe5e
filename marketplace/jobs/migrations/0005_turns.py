from django.db import migrations, models
from django.db.models import Q

SENT = Q(status="queued", dispatched_at__isnull=False)


class Migration(migrations.Migration):
    dependencies = [("jobs", "0004_picture_key")]

    operations = [
        migrations.AddField(
            model_name="job",
            name="tag",
            field=models.BigIntegerField(help_text="place among the waiting jobs of its class; see `turns`", null=True),
        ),
        # what was sent before there were tags comes before what is sent now
        migrations.RunSQL(
            "UPDATE jobs_job SET tag = 0 WHERE status = 'queued' AND dispatched_at IS NOT NULL", migrations.RunSQL.noop
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(condition=SENT, fields=["service_class", "tag", "id"], name="job_turns"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=SENT, fields=["account", "service_class", "tag"], name="job_turns_of_account"
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(condition=SENT, fields=["service_class", "dispatched_at"], name="job_messages"),
        ),
    ]
