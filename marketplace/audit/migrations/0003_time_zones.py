"""An account's time zone says when its caps begin anew."""

from django.db import migrations

WATCH = """
DROP TRIGGER audit_account ON accounts_account;
CREATE CONSTRAINT TRIGGER audit_account
    AFTER UPDATE OF is_active, owner_id, daily_cap, monthly_cap{more} ON accounts_account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.is_active, OLD.owner_id, OLD.daily_cap, OLD.monthly_cap{old})
          IS DISTINCT FROM (NEW.is_active, NEW.owner_id, NEW.daily_cap, NEW.monthly_cap{new}))
    EXECUTE FUNCTION
        audit_act('account.changed', 'account', 'is_active', 'owner_id', 'daily_cap', 'monthly_cap'{name});
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0002_caps"), ("accounts", "0003_time_zones")]

    operations = [
        migrations.RunSQL(
            WATCH.format(more=", time_zone", old=", OLD.time_zone", new=", NEW.time_zone", name=", 'time_zone'"),
            WATCH.format(more="", old="", new="", name=""),
        ),
    ]
