"""The audit's table, the chain that it is, and the triggers that write into it.

A record's `hash` is sha256(previous || fields), where `previous` is the hash of the record before (32 zero bytes for
the first), and each of the fields seq, at, actor, act, object and details is written as `<bytes>:<text>,`. `at` is
text like 2026-11-21T14:03:07.000000Z, `details` the JSON as PostgreSQL prints it.

An act's record is written when its transaction commits, behind all locks that the transaction took: so acts wait for
one another for as long as a commit takes, nothing else waits at all, and there is no act without its record.
"""

from django.db import migrations, models

CHAIN = """
ALTER TABLE audit_record
    ADD CONSTRAINT record_numbered CHECK (seq > 0 AND octet_length(previous) = 32 AND octet_length(hash) = 32),
    ADD CONSTRAINT record_bounded CHECK (octet_length(actor) BETWEEN 1 AND 400 AND octet_length(act) BETWEEN 1 AND 100
        AND octet_length(object) <= 400 AND octet_length(details::text) <= 16384
        AND jsonb_typeof(details) = 'object');

CREATE FUNCTION audit_digest(previous bytea, VARIADIC fields text[]) RETURNS bytea IMMUTABLE LANGUAGE sql AS $$
    SELECT sha256(previous || convert_to(string_agg(octet_length(field) || ':' || field || ',', '' ORDER BY place),
                                         'UTF8'))
    FROM unnest(fields) WITH ORDINALITY AS f (field, place)
$$;

CREATE FUNCTION audit_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last audit_record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('audit'));
    SELECT * INTO last FROM audit_record ORDER BY seq DESC LIMIT 1;
    NEW.seq := coalesce(last.seq, 0) + 1;
    NEW.at := greatest(clock_timestamp(), last.at);
    NEW.previous := coalesce(last.hash, decode(repeat('00', 32), 'hex'));
    NEW.hash := audit_digest(NEW.previous, NEW.seq::text,
                             to_char(NEW.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                             NEW.actor, NEW.act, NEW.object, NEW.details::text);
    RETURN NEW;
END $$;

CREATE FUNCTION audit_actor() RETURNS text STABLE LANGUAGE sql AS $$
    SELECT coalesce(nullif(current_setting('kiln.actor', true), ''), 'role ' || session_user)
$$;

-- Arguments: the act (`{kind}` and `{status}` are the row's), the noun before its key, the columns that are details.
CREATE FUNCTION audit_act() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row jsonb;
BEGIN
    IF TG_OP = 'DELETE' THEN row := to_jsonb(OLD); ELSE row := to_jsonb(NEW); END IF;
    INSERT INTO audit_record (actor, act, object, details) VALUES (
        audit_actor(),
        replace(replace(TG_ARGV[0], '{kind}', coalesce(row ->> 'kind', '')), '{status}', coalesce(row ->> 'status', '')),
        TG_ARGV[1] || ' ' || coalesce(row ->> 'id', row ->> 'version'),
        (SELECT coalesce(jsonb_object_agg(name, CASE jsonb_typeof(row -> name)
             WHEN 'string' THEN to_jsonb(left(row ->> name, 500)) ELSE row -> name END), '{}')
         FROM unnest(TG_ARGV[2:]) AS name));
    RETURN NULL;
END $$;

CREATE TRIGGER record_chained BEFORE INSERT ON audit_record FOR EACH ROW EXECUTE FUNCTION audit_chain();
CREATE TRIGGER record_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_record
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
"""

UNCHAIN = """
DROP TRIGGER record_chained ON audit_record;
DROP TRIGGER record_append_only ON audit_record;
DROP FUNCTION audit_act();
DROP FUNCTION audit_actor();
DROP FUNCTION audit_chain();
DROP FUNCTION audit_digest(bytea, text[]);
"""

