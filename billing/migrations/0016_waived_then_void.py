from django.db import migrations

GUARD = """
CREATE OR REPLACE FUNCTION billing_guard_clawback() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.lot_id, NEW.money_minor, NEW.amount, NEW.reason, NEW.idempotency_key, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.lot_id, OLD.money_minor, OLD.amount, OLD.reason, OLD.idempotency_key, OLD.created_at)
       OR NEW.collected < OLD.collected OR OLD.settled_at IS NOT NULL{unless} THEN
        RAISE EXCEPTION 'claw-back % keeps its terms', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""
# What was waived for money that came again was waived for nothing.
VOIDED = """
           AND (OLD.settlement, NEW.settlement, NEW.collected, NEW.settled_at, NEW.waiver)
               IS DISTINCT FROM ('waived', 'void', OLD.collected, OLD.settled_at, OLD.waiver)"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0015_reversal_since")]

    operations = [migrations.RunSQL(GUARD.format(unless=VOIDED), GUARD.format(unless=""))]
