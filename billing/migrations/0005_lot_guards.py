"""Rules for lots that constraints cannot express, and a lot for every grant made before there were lots.

The cursors of those wallets begin before their first transfer, so their lots follow everything that was ever spent.
"""

from django.db import migrations

LOTS_OF_OLD_GRANTS = """
INSERT INTO billing_lot (wallet_id, transfer_id, kind, amount, remaining, created_at)
SELECT target_id, id, 'granted', amount, amount, created_at FROM billing_transfer WHERE kind = 'grant';
"""

GUARDS = """
CREATE FUNCTION billing_guard_lot() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.wallet_id, NEW.transfer_id, NEW.kind, NEW.amount, NEW.price_minor, NEW.currency, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.wallet_id, OLD.transfer_id, OLD.kind, OLD.amount, OLD.price_minor, OLD.currency, OLD.created_at)
       OR coalesce(NEW.expires_at, 'infinity') < coalesce(OLD.expires_at, 'infinity') THEN
        RAISE EXCEPTION 'lot % keeps its terms', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION billing_guard_clawback() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.lot_id, NEW.money_minor, NEW.amount, NEW.reason, NEW.idempotency_key, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.lot_id, OLD.money_minor, OLD.amount, OLD.reason, OLD.idempotency_key, OLD.created_at)
       OR NEW.collected < OLD.collected OR OLD.settled_at IS NOT NULL THEN
        RAISE EXCEPTION 'claw-back % keeps its terms', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER lot_kept BEFORE DELETE OR TRUNCATE ON billing_lot
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER lot_keeps_its_terms BEFORE UPDATE ON billing_lot
    FOR EACH ROW EXECUTE FUNCTION billing_guard_lot();
CREATE TRIGGER draw_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_draw
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER clawback_kept BEFORE DELETE OR TRUNCATE ON billing_clawback
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER clawback_settled_once BEFORE UPDATE ON billing_clawback
    FOR EACH ROW EXECUTE FUNCTION billing_guard_clawback();
"""

UNGUARD = """
DROP TRIGGER lot_kept ON billing_lot;
DROP TRIGGER lot_keeps_its_terms ON billing_lot;
DROP TRIGGER draw_append_only ON billing_draw;
DROP TRIGGER clawback_kept ON billing_clawback;
DROP TRIGGER clawback_settled_once ON billing_clawback;
DROP FUNCTION billing_guard_lot();
DROP FUNCTION billing_guard_clawback();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_lots")]

    operations = [
        migrations.RunSQL(GUARDS, UNGUARD),
        migrations.RunSQL(LOTS_OF_OLD_GRANTS, migrations.RunSQL.noop),
    ]