# Name, table, when, and the arguments of audit_act. Holds and captures are not among them.
ACTS = (
    ("audit_transfer", "billing_transfer", "INSERT", "NEW.kind IN ('grant', 'refund')",
     "'{kind}', 'transfer', 'amount', 'target_id', 'reference', 'idempotency_key', 'memo'"),
    ("audit_frozen", "billing_wallet", "UPDATE OF frozen", "OLD.frozen IS DISTINCT FROM NEW.frozen",
     "'wallet.frozen', 'wallet', 'owner', 'frozen'"),
    ("audit_waived", "billing_clawback", "UPDATE", "NEW.settlement = 'waived' AND OLD.settlement <> 'waived'",
     "'debt.waived', 'claw-back', 'lot_id', 'amount', 'collected', 'waiver'"),
    ("audit_price_list", "billing_pricelistversion", "INSERT", "true",
     "'price_list.published', 'price list', 'base_cost', 'prompt_floor', 'service_classes', 'operations',"
     " 'skipped_step'"),
    ("audit_pack", "billing_pack", "INSERT", "true",
     "'pack.published', 'pack', 'name', 'version', 'tokens', 'bonus', 'prices', 'active'"),
    ("audit_pack_switched", "billing_pack", "UPDATE OF active", "OLD.active IS DISTINCT FROM NEW.active",
     "'pack.switched', 'pack', 'name', 'version', 'active'"),
    ("audit_key", "accounts_apikey", "INSERT", "true", "'key.made', 'key', 'account_id', 'name', 'prefix'"),
    ("audit_key_revoked", "accounts_apikey", "UPDATE OF revoked_at", "OLD.revoked_at IS DISTINCT FROM NEW.revoked_at",
     "'key.revoked', 'key', 'account_id', 'name', 'prefix', 'revoked_at'"),
    ("audit_person", "accounts_person", "INSERT", "NEW.is_staff OR NEW.is_superuser",
     "'person.made', 'person', 'email', 'is_staff', 'is_superuser'"),
    ("audit_person_changed", "accounts_person", "UPDATE OF email, is_active, is_staff, is_superuser",
     "(OLD.email, OLD.is_active, OLD.is_staff, OLD.is_superuser)"
     " IS DISTINCT FROM (NEW.email, NEW.is_active, NEW.is_staff, NEW.is_superuser)",
     "'person.changed', 'person', 'email', 'is_active', 'is_staff', 'is_superuser'"),
    ("audit_password", "accounts_person", "UPDATE OF password", "OLD.password IS DISTINCT FROM NEW.password",
     "'person.password_changed', 'person', 'email'"),
    ("audit_right_given", "accounts_person_user_permissions", "INSERT", "true",
     "'right.given', 'right of a person', 'person_id', 'permission_id'"),
    ("audit_right_taken", "accounts_person_user_permissions", "DELETE", "true",
     "'right.taken', 'right of a person', 'person_id', 'permission_id'"),
    ("audit_group_joined", "accounts_person_groups", "INSERT", "true",
     "'group.joined', 'member of a group', 'person_id', 'group_id'"),
    ("audit_group_left", "accounts_person_groups", "DELETE", "true",
     "'group.left', 'member of a group', 'person_id', 'group_id'"),
    ("audit_group_right_given", "auth_group_permissions", "INSERT", "true",
     "'group.right_given', 'right of a group', 'group_id', 'permission_id'"),
    ("audit_group_right_taken", "auth_group_permissions", "DELETE", "true",
     "'group.right_taken', 'right of a group', 'group_id', 'permission_id'"),
)  # fmt: skip

WATCH = "\n".join(
    f"""CREATE CONSTRAINT TRIGGER {name} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION audit_act({arguments});"""
    for name, table, event, when, arguments in ACTS
)
UNWATCH = "\n".join(f"DROP TRIGGER {name} ON {table};" for name, table, *_ in ACTS)

# Whatever is younger than this record, and an act, has a record of its own.
BEGINNING = """
INSERT INTO audit_record (actor, act, object, details) VALUES (audit_actor(), 'audit.begun', '', '{}');
"""


class Migration(migrations.Migration):
    initial = True
    dependencies = [
        ("billing", "0007_top_ups"),
        ("accounts", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name="Record",
            fields=[
                ("seq", models.BigIntegerField(primary_key=True, serialize=False, verbose_name="number")),
                ("at", models.DateTimeField()),
                ("actor", models.TextField()),
                ("act", models.TextField()),
                ("object", models.TextField()),
                ("details", models.JSONField()),
                ("previous", models.BinaryField(max_length=32)),
                ("hash", models.BinaryField(max_length=32)),
            ],
            options={
                "verbose_name": "audit record",
                "indexes": [
                    models.Index(models.F("object"), models.F("seq"), name="record_by_object"),
                    models.Index(models.F("actor"), models.F("seq"), name="record_by_actor"),
                    models.Index(models.F("act"), models.F("seq"), name="record_by_act"),
                ],
            },
        ),
        migrations.RunSQL(CHAIN, UNCHAIN),
        migrations.RunSQL(WATCH, UNWATCH),
        migrations.RunSQL(BEGINNING, migrations.RunSQL.noop),
    ]
