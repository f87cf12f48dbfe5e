"""That a job was forgotten stays, and nothing of what it was."""

from django.db import migrations

WATCH = """
CREATE CONSTRAINT TRIGGER audit_job_forgotten AFTER UPDATE OF forgotten_at ON jobs_job
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.forgotten_at IS DISTINCT FROM NEW.forgotten_at)
    EXECUTE FUNCTION audit_act('job.forgotten', 'job', 'account_id', 'forgotten_at');
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0004_tiers"), ("jobs", "0007_forgetting")]

    operations = [migrations.RunSQL(WATCH, "DROP TRIGGER audit_job_forgotten ON jobs_job;")]
