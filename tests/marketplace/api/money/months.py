"""What tests of months share: payments that Stripe reports, what went back, and months that end when told."""

import io
from datetime import timedelta
from uuid import uuid4

from django.db import connection
from django.utils import timezone
from pypdf import PdfReader

from billing.models import Month, Pack, TopUp
from billing.payments import events, invoices


def clock():
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


def invoiced(someone, end, **changes):
    """Somebody whose month ends at `end`, and the next a month later."""
    names = {"name": someone.account.name, "email": "alice@example.com", "zone": "UTC", **changes}
    return invoices.Customer(**names, end_of_month=lambda first: end if first < end else end + timedelta(days=30))


def known(who):
    """Looks customers up, whoever is asked for."""
    return lambda owners: dict.fromkeys(owners, who)


def close(someone, **changes):
    """Closes the month of somebody as if it ended now; the month and its documents."""
    assert invoices.close(someone.account.id, known(invoiced(someone, clock(), **changes)))
    month = Month.objects.filter(owner=someone.account.id).latest("first")
    return month, list(month.invoices.order_by("kind", "currency"))


def order(someone, currency="eur", price=2000):
    now, pack = timezone.now(), Pack.objects.get(name="medium")
    return TopUp.objects.create(
        id=uuid4(), owner=someone.account.id, pack=pack, currency=currency, price_minor=price, order={},
        created_at=now, expires_at=now,
    )  # fmt: skip


def event(kind, document):
    return {"id": f"evt_{uuid4().hex}", "type": kind, "data": {"object": document}}


def completed(top_up, tax=319):
    return event("checkout.session.completed", {
        "id": f"cs_{top_up.id}", "client_reference_id": str(top_up.id), "payment_status": "paid",
        "amount_total": top_up.price_minor, "currency": top_up.currency, "payment_intent": f"pi_{top_up.id}",
        "total_details": {"amount_tax": tax},
    })  # fmt: skip


def paid(someone, **terms):
    top_up = order(someone, **terms)
    assert events.apply(completed(top_up))
    top_up.refresh_from_db()
    return top_up


def went_back(top_up, minor, status="succeeded", kind="refund", reversal=None, currency="eur"):
    """A refund or a dispute, as Stripe reports it; its id."""
    reversal = reversal or f"{kind}_{uuid4().hex}"
    name = "refund.updated" if kind == "refund" else "charge.dispute.updated"
    document = {"id": reversal, "payment_intent": f"pi_{top_up.id}", "amount": minor, "currency": currency}
    events.apply(event(name, {**document, "status": status}))
    return reversal


def lines(documents, kind="invoice"):
    return [
        (line["text"], line["amount_minor"], line["tax_minor"])
        for document in documents
        if document.kind == kind
        for line in document.lines
    ]


def text_of(pdf: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages)


def invoice_page(someone, month):
    from marketplace.api.money import invoice_pdf

    again = Month.objects.get(id=month.id)
    return invoice_pdf.draw(again, list(again.invoices.order_by("-kind")))
