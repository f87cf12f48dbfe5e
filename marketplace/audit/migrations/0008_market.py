"""What happens to adapters, what operators decide in the market, and money for makers, name who did it."""

from django.db import migrations

# Name, table, when, its condition, and the arguments of audit_act.
ACTS = (
    ("audit_shared", "lora_shared", "INSERT", "true", "'adapter.shared', 'share', 'adapter_id', 'account'"),
    ("audit_unshared", "lora_shared", "DELETE", "true", "'adapter.unshared', 'share', 'adapter_id', 'account'"),
    ("audit_adapter_deleted", "lora_adapter", "UPDATE OF deleted_at", "OLD.deleted_at IS DISTINCT FROM NEW.deleted_at",
     "'adapter.deleted', 'adapter', 'owner_id', 'deleted_at'"),
    ("audit_version_deleted", "lora_version", "UPDATE OF deleted_at", "OLD.deleted_at IS DISTINCT FROM NEW.deleted_at",
     "'version.deleted', 'version', 'adapter_id', 'number', 'origin', 'deleted_at'"),
    ("audit_publication", "lora_publication", "UPDATE OF status", "OLD.status IS DISTINCT FROM NEW.status",
     "'publication.{status}', 'publication', 'adapter_id', 'version_id', 'fee', 'licence', 'reason'"),
    ("audit_report_closed", "lora_report", "UPDATE OF closed_at", "OLD.closed_at IS DISTINCT FROM NEW.closed_at",
     "'report.closed', 'report', 'adapter_id', 'reason', 'outcome'"),
    ("audit_training_tier", "lora_tier", "INSERT", "true",
     "'training_tier.published', 'training tier', 'name', 'version', 'base_cost', 'surcharge', 'may_publish', 'active'"),
    ("audit_training_tier_switched", "lora_tier", "UPDATE OF active", "OLD.active IS DISTINCT FROM NEW.active",
     "'training_tier.switched', 'training tier', 'name', 'version', 'active'"),
    ("audit_funding", "billing_funding", "INSERT", "true",
     "'marketing.funded', 'funding', 'account_id', 'amount_minor', 'idempotency_key'"),
)  # fmt: skip

WATCH = "\n".join(
    f"""CREATE CONSTRAINT TRIGGER {name} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION audit_act({arguments});"""
    for name, table, event, when, arguments in ACTS
)
UNWATCH = "\n".join(f"DROP TRIGGER {name} ON {table};" for name, table, *_ in ACTS)


class Migration(migrations.Migration):
    dependencies = [("audit", "0007_closed_accounts"), ("lora", "0004_market"), ("billing", "0021_earnings")]

    operations = [migrations.RunSQL(WATCH, UNWATCH)]
