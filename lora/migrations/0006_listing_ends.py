"""Listings end: a version that was taken down does not come back with the publication of another one.

And only buyers count as users: neither makers nor those with whom an adapter is shared.
"""

from django.db import migrations, models

# What was withdrawn, or belongs to an adapter that is not published any more, has ended.
END = """
UPDATE lora_listing AS listing SET ended_at = now()
FROM lora_version AS version JOIN lora_adapter AS adapter ON adapter.id = version.adapter_id
WHERE version.id = listing.version_id
  AND (adapter.visibility <> 'published' OR adapter.deleted_at IS NOT NULL
       OR EXISTS (SELECT FROM lora_publication AS publication WHERE publication.version_id = version.id
                  AND publication.status = 'withdrawn' AND publication.decided_at > listing.created_at));
"""

GUARD = """
CREATE FUNCTION lora_guard_listing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.ended_at IS NOT NULL OR to_jsonb(NEW) - 'ended_at' IS DISTINCT FROM to_jsonb(OLD) - 'ended_at' THEN
        RAISE EXCEPTION 'listing % keeps what it is', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER listing_only_ends BEFORE UPDATE ON lora_listing
    FOR EACH ROW EXECUTE FUNCTION lora_guard_listing();
CREATE TRIGGER listing_immutable BEFORE DELETE OR TRUNCATE ON lora_listing
    FOR EACH STATEMENT EXECUTE FUNCTION lora_refuse();
"""

UNGUARD = """
DROP TRIGGER listing_immutable ON lora_listing;
DROP TRIGGER listing_only_ends ON lora_listing;
DROP FUNCTION lora_guard_listing();
"""

IMMUTABLE = """
CREATE TRIGGER listing_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON lora_listing
    FOR EACH STATEMENT EXECUTE FUNCTION lora_refuse();
"""

FREE = """
DELETE FROM lora_usage AS usage USING lora_adapter AS adapter
WHERE adapter.id = usage.adapter_id
  AND (adapter.owner_id = usage.account
       OR EXISTS (SELECT FROM lora_shared AS shared
                  WHERE shared.adapter_id = adapter.id AND shared.account = usage.account));
DELETE FROM lora_rating AS rating
WHERE NOT EXISTS (SELECT FROM lora_usage AS usage
                  WHERE usage.adapter_id = rating.adapter_id AND usage.account = rating.account);
"""


class Migration(migrations.Migration):

    dependencies = [
        ('lora', '0005_leaving_and_layers'),
    ]

    operations = [
        migrations.AddField(
            model_name='listing',
            name='ended_at',
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.RunSQL("DROP TRIGGER listing_immutable ON lora_listing;", IMMUTABLE),
        migrations.RunSQL(END, migrations.RunSQL.noop),
        migrations.RunSQL(GUARD, UNGUARD),
        migrations.RunSQL(FREE, migrations.RunSQL.noop),
        migrations.AlterField(
            model_name='adapter',
            name='uses',
            field=models.PositiveBigIntegerField(default=0, help_text="buyers' jobs that were charged, as of the last count"),
        ),
    ]
