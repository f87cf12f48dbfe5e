"""The proof of the books: one statement that checks every invariant of wallets, transfers, holds, lots and debts.

Repairs nothing: each violation needs somebody to investigate.
"""

from __future__ import annotations

from django.db import connection
from django.db.models import UniqueConstraint

from billing.models import (
    MINT_ID,
    PLATFORM_ID,
    Clawback,
    Draw,
    Earning,
    Exchange,
    Funding,
    Hold,
    Invoice,
    Lot,
    LotCursor,
    Marketing,
    Month,
    Payout,
    PriceListVersion,
    Purse,
    Rollup,
    Spending,
    Transfer,
    Wallet,
)

_MODELS = (
    Wallet, Transfer, Hold, Lot, Draw, LotCursor, Spending, Clawback, PriceListVersion, Rollup, Month, Invoice, Earning,
    Purse, Exchange, Payout, Marketing, Funding,
)  # fmt: skip
# A unique constraint with a condition is an index of PostgreSQL's.
_CONSTRAINTS = [
    rule.name for model in _MODELS for rule in model._meta.constraints
    if not (isinstance(rule, UniqueConstraint) and rule.condition)
]  # fmt: skip

# Each returns its violations in one text column. Together they are one statement, hence one snapshot,
# whatever the number of writers and the isolation level.
_VIOLATIONS = (
    # The stored balance equals the sum of the transfers.
    """SELECT format('wallet %s: balance %s, transfers say %s', w.id, w.balance, coalesce(t.total, 0))
       FROM billing_wallet w LEFT JOIN (
           SELECT wallet, sum(amount) AS total FROM (
               SELECT target_id AS wallet, amount FROM billing_transfer
               UNION ALL SELECT source_id, -amount FROM billing_transfer) AS sides
           GROUP BY wallet) t ON t.wallet = w.id
       WHERE w.kind = 'customer' AND w.balance <> coalesce(t.total, 0)""",
    # The balance stored with each transfer equals the sum of the transfers up to it.
    """SELECT format('transfer %s: balance %s after it, transfers say %s', id, balance, running) FROM (
           SELECT side.id, side.balance, sum(amount) OVER (PARTITION BY wallet ORDER BY side.id) AS running FROM (
               SELECT id, target_id AS wallet, balance, amount FROM billing_transfer
               UNION ALL SELECT id, source_id, balance, -amount FROM billing_transfer) AS side
           JOIN billing_wallet w ON w.id = side.wallet AND w.kind = 'customer') AS statement
       WHERE balance <> running""",
    # A wallet's held Tokens equal the sum of its open holds.
    """SELECT format('wallet %s: held %s, open holds say %s', w.id, w.held, coalesce(h.total, 0))
       FROM billing_wallet w LEFT JOIN (
           SELECT wallet_id, sum(amount) AS total FROM billing_hold WHERE status = 'held'
           GROUP BY wallet_id) h ON h.wallet_id = w.id
       WHERE w.held <> coalesce(h.total, 0)""",
    """SELECT format('wallet %s: overdrawn, balance %s, held %s', id, balance, held)
       FROM billing_wallet WHERE held < 0 OR balance < held""",
    """SELECT format('wallet %s: a %s wallet stores a balance', id, kind)
       FROM billing_wallet WHERE kind <> 'customer' AND (balance <> 0 OR held <> 0)""",
    f"""SELECT format('wallet %s: the %s wallet is missing', id, kind)
       FROM (VALUES ({MINT_ID}, 'mint'), ({PLATFORM_ID}, 'platform')) AS needed (id, kind)
       WHERE NOT EXISTS (SELECT FROM billing_wallet w WHERE w.id = needed.id AND w.kind = needed.kind)""",
    # Every transfer runs between wallets that exist and fit its kind.
    """SELECT format('transfer %s: %s of %s from %s to %s', t.id, t.kind, t.amount,
                     coalesce(s.kind, 'nowhere'), coalesce(d.kind, 'nowhere'))
       FROM billing_transfer t
       LEFT JOIN billing_wallet s ON s.id = t.source_id LEFT JOIN billing_wallet d ON d.id = t.target_id
       WHERE t.amount <= 0 OR t.source_id = t.target_id OR s.kind IS NULL OR d.kind IS NULL
          OR (t.kind, s.kind, d.kind) NOT IN (
              ('grant', 'mint', 'customer'), ('purchase', 'mint', 'customer'),
              ('capture', 'customer', 'platform'), ('capture', 'customer', 'creator'),
              ('refund', 'platform', 'customer'), ('refund', 'creator', 'customer'), ('expiry', 'customer', 'mint'),
              ('clawback', 'customer', 'mint'), ('settlement', 'customer', 'mint'),
              ('exchange', 'creator', 'customer'), ('takeback', 'creator', 'platform'),
              ('giveback', 'platform', 'creator'), ('advance', 'platform', 'creator'),
              ('recovery', 'creator', 'platform'), ('payout', 'creator', 'mint'),
              ('payout_return', 'mint', 'creator'))""",
    # Rolled-up sums equal the transfers up to their mark, and none was skipped on the way to the furthest mark.
    """SELECT format('wallet %s: %s rolled up to transfer %s, transfers say %s, and %s up to the furthest mark',
                     r.wallet_id, r.balance, r.last_transfer_id, t.own, t.furthest)
       FROM billing_rollup r CROSS JOIN LATERAL (
           SELECT coalesce(sum(side.amount) FILTER (WHERE side.id <= r.last_transfer_id), 0) AS own,
                  coalesce(sum(side.amount) FILTER (WHERE side.id <= mark.id), 0) AS furthest
           FROM (SELECT max(last_transfer_id) AS id FROM billing_rollup) AS mark, (
               SELECT id, amount FROM billing_transfer WHERE target_id = r.wallet_id
               UNION ALL SELECT id, -amount FROM billing_transfer WHERE source_id = r.wallet_id) AS side) AS t
       WHERE r.balance <> t.own OR r.balance <> t.furthest""",
    """SELECT format('wallet %s: a %s wallet is rolled up', w.id, w.kind)
       FROM billing_rollup r JOIN billing_wallet w ON w.id = r.wallet_id WHERE w.kind = 'customer'""",
    """SELECT format('wallet %s: transfer %s was never rolled up, others were up to %s', w.id, min(side.id), mark.id)
       FROM (SELECT max(last_transfer_id) AS id FROM billing_rollup) AS mark, (
           SELECT id, target_id AS wallet FROM billing_transfer
           UNION ALL SELECT id, source_id FROM billing_transfer) AS side
       JOIN billing_wallet w ON w.id = side.wallet AND w.kind <> 'customer'
       WHERE side.id <= mark.id AND NOT EXISTS (SELECT FROM billing_rollup r WHERE r.wallet_id = w.id)
       GROUP BY w.id, mark.id""",
    # A hold's charge and refunds equal its transfers, out of and into its own wallet.
    """SELECT format('hold %s: %s, captured %s, refunded %s, transfers say %s and %s', h.reference,
                     h.status, h.captured, h.refunded, coalesce(t.captured, 0), coalesce(t.refunded, 0))
       FROM billing_hold h LEFT JOIN (
           SELECT reference, CASE kind WHEN 'capture' THEN source_id ELSE target_id END AS wallet,
                  coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0) AS captured,
                  coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0) AS refunded
           FROM billing_transfer WHERE kind IN ('capture', 'refund')
           GROUP BY 1, 2) t ON t.reference = h.reference AND t.wallet = h.wallet_id
       WHERE h.captured <> coalesce(t.captured, 0) OR h.refunded <> coalesce(t.refunded, 0)""",
    """SELECT format('transfer %s: %s of a hold that its wallet does not have', t.id, t.kind)
       FROM billing_transfer t LEFT JOIN billing_hold h ON h.reference = t.reference
           AND h.wallet_id = CASE t.kind WHEN 'capture' THEN t.source_id ELSE t.target_id END
       WHERE t.kind IN ('capture', 'refund') AND h.id IS NULL""",
    """SELECT format('hold %s: %s, amount %s, captured %s, refunded %s, resolved %s', reference, status,
                     amount, captured, refunded, coalesce(resolved_at::text, 'never'))
       FROM billing_hold
       WHERE amount <= 0 OR captured > amount OR refunded < 0 OR refunded > captured
          OR (status = 'captured') <> (captured > 0) OR (status = 'held') <> (resolved_at IS NULL)
          OR status NOT IN ('held', 'captured', 'released', 'expired')""",
    # Every incoming transfer has one lot, and every lot one incoming transfer.
    """SELECT format('transfer %s: %s of %s to wallet %s, its lot is %s, %s of %s in wallet %s', t.id, t.kind,
                     t.amount, t.target_id, coalesce(l.id::text, 'missing'), l.kind, l.amount, l.wallet_id)
       FROM billing_transfer t FULL JOIN billing_lot l ON l.transfer_id = t.id
       LEFT JOIN billing_exchange x ON x.id = t.reference AND t.kind = 'exchange'
       WHERE (t.kind IN ('grant', 'purchase', 'exchange') OR l.id IS NOT NULL)
         AND (l.wallet_id, l.amount, l.kind) IS DISTINCT FROM (
             t.target_id, t.amount, CASE WHEN t.kind = 'grant' OR x.money_minor = 0 THEN 'granted'
                                         WHEN t.kind = 'purchase' OR x.money_minor = l.price_minor THEN 'paid' END)""",
    # What is left of a lot follows from its draws, in Tokens and in money.
    """SELECT format('lot %s: %s of %s left, %s of %s spent, its draws say %s and %s', l.id, l.remaining, l.amount,
                     l.spent_minor, l.price_minor, coalesce(d.amount, 0), coalesce(d.money, 0))
       FROM billing_lot l LEFT JOIN (
           SELECT lot_id, sum(amount) AS amount, sum(money_minor) AS money FROM billing_draw
           GROUP BY lot_id) d ON d.lot_id = l.id
       WHERE l.amount - l.remaining <> coalesce(d.amount, 0) OR l.spent_minor <> coalesce(d.money, 0)
          OR l.remaining < 0 OR l.remaining > l.amount
          OR l.remaining = 0 AND l.spent_minor <> coalesce(l.price_minor, 0)""",
    # Up to the cursor, a wallet's lots sum to its balance at that time.
    """SELECT format('wallet %s: %s left in lots, transfers up to %s say %s', c.wallet_id, coalesce(l.total, 0),
                     c.last_transfer_id, coalesce(t.total, 0))
       FROM billing_lotcursor c LEFT JOIN (
           SELECT l.wallet_id, sum(l.remaining) AS total
           FROM billing_lot l JOIN billing_lotcursor c ON c.wallet_id = l.wallet_id
           WHERE l.transfer_id <= c.last_transfer_id GROUP BY l.wallet_id) l ON l.wallet_id = c.wallet_id
       LEFT JOIN (
           SELECT c.wallet_id, sum(side.amount) AS total FROM (
               SELECT id, target_id AS wallet, amount FROM billing_transfer
               UNION ALL SELECT id, source_id, -amount FROM billing_transfer) AS side
           JOIN billing_lotcursor c ON c.wallet_id = side.wallet AND side.id <= c.last_transfer_id
           GROUP BY c.wallet_id) t ON t.wallet_id = c.wallet_id
       WHERE coalesce(l.total, 0) <> coalesce(t.total, 0)""",
    # Up to the cursor, all that left a wallet was drawn from lots and every refund returned; beyond it, nothing was.
    """SELECT format('transfer %s: %s of %s, %s, its draws say %s', t.id, t.kind, t.amount,
                     CASE WHEN c.wallet_id IS NULL THEN 'ahead of its lots' ELSE 'followed' END, coalesce(d.amount, 0))
       FROM billing_transfer t
       LEFT JOIN billing_lotcursor c ON c.last_transfer_id >= t.id
           AND c.wallet_id = CASE t.kind WHEN 'refund' THEN t.target_id ELSE t.source_id END
       LEFT JOIN (SELECT transfer_id, sum(amount) AS amount FROM billing_draw
                  GROUP BY transfer_id) d ON d.transfer_id = t.id
       WHERE coalesce(d.amount, 0) <> CASE WHEN c.wallet_id IS NULL THEN 0
                                           WHEN t.kind = 'refund' THEN -t.amount ELSE t.amount END""",
    # Up to the cursor, each quarter of an hour's spending equals its charges to holds, less their refunds.
    """SELECT format('wallet %s: %s spent on %s by %s, its holds say %s', coalesce(s.wallet_id, h.wallet_id),
                     coalesce(s.amount, 0), coalesce(s.quarter, h.quarter), coalesce(s.spender, h.spender),
                     coalesce(h.amount, 0))
       FROM (SELECT *, coalesce(spender::text, '') AS name FROM billing_spending) s FULL JOIN (
           SELECT h.wallet_id, h.spender, coalesce(h.spender::text, '') AS name,
                  date_bin('15 minutes', h.resolved_at, 'epoch') AS quarter,
                  sum(CASE t.kind WHEN 'capture' THEN t.amount ELSE -t.amount END) AS amount
           FROM billing_transfer t JOIN billing_hold h ON h.reference = t.reference
           JOIN billing_lotcursor c ON c.wallet_id = h.wallet_id AND c.last_transfer_id >= t.id
           WHERE t.kind IN ('capture', 'refund') GROUP BY 1, 2, 3, 4
       ) h ON h.wallet_id = s.wallet_id AND h.name = s.name AND h.quarter = s.quarter
       WHERE coalesce(s.amount, 0) <> coalesce(h.amount, 0)""",
    """SELECT format('draw %s: %s drew %s from a %s lot of wallet %s', d.id, coalesce(t.kind, 'nothing'), d.amount,
                     coalesce(l.kind, 'missing'), l.wallet_id)
       FROM billing_draw d LEFT JOIN billing_transfer t ON t.id = d.transfer_id
       LEFT JOIN billing_lot l ON l.id = d.lot_id
       WHERE t.id IS NULL OR l.id IS NULL OR l.transfer_id >= t.id
          OR l.wallet_id <> CASE t.kind WHEN 'refund' THEN t.target_id ELSE t.source_id END
          OR t.kind IN ('expiry', 'clawback') AND t.reference <> l.id
          OR t.kind = 'settlement' AND l.kind <> 'paid'
          OR (t.kind = 'refund') <> (d.amount < 0) OR d.amount::numeric * d.money_minor < 0""",
    # A refund goes, from whom the capture paid, into the lots that it drew for them; in full it cost nothing.
    """SELECT format('hold %s: %s and %s in money left of its draws from lot %s', t.reference, sum(d.amount),
                     sum(d.money_minor), d.lot_id)
       FROM billing_draw d JOIN billing_transfer t ON t.id = d.transfer_id AND t.kind IN ('capture', 'refund')
       GROUP BY t.reference, CASE t.kind WHEN 'refund' THEN t.source_id ELSE t.target_id END, d.lot_id
       HAVING sum(d.amount) < 0 OR sum(d.money_minor) < 0 OR sum(d.amount) = 0 AND sum(d.money_minor) <> 0""",
    # What claw-backs collected equals their transfers, and whoever owes is frozen.
    """SELECT format('lot %s: claw-backs collected %s, transfers say %s', coalesce(c.lot_id, t.lot_id),
                     coalesce(c.total, 0), coalesce(t.total, 0))
       FROM (SELECT lot_id, sum(collected) AS total FROM billing_clawback GROUP BY lot_id) c
       FULL JOIN (SELECT coalesce(debt.lot_id, t.reference) AS lot_id, sum(t.amount) AS total
                  FROM billing_transfer t LEFT JOIN billing_clawback debt ON debt.id = t.reference
                  WHERE t.kind IN ('clawback', 'settlement') GROUP BY 1) t ON t.lot_id = c.lot_id
       WHERE coalesce(c.total, 0) <> coalesce(t.total, 0)""",
    """SELECT format('claw-back %s: %s of %s collected, settled %s, %s', id, collected, amount,
                     coalesce(settled_at::text, 'never'), settlement)
       FROM billing_clawback WHERE collected < 0 OR collected > amount
          OR (settled_at IS NULL) <> (settlement = '')
          OR (settlement IN ('', 'waived', 'void')) <> (collected < amount) AND (settlement, amount) <> ('void', 0)""",
    """SELECT format('wallet %s: frozen is %s with %s open debts', w.id, w.frozen, count(c.id))
       FROM billing_wallet w LEFT JOIN (
           billing_clawback c JOIN billing_lot l ON l.id = c.lot_id AND c.settled_at IS NULL) ON l.wallet_id = w.id
       GROUP BY w.id HAVING w.frozen <> (count(c.id) > 0)""",
    # Whoever owes has no paid Tokens available, and none in the lots that the debts are for.
    """SELECT format('wallet %s: owes %s while %s that can pay are available', w.id, l.owed,
                     least(w.balance - w.held, l.payable))
       FROM billing_wallet w JOIN (
           SELECT wallet_id, sum(owed) AS owed, sum(remaining) FILTER (WHERE kind = 'paid' OR owed > 0) AS payable
           FROM billing_lot LEFT JOIN (
               SELECT lot_id, sum(amount - collected) AS owed FROM billing_clawback WHERE settled_at IS NULL
               GROUP BY lot_id) debt ON lot_id = id
           GROUP BY wallet_id) l ON l.wallet_id = w.id
       WHERE l.owed > 0 AND least(w.balance - w.held, l.payable) > 0""",
    # Every draw of a transfer to a maker is an earning, and its refunds took the same back; nothing else is one.
    """SELECT format('earning %s of wallet %s from lot %s: %s worth %s, %s and %s back, draws say %s, %s, %s and %s',
                     coalesce(e.reference, d.reference), coalesce(e.maker_id, d.maker_id), coalesce(e.lot_id, d.lot_id),
                     e.amount, e.money_minor, e.back, e.back_minor, d.amount, d.money, d.back, d.money_back)
       FROM billing_earning e FULL JOIN (
           SELECT t.reference, w.id AS maker_id, d.lot_id, l.kind, l.currency,
                  sum(d.amount) FILTER (WHERE t.kind = 'capture') AS amount,
                  sum(d.money_minor) FILTER (WHERE t.kind = 'capture') AS money,
                  coalesce(-sum(d.amount) FILTER (WHERE t.kind = 'refund'), 0) AS back,
                  coalesce(-sum(d.money_minor) FILTER (WHERE t.kind = 'refund'), 0) AS money_back
           FROM billing_draw d JOIN billing_transfer t ON t.id = d.transfer_id AND t.kind IN ('capture', 'refund')
           JOIN billing_lot l ON l.id = d.lot_id
           JOIN billing_wallet w ON w.kind = 'creator'
               AND w.id = CASE t.kind WHEN 'refund' THEN t.source_id ELSE t.target_id END
           GROUP BY 1, 2, 3, 4, 5) d USING (reference, maker_id, lot_id)
       WHERE (e.amount, e.back) IS DISTINCT FROM (d.amount, d.back) OR e.back + e.owed > e.amount
          OR e.back_minor + e.owed_minor > e.money_minor OR e.owed = 0 AND e.owed_minor <> 0
          OR d.kind = 'paid' AND (NOT e.weighed OR (e.money_minor, e.back_minor, e.currency)
                                                   IS DISTINCT FROM (d.money, d.money_back, d.currency))
          OR d.kind = 'granted' AND (NOT e.weighed AND e.money_minor <> 0
                                     OR e.back_minor <> div(e.money_minor::numeric * e.back, e.amount))""",
    # What customers owe for a lot is away from those who earned it, and never more of it.
    """SELECT format('lot %s: %s are away from its earnings, %s are owed', lot_id, e.owed, coalesce(c.owed, 0))
       FROM (SELECT lot_id, sum(owed) AS owed FROM billing_earning GROUP BY lot_id) e LEFT JOIN (
           SELECT lot_id, sum(amount - collected) AS owed FROM billing_clawback WHERE settled_at IS NULL
           GROUP BY lot_id) c USING (lot_id)
       WHERE e.owed > coalesce(c.owed, 0)""",
    # A maker's wallet is what the shares of captures came to, less what was taken back and what left, and not below 0.
    """SELECT format('maker %s: the wallet has %s, the earnings say %s; away %s of %s, advanced %s of %s', w.id,
                     t.total, e.kept + t.ahead + p.advanced - p.out, t.away, e.owed, p.advanced, t.advanced)
       FROM billing_wallet w CROSS JOIN LATERAL (
           SELECT coalesce(sum(amount), 0) AS total,
                  coalesce(-sum(amount) FILTER (WHERE kind IN ('takeback', 'giveback')), 0) AS away,
                  coalesce(sum(amount) FILTER (WHERE kind IN ('advance', 'recovery')), 0) AS advanced,
                  coalesce(sum(amount) FILTER (WHERE kind = 'capture' AND id > followed), 0) AS ahead
           FROM (SELECT id, kind, amount, coalesce((SELECT last_transfer_id FROM billing_lotcursor
                                                    WHERE wallet_id = source_id), 0) AS followed
                 FROM billing_transfer WHERE target_id = w.id
                 UNION ALL SELECT id, kind, -amount, 0 FROM billing_transfer WHERE source_id = w.id) AS side) t
       CROSS JOIN LATERAL (
           SELECT coalesce(sum(amount - back - owed), 0) AS kept, coalesce(sum(owed), 0) AS owed
           FROM billing_earning WHERE maker_id = w.id) e
       CROSS JOIN LATERAL (
           SELECT coalesce(sum(advanced), 0) AS advanced, coalesce(sum(out), 0) AS out
           FROM billing_purse WHERE maker_id = w.id) p
       WHERE w.kind = 'creator' AND (t.total < 0 OR t.total <> e.kept + t.ahead + p.advanced - p.out
                                     OR t.away <> e.owed OR t.advanced <> p.advanced)""",
    # What left a purse is what was exchanged and paid out, and what it lacks is advanced.
    """SELECT format('purse %s: %s worth %s left it, exchanges and payouts say %s and %s; %s advanced, %s missing',
                     p.id, p.out, p.out_minor, x.amount, x.money, p.advanced, greatest(0, p.out - e.kept))
       FROM billing_purse p CROSS JOIN LATERAL (
           SELECT coalesce(sum(amount), 0) AS amount, coalesce(sum(money), 0) AS money FROM (
               SELECT amount, money_minor AS money FROM billing_exchange WHERE purse_id = p.id
               UNION ALL
               SELECT amount - back, money_minor - back_minor FROM billing_payout WHERE purse_id = p.id) AS each) x
       CROSS JOIN LATERAL (
           SELECT coalesce(sum(amount - back - owed), 0) AS kept FROM billing_earning
           WHERE maker_id = p.maker_id AND currency = p.currency AND weighed) e
       WHERE (p.out, p.out_minor) <> (x.amount, x.money) OR p.advanced < p.out - e.kept""",
    """SELECT format('exchange %s: %s worth %s, its transfer says %s to %s', x.id, x.amount, x.money_minor, t.amount,
                     w.owner)
       FROM billing_exchange x JOIN billing_purse p ON p.id = x.purse_id
       JOIN billing_wallet maker ON maker.id = p.maker_id
       FULL JOIN (SELECT * FROM billing_transfer WHERE kind = 'exchange') t ON t.reference = x.id
       LEFT JOIN billing_wallet w ON w.id = t.target_id
       WHERE (x.amount, maker.id, maker.owner) IS DISTINCT FROM (t.amount, t.source_id, w.owner)""",
    """SELECT format('payout %s: %s and %s back, its transfers say %s and %s', coalesce(p.id, t.reference), p.amount,
                     p.back, t.amount, t.back)
       FROM (SELECT payout.*, maker_id FROM billing_payout payout JOIN billing_purse purse ON purse.id = purse_id) p
       FULL JOIN (
           SELECT reference, coalesce(sum(amount) FILTER (WHERE kind = 'payout'), 0) AS amount,
                  coalesce(sum(amount) FILTER (WHERE kind = 'payout_return'), 0) AS back,
                  min(CASE kind WHEN 'payout' THEN source_id ELSE target_id END) AS maker_id,
                  count(DISTINCT CASE kind WHEN 'payout' THEN source_id ELSE target_id END) AS makers
           FROM billing_transfer WHERE kind IN ('payout', 'payout_return') GROUP BY 1) t ON t.reference = p.id
       WHERE (p.amount, p.back, p.maker_id, 1) IS DISTINCT FROM (t.amount, t.back, t.maker_id, t.makers::int)""",
    # The marketing account paid no more than it was funded with, and what it paid is what earnings are worth by it.
    """SELECT format('marketing account %s: %s funded, %s used, fundings say %s and earnings %s', m.currency,
                     m.funded_minor, m.used_minor, f.total, e.total)
       FROM billing_marketing m CROSS JOIN LATERAL (
           SELECT coalesce(sum(amount_minor), 0) AS total FROM billing_funding WHERE account_id = m.currency) f
       CROSS JOIN LATERAL (
           SELECT coalesce(sum(e.money_minor - e.back_minor), 0) AS total
           FROM billing_earning e JOIN billing_lot l ON l.id = e.lot_id AND l.kind = 'granted'
           WHERE e.currency = m.currency) e
       WHERE m.funded_minor <> f.total OR m.used_minor <> e.total OR m.used_minor > m.funded_minor""",
    # A month has what was transferred after the one before, and nothing of it came after it was closed.
    """SELECT format('month %s: it says %s to %s, transfers and the month before say %s to %s', m.id, m.opening,
                     m.closing, coalesce(before.closing, 0), coalesce(before.closing, 0) + coalesce(moved.total, 0))
       FROM (SELECT month.*, wallet.id AS wallet_id,
                    lag(month.id) OVER (PARTITION BY month.owner ORDER BY first) AS last
             FROM billing_month month
             JOIN billing_wallet wallet ON wallet.owner = month.owner AND wallet.kind = 'customer') m
       LEFT JOIN billing_month before ON before.id = m.last
       LEFT JOIN LATERAL (
           SELECT sum(amount) AS total
           FROM (SELECT id, amount FROM billing_transfer WHERE target_id = m.wallet_id
                 UNION ALL SELECT id, -amount FROM billing_transfer WHERE source_id = m.wallet_id) AS side
           WHERE id > coalesce(before.last_transfer_id, 0) AND id <= m.last_transfer_id) moved ON true
       WHERE m.opening <> coalesce(before.closing, 0) OR before.end <> m.first
          OR m.closing <> m.opening + coalesce(moved.total, 0)
          OR m.closing - m.opening <> (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(m.moved))""",
    """SELECT format('transfer %s: made in month %s, after that was closed', t.id, m.id)
       FROM billing_month m JOIN billing_wallet w ON w.owner = m.owner AND w.kind = 'customer'
       CROSS JOIN LATERAL (
           SELECT id FROM billing_transfer WHERE target_id = w.id AND id > m.last_transfer_id AND created_at < m.end
           UNION ALL
           SELECT id FROM billing_transfer WHERE source_id = w.id AND id > m.last_transfer_id AND created_at < m.end) t
       WHERE m.first = (SELECT max(first) FROM billing_month last WHERE last.owner = m.owner)""",
    # Documents are numbered without gaps, say what their lines do, and name every payment of a closed month.
    """SELECT format('%s: %s of them, the last has number %s', kind, count(*), max(number))
       FROM billing_invoice GROUP BY kind HAVING max(number) <> count(*)""",
    """SELECT format('%s %s: its total is %s, its lines say %s', kind, number, total_minor, lines.total)
       FROM billing_invoice, LATERAL (SELECT sum((line->>'amount_minor')::bigint) AS total
                                      FROM jsonb_array_elements(lines) AS line) AS lines
       WHERE total_minor <> lines.total""",
    """SELECT format('top-up %s: paid in month %s, whose invoice does not say so', t.id, m.id)
       FROM billing_topup t JOIN billing_month m ON m.owner = t.owner AND t.paid_at >= m.first AND t.paid_at < m.end
       WHERE NOT EXISTS (
           SELECT FROM billing_invoice i, jsonb_array_elements(i.lines) AS line
           WHERE i.month_id = m.id AND i.kind = 'invoice' AND i.currency = t.currency
             AND line->>'top_up' = t.id::text AND (line->>'amount_minor')::bigint = t.price_minor)""",
    # Nothing above could be relied on without these guards. 'R' fires only in replicas.
    """SELECT format('trigger %s of %s is missing or switched off', needed.name, needed.place)
       FROM (VALUES ('transfer_append_only', 'billing_transfer'), ('hold_resolved_once', 'billing_hold'),
                    ('hold_kept', 'billing_hold'), ('wallet_kept', 'billing_wallet'),
                    ('wallet_keeps_its_owner', 'billing_wallet'), ('lot_kept', 'billing_lot'),
                    ('lot_keeps_its_terms', 'billing_lot'), ('draw_append_only', 'billing_draw'),
                    ('clawback_kept', 'billing_clawback'), ('clawback_settled_once', 'billing_clawback'),
                    ('month_final', 'billing_month'), ('invoice_final', 'billing_invoice'),
                    ('earning_kept', 'billing_earning'), ('earning_keeps_its_terms', 'billing_earning'),
                    ('exchange_append_only', 'billing_exchange'), ('funding_append_only', 'billing_funding'),
                    ('payout_kept', 'billing_payout'), ('payout_keeps_its_terms', 'billing_payout'),
                    ('purse_kept', 'billing_purse'), ('rollup_kept', 'billing_rollup'),
                    ('rollup_moves_on', 'billing_rollup'),
                    ('price_list_immutable', 'billing_pricelistversion')) AS needed (name, place)
       WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = needed.place::regclass
                         AND tgname = needed.name AND tgenabled IN ('O', 'A'))""",
    f"""SELECT format('constraint %s is missing or switched off', needed.name)
       FROM unnest('{{{",".join(_CONSTRAINTS)}}}'::text[]) AS needed (name)
       WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conname = needed.name AND convalidated)""",
    # All wallets sum to zero.
    """SELECT format('all wallets sum to %s', total) FROM (
           SELECT (SELECT coalesce(sum(balance), 0) FROM billing_wallet WHERE kind = 'customer')
                + (SELECT coalesce(sum(t.amount), 0) FROM billing_transfer t
                   JOIN billing_wallet w ON w.id = t.target_id WHERE w.kind <> 'customer')
                - (SELECT coalesce(sum(t.amount), 0) FROM billing_transfer t
                   JOIN billing_wallet w ON w.id = t.source_id WHERE w.kind <> 'customer') AS total) AS books
       WHERE total <> 0""",
)


def check() -> list[str]:
    """Return every violated invariant, one line each; an empty list if the ledger is right.

    Reads everything in the snapshot of one statement, or of the caller's REPEATABLE READ transaction.
    """
    with connection.cursor() as cursor:
        cursor.execute("\nUNION ALL\n".join(_VIOLATIONS))
        return [text for (text,) in cursor.fetchall()]
