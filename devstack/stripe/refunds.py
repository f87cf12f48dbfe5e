"""Refunds, by the API and from the dashboard."""

from devstack.stripe import balance, currencies, disputes
from devstack.stripe.books import Books, Call
from devstack.stripe.cards import BY_NUMBER
from devstack.stripe.errors import Document, Invalid

# What may become of a refund in each state; what failed or was canceled stays so.
ENDS = {
    "requires_action": ("pending", "succeeded", "failed", "canceled"),
    "pending": ("succeeded", "failed"),
    "succeeded": ("failed",),
}
REASONS = {"failed": "lost_or_stolen_card", "canceled": "merchant_request"}


def create(call: Call) -> Document:
    """Handle `POST /v1/refunds` by `charge` or `payment_intent`."""
    if ("charge" in call.params) == ("payment_intent" in call.params):
        raise Invalid("One of the following params should be provided for this request: payment_intent or charge.")
    charge = charge_of(call.books, call.params.get("charge"), call.params.get("payment_intent"))
    amount, reason = call.params.get("amount"), call.params.get("reason")
    return refund(call.books, charge, amount, reason, call.merged_metadata({}))


def charge_of(books: Books, charge: str | None, intent: str | None) -> Document:
    """Return the charge with that id, or the one that succeeded for the PaymentIntent. Raises NotFound, Invalid."""
    if charge:
        return books.get("charge", charge, "charge")
    found = books.get("payment_intent", intent or "", "payment_intent")
    if not found["latest_charge"] or found["status"] != "succeeded":
        raise Invalid(f"This PaymentIntent ({intent}) does not have a successful charge to refund.")
    return books.get("charge", found["latest_charge"])


def refund(
    books: Books,
    charge: Document,
    amount: int | None = None,
    reason: str | None = None,
    metadata: dict[str, str] | None = None,
    status: str = "",
) -> Document:
    """Refund `amount` minor units, or all that is left if it is None. Raises Invalid if less is left.

    Its status, unless given, is that which the card's refunds have at first.
    """
    left = charge["amount"] - charge["amount_refunded"]
    amount = left if amount is None else amount
    _must_allow(charge, amount, left)
    done = books.create(
        "refund",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        destination_details={"card": {"reference_status": "pending", "type": "refund"}, "type": "card"},
        metadata=metadata or {},
        payment_intent=charge["payment_intent"],
        reason=reason,
        status=status or _first_status(books, charge),
    )
    moved = balance.record(books, "refund", -amount, charge["currency"], done["id"])
    done["balance_transaction"] = moved["id"]
    books.save(done)
    _count(books, charge, amount)
    books.emit("charge.refunded", charge)
    books.emit("refund.created", done)
    if charge["refunded"]:
        disputes.settle_warnings(books, charge["id"])
    return done


def end(books: Books, done: Document, status: str) -> Document:
    """Bring a refund to another state; one that fails or is canceled returns its amount. Raises Invalid."""
    if status not in ENDS.get(done["status"], ()):
        raise Invalid(f"Refund {done['id']} is {done['status']}; it cannot become {status}.")
    fields = {"status": status}
    if reason := REASONS.get(status):
        returned = balance.record(books, "refund_failure", done["amount"], done["currency"], done["id"])
        fields |= {"failure_reason": reason, "failure_balance_transaction": returned["id"]}
        _count(books, books.get("charge", done["charge"]), -done["amount"])
    before = {name: done[name] for name in fields}
    done |= fields
    books.save(done)
    for event in ("charge.refund.updated", "refund.updated", *(["refund.failed"] if status == "failed" else [])):
        books.emit(event, done, before)
    return done


def cancel(call: Call) -> Document:
    """Handle `POST /v1/refunds/{id}/cancel`, for refunds that wait for the customer."""
    done = call.books.get("refund", call.names["id"])
    if done["status"] != "requires_action":
        raise Invalid(f"You cannot cancel this refund because it has a status of {done['status']}.")
    return end(call.books, done, "canceled")


def _first_status(books: Books, charge: Document) -> str:
    number = books.get("payment_method", charge["payment_method"]).get("_number", "")
    return "pending" if number in BY_NUMBER and BY_NUMBER[number].refunds_slowly else "succeeded"


def _must_allow(charge: Document, amount: int, left: int) -> None:
    if charge["status"] != "succeeded":
        raise Invalid(f"Charge {charge['id']} has not succeeded; it cannot be refunded.", param="charge")
    if charge["disputed"]:
        message = f"Charge {charge['id']} has been charged back; cannot issue a refund."
        raise Invalid(message, code="charge_disputed")
    if left == 0:
        message = f"Charge {charge['id']} has already been refunded."
        raise Invalid(message, code="charge_already_refunded")
    if amount < 1:
        raise Invalid("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    if amount > left:
        wanted, most = (currencies.show(each, charge["currency"]) for each in (amount, left))
        message = f"Refund amount ({wanted}) is greater than unrefunded amount on charge ({most})"
        raise Invalid(message, param="amount")


def _count(books: Books, charge: Document, amount: int) -> None:
    refunded = charge["amount_refunded"] + amount
    charge |= {"amount_refunded": refunded, "refunded": refunded == charge["amount"]}
    books.save(charge)
