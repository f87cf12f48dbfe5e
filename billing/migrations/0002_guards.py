"""Rules that constraints cannot express: some rows are never changed, and holds are resolved once.

Also the rows that billing starts with: the mint, the platform and the first price list. Tests that flush the tables
restore them with OPENING_ROWS.
"""

from django.db import migrations

OPENING_ROWS = """
INSERT INTO billing_wallet (id, kind) VALUES (1, 'mint'), (2, 'platform');
INSERT INTO billing_pricelistversion
    (version, base_cost, prompt_floor, service_classes, operations, skipped_step)
VALUES (1, 100000, 25,
        '{"interactive": 1500, "standard": 1000, "batch": 500}',
        '{"generate": 1000, "edit": 1000, "inpaint": 1000, "outpaint": 1000}',
        250);
"""

NUMBERING = "ALTER TABLE billing_wallet ALTER COLUMN id SET START WITH 100 RESTART WITH 100;"

GUARDS = """
CREATE FUNCTION billing_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION billing_guard_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.wallet_id, NEW.reference, NEW.amount, NEW.created_at)
       IS DISTINCT FROM (OLD.id, OLD.wallet_id, OLD.reference, OLD.amount, OLD.created_at) THEN
        RAISE EXCEPTION 'hold % keeps its wallet and amount', OLD.reference
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.status <> 'held'
       AND ((NEW.status, NEW.captured, NEW.expires_at, NEW.resolved_at)
            IS DISTINCT FROM (OLD.status, OLD.captured, OLD.expires_at, OLD.resolved_at)
            OR NEW.refunded < OLD.refunded) THEN
        RAISE EXCEPTION 'hold % was % already', OLD.reference, OLD.status
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER transfer_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER price_list_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_pricelistversion
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER wallet_kept BEFORE DELETE OR TRUNCATE ON billing_wallet
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER wallet_keeps_its_owner BEFORE UPDATE OF id, owner, kind ON billing_wallet
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER hold_kept BEFORE DELETE OR TRUNCATE ON billing_hold
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE TRIGGER hold_resolved_once BEFORE UPDATE ON billing_hold
    FOR EACH ROW EXECUTE FUNCTION billing_guard_hold();
"""

UNGUARD = """
DROP TRIGGER transfer_append_only ON billing_transfer;
DROP TRIGGER price_list_immutable ON billing_pricelistversion;
DROP TRIGGER wallet_kept ON billing_wallet;
DROP TRIGGER wallet_keeps_its_owner ON billing_wallet;
DROP TRIGGER hold_kept ON billing_hold;
DROP TRIGGER hold_resolved_once ON billing_hold;
DROP FUNCTION billing_refuse();
DROP FUNCTION billing_guard_hold();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [
        migrations.RunSQL(NUMBERING, migrations.RunSQL.noop),
        migrations.RunSQL(OPENING_ROWS, migrations.RunSQL.noop),
        migrations.RunSQL(GUARDS, UNGUARD),
    ]
