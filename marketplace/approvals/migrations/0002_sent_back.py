"""A refund that was executed fails after all if the card's bank sends the money back."""

from django.db import migrations

GUARD = """
CREATE OR REPLACE FUNCTION approvals_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.kind, NEW.arguments, NEW.size, NEW.reason, NEW.needs_approval, NEW.asked_by_id, NEW.asked_at,
        NEW.expires_at)
       IS DISTINCT FROM
       (OLD.id, OLD.kind, OLD.arguments, OLD.size, OLD.reason, OLD.needs_approval, OLD.asked_by_id, OLD.asked_at,
        OLD.expires_at) THEN
        RAISE EXCEPTION 'request % keeps its terms', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.status <> 'pending' AND (OLD.decided_by_id, OLD.decided_at) IS DISTINCT FROM (NEW.decided_by_id, NEW.decided_at)
       OR (OLD.status, NEW.status) NOT IN (('pending', 'approved'), ('pending', 'executed'), ('pending', 'rejected'),
           ('pending', 'expired'), ('approved', 'executed'), ('approved', 'failed')){also} THEN
        RAISE EXCEPTION 'request % is % already', OLD.id, OLD.status USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""
SENT_BACK = """
          AND NOT (OLD.kind = 'payment_refund' AND (OLD.status, NEW.status) = ('executed', 'failed'))"""


class Migration(migrations.Migration):
    dependencies = [("approvals", "0001_requests")]

    operations = [migrations.RunSQL(GUARD.format(also=SENT_BACK), GUARD.format(also=""))]
