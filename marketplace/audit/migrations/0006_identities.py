"""Who may speak for an account by a token, and which sites' scripts may read its answers."""

from django.db import migrations

WATCH = "\n".join(
    f"""CREATE CONSTRAINT TRIGGER audit_{noun}_{done} AFTER {event} ON accounts_{noun}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit_act('{noun}.{done}', '{noun}', {columns});"""
    for noun, columns in (("identity", "'account_id', 'issuer', 'subject'"), ("origin", "'account_id', 'origin'"))
    for done, event in (("linked", "INSERT OR UPDATE"), ("unlinked", "DELETE"))
)
UNWATCH = "\n".join(
    f"DROP TRIGGER audit_{noun}_{done} ON accounts_{noun};"
    for noun in ("identity", "origin")
    for done in ("linked", "unlinked")
)


class Migration(migrations.Migration):
    dependencies = [("audit", "0005_forgotten_jobs"), ("accounts", "0006_identities")]

    operations = [migrations.RunSQL(WATCH, UNWATCH)]
