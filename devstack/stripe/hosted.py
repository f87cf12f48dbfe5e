"""The addresses of the hosted pages: `/c/pay/…`, `/authenticate/…`, `/connect/…`, `/receipts/…`."""

import hmac
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit

from devstack.stripe import pages, paying, store
from devstack.stripe.books import Books
from devstack.stripe.errors import ApiError, Document, NotFound

MAX_FIELDS, MAX_FIELD = 20, 300
PATH = re.compile(r"/(c/pay|authenticate|connect|receipts)/([\w-]{1,255})(?:/(\w+))?")


@dataclass(frozen=True)
class Page:
    """HTML, or a redirect."""

    html: str
    status: int = 200
    location: str = ""


def show(books: Books, method: str, path: str, query: str, body: str) -> Page | None:
    """Return the page at an address after acting on what its form sent; None for an unknown address."""
    match = PATH.fullmatch(path)
    if not match:
        return None
    place, identifier, secret = match.groups()
    try:
        form = _fields(body) if method == "POST" else None
        match place:
            case "c/pay":
                return _pay(books, books.get("checkout.session", identifier), form)
            case "authenticate":
                secret = parse_qs(query).get("secret", [""])[0]
                return _authenticate(books, _waiting(books, identifier, secret), form)
            case "connect":
                return _onboard(books, books.get("account", identifier), secret or "", form)
            case _:
                return Page(pages.receipt(books.get("charge", identifier)))
    except NotFound as error:
        return Page(pages.note("Not found", error.message), 404)
    except ValueError:
        return Page(pages.note("Bad request", "The form's fields are not valid."), 400)


def _pay(books: Books, session: Document, form: dict[str, str] | None) -> Page:
    email = _email(books, session)
    if session["status"] == "complete":
        return _after(session)
    if session["status"] != "open":
        return Page(pages.note("Expired", "This payment page has expired."), 410)
    if form is None:
        return Page(pages.payment(session, email))
    fields = {name: form[name] for name in paying.Form.__dataclass_fields__ if name in form}
    try:
        intent = paying.pay(books, session, paying.Form(**{"email": email} | fields))
    except ApiError as error:
        return Page(pages.payment(session, form.get("email", email), error.message), error.status)
    if intent["status"] == "requires_action":
        return Page("", 303, intent["next_action"]["redirect_to_url"]["url"])
    return _after(session)


def _authenticate(books: Books, waiting: Document, form: dict[str, str] | None) -> Page:
    session = books.get("checkout.session", waiting["_session"]) if "_session" in waiting else None
    if waiting["status"] != "requires_action":
        paid = session and session["status"] == "complete"
        return _after(session) if session and paid else Page(pages.note("Done", f"It is now {waiting['status']}."))
    if form is None:
        return Page(pages.bank(waiting))
    return_url = waiting["next_action"]["redirect_to_url"]["return_url"]
    failure = ""
    try:
        paying.answer_bank(books, waiting, form.get("answer") == "yes")
    except ApiError as error:
        failure = error.message
    if session:
        session = books.get("checkout.session", session["id"])
        failure = failure or (waiting.get("last_payment_error") or {}).get("message", "")
        if session["status"] == "complete":
            return _after(session)
        return Page(pages.payment(session, _email(books, session), failure), 402)
    status = "succeeded" if waiting["status"] == "succeeded" else "failed"
    if not return_url:
        return Page(pages.note("Done", f"{status}. {failure}"))
    name = waiting["object"]
    more = {name: waiting["id"], f"{name}_client_secret": waiting["client_secret"], "redirect_status": status}
    return Page("", 303, return_url + ("&" if urlsplit(return_url).query else "?") + urlencode(more))


def _email(books: Books, session: Document) -> str:
    known = books.get("customer", session["customer"])["email"] if session["customer"] else session["customer_email"]
    return known or ""


def _onboard(books: Books, account: Document, secret: str, form: dict[str, str] | None) -> Page:
    if not hmac.compare_digest(secret, account.get("_link", "")):
        return Page(pages.note("Express dashboard", f"{account['id']}: payouts enabled {account['payouts_enabled']}"))
    if form is None:
        return Page(pages.onboarding(account))
    if form.get("later") != "yes":
        paying.complete_onboarding(books, account)
    return Page("", 303, account["_return_url"])


def _fields(body: str) -> dict[str, str]:
    return {name: values[0][:MAX_FIELD] for name, values in parse_qs(body, max_num_fields=MAX_FIELDS).items()}


def _after(session: Document) -> Page:
    return Page("", 303, session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"]))


def _waiting(books: Books, identifier: str, secret: str) -> Document:
    waiting = store.read(books.connection, identifier)
    if not waiting or not hmac.compare_digest(waiting.get("client_secret") or "", secret):
        raise NotFound("payment_intent", identifier)
    return waiting
