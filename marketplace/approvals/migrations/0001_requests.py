"""Requests, the guard that keeps their terms, and their place in the audit."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import marketplace.identifiers

GUARD = """
ALTER TABLE approvals_request ADD CONSTRAINT request_bounded
    CHECK (octet_length(arguments::text) <= 8192 AND char_length(reason) <= 500 AND char_length(note) <= 500);

CREATE FUNCTION approvals_guard() RETURNS trigger LANGUAGE plpgsql AS $$
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
           ('pending', 'expired'), ('approved', 'executed'), ('approved', 'failed')) THEN
        RAISE EXCEPTION 'request % is % already', OLD.id, OLD.status USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER request_decided_once BEFORE UPDATE ON approvals_request
    FOR EACH ROW EXECUTE FUNCTION approvals_guard();
CREATE TRIGGER request_kept BEFORE DELETE OR TRUNCATE ON approvals_request
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse();
CREATE CONSTRAINT TRIGGER audit_request AFTER INSERT OR UPDATE ON approvals_request DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION audit_act('request.{status}', 'request', 'kind', 'arguments', 'reason', 'asked_by_id',
                                            'needs_approval', 'decided_by_id', 'note', 'outcome');
"""

UNGUARD = """
DROP TRIGGER audit_request ON approvals_request;
DROP TRIGGER request_kept ON approvals_request;
DROP TRIGGER request_decided_once ON approvals_request;
DROP FUNCTION approvals_guard();
"""


class Migration(migrations.Migration):
    initial = True
    dependencies = [
        ("audit", "0001_chain"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Request',
            fields=[
                ('id', models.UUIDField(default=marketplace.identifiers.uuid7, primary_key=True, serialize=False)),
                ('kind', models.TextField()),
                ('arguments', models.JSONField()),
                ('size', models.BigIntegerField(default=0)),
                ('reason', models.TextField()),
                ('needs_approval', models.BooleanField()),
                ('asked_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('expires_at', models.DateTimeField()),
                ('status', models.TextField(choices=[('pending', 'Pending'), ('approved', 'Approved'), ('executed', 'Executed'), ('failed', 'Failed'), ('rejected', 'Rejected'), ('expired', 'Expired')], default='pending')),
                ('decided_at', models.DateTimeField(null=True)),
                ('note', models.TextField(default='')),
                ('outcome', models.TextField(default='')),
                ('ended_at', models.DateTimeField(null=True)),
                ('asked_by', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='asked_requests', to=settings.AUTH_USER_MODEL)),
                ('decided_by', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='decided_requests', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'permissions': (('ask_grant', 'Can grant Tokens'), ('ask_refund', 'Can refund jobs and top-ups'), ('ask_prices', 'Can change prices and packs'), ('decide_request', 'Can approve and reject what others ask for')),
                'default_permissions': ('view',),
                'indexes': [models.Index(models.F('expires_at'), condition=models.Q(('status', 'pending')), name='request_pending'), models.Index(models.F('decided_at'), condition=models.Q(('status', 'approved')), name='request_approved'), models.Index(models.F('status'), models.F('id'), name='request_by_status')],
                'constraints': [models.CheckConstraint(condition=models.Q(('decided_by', None), models.Q(('decided_by', models.F('asked_by')), _negated=True), _connector='OR'), name='request_second_person'), models.CheckConstraint(condition=models.Q(models.Q(('decided_by', None), ('status__in', ['pending', 'expired'])), models.Q(('decided_by__isnull', False), ('status', 'rejected')), models.Q(('decided_by__isnull', False), ('needs_approval', True), ('status__in', ['approved', 'executed', 'failed'])), models.Q(('decided_by', None), ('needs_approval', False), ('status__in', ['approved', 'executed', 'failed'])), _connector='OR'), name='request_approved_by_somebody'), models.CheckConstraint(condition=models.Q(('size__gte', 0), models.Q(('reason', ''), _negated=True)), name='request_has_reason'), models.CheckConstraint(condition=models.Q(models.Q(('ended_at', None), ('status__in', ['pending', 'approved'])), models.Q(models.Q(('status__in', ['pending', 'approved']), _negated=True), ('ended_at__isnull', False)), _connector='OR'), name='request_ended_has_time')],
            },
        ),
        migrations.RunSQL(GUARD, UNGUARD),
    ]
