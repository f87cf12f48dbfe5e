"""Disputes and early fraud warnings: opened by control calls and test cards, answered and closed by the API."""

import stripe

from devstack.stripe import balance
from devstack.stripe.books import Books, Call
from devstack.stripe.errors import Document, Invalid
from devstack.stripe.objects import nulls

FEE = 1500
ANSWER_SECONDS = 7 * 86_400
OPEN = ("needs_response", "under_review")
VERDICTS = {"winning_evidence": "won", "losing_evidence": "lost"}


def open_dispute(books: Books, charge: Document, amount: int | None = None, reason: str = "fraudulent") -> Document:
    """Open a dispute: the cardholder's bank takes the money back, and Stripe takes its fee. Raises Invalid."""
    amount = charge["amount"] - charge["amount_refunded"] if amount is None else amount
    if charge["status"] != "succeeded" or charge["disputed"]:
        raise Invalid(f"Charge {charge['id']} has not succeeded or has been disputed already.")
    if not 0 < amount <= charge["amount"]:
        raise Invalid("A dispute's amount must be positive and at most that of the charge.", param="amount")
    dispute = books.create(
        "dispute",
        amount=amount,
        balance_transactions=[],
        charge=charge["id"],
        currency=charge["currency"],
        enhanced_eligibility_types=[],
        evidence=nulls(stripe.Dispute.Evidence),
        evidence_details={
            "due_by": books.now + ANSWER_SECONDS,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        is_charge_refundable=False,
        payment_intent=charge["payment_intent"],
        payment_method_details=_details(charge),
        reason=reason,
        status="needs_response",
    )
    charge["disputed"] = True
    books.save(charge)
    books.emit("charge.dispute.created", dispute)
    _move(books, dispute, -amount, FEE, "charge.dispute.funds_withdrawn")
    settle_warnings(books, charge["id"])
    return dispute


def close(books: Books, dispute: Document, verdict: str) -> Document:
    """Close a dispute: `won` returns the amount but not the fee, `lost` changes no balance.

    Raises Invalid if it is closed already.
    """
    if dispute["status"] not in OPEN:
        raise Invalid("This dispute is already closed", param="id")
    if verdict not in VERDICTS.values():
        raise Invalid("status must be won or lost", param="status")
    dispute["status"] = verdict
    books.save(dispute)
    if verdict == "won":
        _move(books, dispute, dispute["amount"], 0, "charge.dispute.funds_reinstated")
    books.emit("charge.dispute.closed", dispute)
    return dispute


def accept(call: Call) -> Document:
    """Handle `POST /v1/disputes/{id}/close`: the dispute is lost."""
    return close(call.books, call.books.get("dispute", call.names["id"]), "lost")


def update(call: Call) -> Document:
    """Handle `POST /v1/disputes/{id}`: take evidence; one of Stripe's two test texts decides the dispute at once."""
    dispute = call.books.get("dispute", call.names["id"])
    if dispute["status"] not in OPEN:
        raise Invalid("This dispute is already closed", param="id")
    given = call.params.part("evidence").plain()
    fields = {"metadata": call.merged_metadata(dispute), "evidence": dispute["evidence"] | given}
    submitted = bool(given) and call.params.get("submit", True)
    if submitted:
        details = dispute["evidence_details"]
        count = details["submission_count"] + 1
        more = {"has_evidence": True, "submission_count": count, "submission_method": "manual"}
        fields |= {"status": "under_review", "evidence_details": details | more}
    call.books.change(dispute, "charge.dispute.updated", **fields)
    verdict = VERDICTS.get(given.get("uncategorized_text", ""))
    return close(call.books, dispute, verdict) if submitted and verdict else dispute


def warn(books: Books, charge: Document, fraud_type: str = "unauthorized_use_of_card") -> Document:
    """Create an early fraud warning, actionable until the charge is refunded in full or disputed."""
    warning = books.create(
        "radar.early_fraud_warning",
        actionable=not (charge["refunded"] or charge["disputed"]),
        charge=charge["id"],
        fraud_type=fraud_type,
        payment_intent=charge["payment_intent"],
    )
    books.emit("radar.early_fraud_warning.created", warning)
    return warning


def settle_warnings(books: Books, charge: str) -> None:
    """Mark the warnings of this charge as no longer actionable."""
    for warning in books.find("radar.early_fraud_warning", charge=charge):
        books.change(warning, "radar.early_fraud_warning.updated", actionable=False)


def _move(books: Books, dispute: Document, amount: int, fee: int, event: str) -> None:
    category = "dispute" if amount < 0 else "dispute_reversal"
    transaction = balance.record(
        books, "adjustment", amount, dispute["currency"], dispute["id"], fee=fee, category=category
    )
    dispute["balance_transactions"].append(transaction)
    books.save(dispute)
    books.emit(event, dispute)


def _details(charge: Document) -> Document:
    brand = charge["payment_method_details"].get("card", {}).get("brand")
    return {"type": "card", "card": {"brand": brand, "case_type": "chargeback", "network_reason_code": "10.4"}}
