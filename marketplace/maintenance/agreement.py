"""The proof that jobs and holds agree. Writes nothing."""

from __future__ import annotations

from django.db import connection

# Each query returns one column of text that says what is wrong. `proof.check` proves billing's own invariants.
VIOLATIONS = (
    """SELECT format('job %s: it has no hold', job.id) FROM jobs_job job
       WHERE NOT EXISTS (SELECT FROM billing_hold hold WHERE hold.reference = job.id)""",
    """SELECT format('hold %s: it has no job', hold.reference) FROM billing_hold hold
       WHERE NOT EXISTS (SELECT FROM jobs_job job WHERE job.id = hold.reference)""",
    """SELECT format('job %s: %s, but its hold is %s', job.id, job.status, hold.status)
       FROM jobs_job job JOIN billing_hold hold ON hold.reference = job.id
       WHERE (job.status IN ('queued', 'running')) <> (hold.status = 'held')""",
    """SELECT format('job %s: quoted %s and charged %s, its hold says %s and %s', job.id, job.quoted,
                     job.captured, hold.amount, hold.captured)
       FROM jobs_job job JOIN billing_hold hold ON hold.reference = job.id
       WHERE job.quoted <> hold.amount OR job.captured <> hold.captured""",
    """SELECT format('job %s: its hold is in another account''s wallet', job.id)
       FROM jobs_job job JOIN billing_hold hold ON hold.reference = job.id
       JOIN billing_wallet wallet ON wallet.id = hold.wallet_id WHERE wallet.owner <> job.account_id""",
    """SELECT format('job %s: %s and charged %s with %s pictures', job.id, job.status, job.captured, count(image.id))
       FROM jobs_job job LEFT JOIN jobs_image image ON image.job_id = job.id
       GROUP BY job.id HAVING job.status = 'succeeded' AND job.forgotten_at IS NULL AND count(image.id) = 0
           OR job.forgotten_at IS NOT NULL AND count(image.id) > 0
           OR job.status NOT IN ('succeeded', 'canceled') AND (job.captured > 0 OR count(image.id) > 0)""",
    """SELECT format('job %s: %s of its pictures were charged as delivered, and it has %s', id, charged, kept)
       FROM (SELECT job.id, (SELECT count(*) FROM jsonb_array_elements(job.receipt -> 'images') AS each
                             WHERE (each ->> 'delivered')::boolean) AS charged,
                    (SELECT count(*) FROM jobs_image image WHERE image.job_id = job.id) AS kept
             FROM jobs_job job WHERE job.forgotten_at IS NULL) AS ended
       WHERE charged <> kept""",
)


def check() -> list[str]:
    """List every violated invariant, one line each, in the caller's snapshot; empty if all is right."""
    with connection.cursor() as cursor:
        cursor.execute("\nUNION ALL\n".join(VIOLATIONS))
        return [text for (text,) in cursor.fetchall()]
