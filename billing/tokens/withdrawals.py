"""Withdrawals: Tokens that nobody holds leave the books, because they expired, went back or pay a debt.

`lots` and `debts` decide what is withdrawn, with the wallet locked. Not for charges, which `wallets` captures.
"""

from __future__ import annotations

from uuid import UUID

from billing.errors import InsufficientTokens
from billing.models import Transfer, Wallet
from billing.prepared import run
from billing.tokens import ledger

_WITHDRAW = f"""
WITH taken AS (
    UPDATE billing_wallet SET balance = balance - %(amount)s::bigint
    WHERE id = %(wallet)s AND balance - held >= %(amount)s::bigint
    RETURNING id, balance
),
{ledger.WITHDRAWAL}
SELECT id FROM taken
"""


def withdraw(wallet_id: int, kind: Transfer.Kind, amount: int, reference: UUID, key: str) -> None:
    """Take a positive amount out of a wallet that the caller has locked. Raises InsufficientTokens if too few."""
    values = {"wallet": wallet_id, "kind": kind.value, "amount": amount, "reference": reference, "key": key}
    if run(_WITHDRAW, values) is None:
        wallet = Wallet.objects.get(pk=wallet_id)
        raise InsufficientTokens(wallet.balance - wallet.held, amount)
