"""Balance transactions, the balance that they sum to, and totals for reconciling with another ledger."""

from typing import Any

from devstack.stripe.books import Books, Call
from devstack.stripe.errors import Document, Invalid

PAYOUT_SECONDS = 2 * 86_400
CATEGORIES = {
    "adjustment": "dispute",
    "payment": "charge",
    "transfer_refund": "transfer_reversal",
}
TOTALS = {
    "charged": "SELECT amount, currency FROM o WHERE kind = 'charge' AND status = 'succeeded'",
    "refunded": "SELECT amount, currency FROM o WHERE kind = 'refund' AND status = 'succeeded'",
    "disputed": "SELECT amount, currency FROM o WHERE kind = 'dispute' AND status != 'won'",
    "transferred": "SELECT amount, currency FROM o WHERE kind = 'transfer'",
    "reversed": "SELECT amount, currency FROM o WHERE kind = 'transfer_reversal'",
    "fees": "SELECT fee AS amount, currency FROM o WHERE kind = 'balance_transaction' AND account IS NULL",
    "net": "SELECT net AS amount, currency FROM o WHERE kind = 'balance_transaction' AND account IS NULL",
}
COLUMNS = ("status", "currency", "amount", "fee", "net")


def record(books: Books, kind: str, amount: int, currency: str, source: str, **more: Any) -> Document:
    """Book `amount` minor units, less a `fee`, into the balance, or into that of the connected `account`."""
    fee, account = more.get("fee", 0), more.get("account")
    available_on = more.get("available_on", books.now)
    details = [{"amount": fee, "application": None, "currency": currency, "description": None, "type": "stripe_fee"}]
    return books.create(
        "balance_transaction",
        amount=amount,
        available_on=available_on,
        balance_type="payments",
        currency=currency,
        fee=fee,
        fee_details=details if fee else [],
        net=amount - fee,
        reporting_category=more.get("category") or CATEGORIES.get(kind, kind),
        source=source,
        status="pending" if available_on > books.now else "available",
        type=kind,
        _account=account,
    )


def fee_of(amount: int) -> int:
    """Return Stripe's fee in minor units: 2.9 %, rounded to the nearest, plus 30."""
    return (amount * 29 + 500) // 1000 + 30


def available(books: Books, currency: str) -> int:
    """Return the minor units that can be transferred now."""
    return _sums(books, None, "available").get(currency, 0)


def retrieve(call: Call) -> Document:
    """Handle `GET /v1/balance`, for the platform or for the account that `Stripe-Account` names."""
    account = call.books.get("account", call.account)["id"] if call.account else None
    sums = {status: _sums(call.books, account, status) for status in ("available", "pending")}
    currencies = sorted({*sums["available"], *sums["pending"]}) or ["usd"]
    shown = {
        status: [{"amount": each.get(name, 0), "currency": name, "source_types": {"card": each.get(name, 0)}}
                 for name in currencies]
        for status, each in sums.items()
    }  # fmt: skip
    return {"object": "balance", "livemode": False, **shown}


def totals(books: Books) -> Document:
    """Return totals per currency in minor units: what was charged, refunded…, the platform's fees and net balance."""
    columns = ", ".join(f"json_extract(body, '$.{name}') AS {name}" for name in COLUMNS)
    view = f"WITH o AS (SELECT kind, {columns}, json_extract(body, '$._account') AS account FROM objects)"
    found: Document = {}
    for name, query in TOTALS.items():
        rows = books.connection.execute(
            f"{view} SELECT currency, sum(amount) AS amount, count(*) AS number FROM ({query}) GROUP BY currency"
        )
        for row in rows:
            per_currency = found.setdefault(row["currency"], dict.fromkeys(TOTALS, 0) | {"numbers": {}})
            per_currency[name] = row["amount"]
            per_currency["numbers"][name] = row["number"]
    return found


def must_cover(books: Books, amount: int, currency: str) -> None:
    """Raise Invalid if the available balance is smaller."""
    if amount > available(books, currency):
        message = (
            "You have insufficient available funds in your Stripe account. Try adding funds directly to your "
            "available balance by creating Charges using the 4000000000000077 test card."
        )
        raise Invalid(message, code="balance_insufficient")


def _sums(books: Books, account: str | None, status: str) -> dict[str, int]:
    rows = books.connection.execute(
        "SELECT json_extract(body, '$.currency') AS currency, sum(json_extract(body, '$.net')) AS net FROM objects"
        " WHERE kind = 'balance_transaction' AND json_extract(body, '$._account') IS ?"
        " AND json_extract(body, '$.status') = ? GROUP BY 1",
        (account, status),
    )
    return {row["currency"]: row["net"] for row in rows}
