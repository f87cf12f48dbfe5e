"""The proof that jobs, trainings and holds agree. Writes nothing."""

from __future__ import annotations

from django.db import connection

_BOUGHT = """(
    SELECT 'job' AS kind, id, account_id, status, quoted, captured FROM jobs_job
    UNION ALL SELECT 'training' AS kind, id, account_id, status, quoted, captured FROM trainings_training
) AS bought"""

# Each query returns one column of text that says what is wrong. `proof.check` proves billing's own invariants.
VIOLATIONS = (
    f"""SELECT format('%s %s: it has no hold', kind, id) FROM {_BOUGHT}
        WHERE NOT EXISTS (SELECT FROM billing_hold hold WHERE hold.reference = bought.id)""",
    """SELECT format('hold %s: it has neither job nor training', hold.reference) FROM billing_hold hold
       WHERE NOT EXISTS (SELECT FROM jobs_job job WHERE job.id = hold.reference)
         AND NOT EXISTS (SELECT FROM trainings_training training WHERE training.id = hold.reference)""",
    f"""SELECT format('%s %s: %s, but its hold is %s', kind, bought.id, bought.status, hold.status)
        FROM {_BOUGHT} JOIN billing_hold hold ON hold.reference = bought.id
        WHERE (bought.status IN ('queued', 'running')) <> (hold.status = 'held')""",
    f"""SELECT format('%s %s: quoted %s and charged %s, its hold says %s and %s', kind, bought.id, bought.quoted,
                      bought.captured, hold.amount, hold.captured)
        FROM {_BOUGHT} JOIN billing_hold hold ON hold.reference = bought.id
        WHERE bought.quoted <> hold.amount OR bought.captured <> hold.captured""",
    f"""SELECT format('%s %s: its hold is in another account''s wallet', bought.kind, bought.id)
        FROM {_BOUGHT} JOIN billing_hold hold ON hold.reference = bought.id
        JOIN billing_wallet wallet ON wallet.id = hold.wallet_id WHERE wallet.owner <> bought.account_id""",
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
