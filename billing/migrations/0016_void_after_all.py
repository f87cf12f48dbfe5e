from django.db import migrations, models
from django.db.models import F, Q

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
# A waiver for money that came back becomes void; so does a claw-back that demanded no Token.
VOIDED = """
           AND NOT (NEW.settlement = 'void' AND (NEW.collected, NEW.settled_at) = (OLD.collected, OLD.settled_at)
                    AND (OLD.settlement = 'waived' AND NEW.waiver = OLD.waiver
                         OR OLD.settlement = 'collected' AND OLD.amount = 0))"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0015_reversal_since")]

    operations = [
        migrations.RunSQL(GUARD.format(unless=VOIDED), GUARD.format(unless="")),
        migrations.RemoveConstraint(model_name="clawback", name="clawback_settled_says_how"),
        migrations.AddConstraint(
            model_name="clawback",
            constraint=models.CheckConstraint(
                condition=Q(settled_at__isnull=True, settlement="", waiver="", collected__lt=F("amount"))
                | Q(settled_at__isnull=False, settlement__in=["collected", "paid"], waiver="", collected=F("amount"))
                | (
                    Q(settled_at__isnull=False, settlement__in=["waived", "void"])
                    & (Q(collected__lt=F("amount")) | Q(settlement="void", amount=0))
                    & ~Q(waiver="")
                ),
                name="clawback_settled_says_how",
            ),
        ),
    ]
