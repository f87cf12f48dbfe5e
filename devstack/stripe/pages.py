"""The hosted pages as plain HTML, marked as a double's: payment, the customer's bank, onboarding, the receipt."""

from html import escape

from devstack.stripe import currencies
from devstack.stripe.errors import Document

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:2rem auto;padding:0 1rem}"
    ".double{background:#b00020;color:#fff;padding:.5rem 1rem;border-radius:.3rem}"
    "label{display:block;margin:.8rem 0 .2rem}input,select{font:inherit;width:100%;padding:.4rem;box-sizing:border-box}"
    "button{font:inherit;margin:1rem .5rem 0 0;padding:.5rem 1.2rem}.error{color:#b00020}td{padding:.1rem 1rem .1rem 0}"
    "td code{white-space:nowrap}"
)
NUMBERS = (
    ("4242 4242 4242 4242", "succeeds"),
    ("4000 0000 0000 0002", "declined"),
    ("4000 0000 0000 9995", "insufficient funds"),
    ("4000 0025 0000 3155", "asks the bank, unless the card was saved before"),
    ("4000 0027 6000 3184", "asks the bank every time"),
    ("4000 0000 0000 0259", "succeeds, then disputed"),
    ("4000 0000 0000 5423", "succeeds, then an early fraud warning"),
)


def payment(session: Document, email: str, error: str = "") -> str:
    """Return the page of an open session."""
    lines = "".join(
        f"<tr><td>{item['quantity']} × {escape(item['description'])}"
        f"<td>{currencies.show(item['amount_total'], item['currency'])}"
        for item in session["_items"]
    )
    methods = "".join(f"<option>{escape(each)}</option>" for each in session["payment_method_types"])
    numbers = "".join(f"<tr><td><code>{number}</code><td>{what}" for number, what in NUMBERS)
    tax = '<label for="tax_id">Tax id</label><input id="tax_id" name="tax_id">'
    verb, total = "Save", ""
    if session["_items"]:
        verb, total = "Pay", f"<p><b>{currencies.show(session['amount_total'], session['currency'])}</b>"
    back = f'<a href="{escape(session["cancel_url"])}">Back</a>' if session["cancel_url"] else ""
    return document(
        "Pay" if session["_items"] else "Save a card",
        f"<table>{lines}</table>{total}"
        f'<p class="error" role="alert">{escape(error)}</p><form method="post" action="/c/pay/{session["id"]}">'
        f'<label for="email">Email</label><input id="email" name="email" type="email" required value="{escape(email)}">'
        '<label for="name">Name</label><input id="name" name="name">'
        f'<label for="method">Pay by</label><select id="method" name="method">{methods}</select>'
        '<label for="number">Card number</label><input id="number" name="number" inputmode="numeric"'
        ' value="4242 4242 4242 4242"><label for="expiry">Expiry</label><input id="expiry" name="expiry" value="12/34">'
        f'<label for="cvc">CVC</label><input id="cvc" name="cvc" value="123">'
        f"{tax if session['tax_id_collection']['enabled'] else ''}<button>{verb}</button>{back}</form>"
        f"<h2>Test cards</h2><table>{numbers}</table><p>With any method but <code>card</code>, the money "
        "arrives days later: <code>POST /_control/payment_intents/ID/complete</code>.",
    )


def bank(waiting: Document) -> str:
    """Return the page on which the customer answers their bank, for a PaymentIntent or a SetupIntent."""
    wish = f"pay {currencies.show(waiting['amount'], waiting['currency'])}" if "amount" in waiting else "save this card"
    buttons = '<button name="answer" value="yes">Complete</button><button name="answer" value="no">Fail</button>'
    return document("3D Secure test", f'<p>Your bank asks: do you want to {wish}?<form method="post">{buttons}</form>')


def onboarding(account: Document) -> str:
    """Return the page on which a creator completes the onboarding."""
    who = escape(account["email"] or account["id"])
    buttons = '<button>Complete the onboarding</button> <button name="later" value="yes">Later</button>'
    return document("Onboarding", f'<p>{who}<form method="post">{buttons}</form>')


def receipt(charge: Document) -> str:
    """Return the receipt of a charge."""
    rows = [("Paid", charge["amount"])] + (
        [("Refunded", charge["amount_refunded"])] if charge["amount_refunded"] else []
    )
    lines = "".join(f"<tr><td>{name}<td>{currencies.show(amount, charge['currency'])}" for name, amount in rows)
    return document("Receipt", f"<table>{lines}<tr><td>Charge<td>{charge['id']}</table>")


def note(title: str, sentence: str) -> str:
    """Return a page with one sentence."""
    return document(title, f"<p>{escape(sentence)}")


def document(title: str, body: str) -> str:
    """Return a whole page."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{title} · test double</title><style>{STYLE}</style><p class="double">A test double of Stripe: '
        f"no money moves. Never enter a real card.</p><h1>{title}</h1>{body}"
    )
