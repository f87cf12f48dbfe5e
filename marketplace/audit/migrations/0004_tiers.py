"""What the tiers let through is sensitive, and which an account has."""

from django.db import migrations

ACCOUNT = """
DROP TRIGGER audit_account ON accounts_account;
CREATE CONSTRAINT TRIGGER audit_account
    AFTER UPDATE OF is_active, owner_id, daily_cap, monthly_cap, time_zone{more} ON accounts_account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.is_active, OLD.owner_id, OLD.daily_cap, OLD.monthly_cap, OLD.time_zone{old})
          IS DISTINCT FROM (NEW.is_active, NEW.owner_id, NEW.daily_cap, NEW.monthly_cap, NEW.time_zone{new}))
    EXECUTE FUNCTION audit_act('account.changed', 'account', 'is_active', 'owner_id', 'daily_cap', 'monthly_cap',
                               'time_zone'{name});
"""
COLUMNS = (
    "'name', 'requests_minute', 'key_requests_minute', 'requests_day', 'upload_mb_hour', 'queued_jobs', 'streams',"
    " 'files', 'files_mb', 'files_unfunded'"
)
TIER = f"""
CREATE CONSTRAINT TRIGGER audit_tier AFTER INSERT OR UPDATE ON accounts_tier
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit_act('tier.changed', 'tier', {COLUMNS});
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0003_time_zones"), ("accounts", "0005_tiers")]

    operations = [
        migrations.RunSQL(
            ACCOUNT.format(more=", tier_id", old=", OLD.tier_id", new=", NEW.tier_id", name=", 'tier_id'"),
            ACCOUNT.format(more="", old="", new="", name=""),
        ),
        migrations.RunSQL(TIER, "DROP TRIGGER audit_tier ON accounts_tier;"),
    ]
