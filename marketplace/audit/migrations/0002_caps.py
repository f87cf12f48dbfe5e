"""Spend caps and switched-off accounts are sensitive, too."""

from django.db import migrations

WATCH = """
CREATE CONSTRAINT TRIGGER audit_account AFTER UPDATE OF is_active, owner_id, daily_cap, monthly_cap ON accounts_account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.is_active, OLD.owner_id, OLD.daily_cap, OLD.monthly_cap)
          IS DISTINCT FROM (NEW.is_active, NEW.owner_id, NEW.daily_cap, NEW.monthly_cap))
    EXECUTE FUNCTION audit_act('account.changed', 'account', 'is_active', 'owner_id', 'daily_cap', 'monthly_cap');
CREATE CONSTRAINT TRIGGER audit_key_capped AFTER UPDATE OF daily_cap, monthly_cap ON accounts_apikey
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.daily_cap, OLD.monthly_cap) IS DISTINCT FROM (NEW.daily_cap, NEW.monthly_cap))
    EXECUTE FUNCTION audit_act('key.capped', 'key', 'account_id', 'name', 'prefix', 'daily_cap', 'monthly_cap');
"""

UNWATCH = """
DROP TRIGGER audit_key_capped ON accounts_apikey;
DROP TRIGGER audit_account ON accounts_account;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0001_chain"),
        ("accounts", "0002_spend_caps"),
    ]

    operations = [migrations.RunSQL(WATCH, UNWATCH)]
