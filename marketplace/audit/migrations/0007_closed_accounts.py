"""That an account was closed stays, and nothing of who owned it."""

from django.db import migrations

WATCH = """
CREATE CONSTRAINT TRIGGER audit_account_closed AFTER UPDATE OF closed_at ON accounts_account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.closed_at IS DISTINCT FROM NEW.closed_at)
    EXECUTE FUNCTION audit_act('account.closed', 'account', 'closed_at');
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0006_identities"), ("accounts", "0007_closing")]

    operations = [migrations.RunSQL(WATCH, "DROP TRIGGER audit_account_closed ON accounts_account;")]
