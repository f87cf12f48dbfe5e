"""The control calls, which only tests use, under `/_control/`: JSON in, JSON out.

A call that changes an object makes the same events as the change would at Stripe.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from devstack.stripe import (
    balance,
    clockwork,
    connect,
    disputes,
    faults,
    payments,
    recipients,
    refunds,
    store,
    webhooks,
)
from devstack.stripe.books import Books
from devstack.stripe.cards import BY_NUMBER
from devstack.stripe.errors import Document, Invalid
from devstack.stripe.objects import shown
from devstack.stripe.webhooks import Endpoint

MAX_ADVANCE = 400 * 86_400


class Control(NamedTuple):
    """A control call. `{id}` in `path` stands for one part of an address; `handler` gets the body and that part."""

    method: str
    path: str
    handler: Callable[[Books, Endpoint, Document, str], Any]
    help: str


def _faults(books: Books, *_: object) -> Any:
    return [{"id": number, **asdict(fault)} for number, fault in faults.all_of(books.connection).items()]


def _add_fault(books: Books, _: Endpoint, given: Document, __: str) -> Any:
    return {"id": faults.add(books.connection, faults.Fault(**given))}


def _clear_faults(books: Books, *_: object) -> Any:
    return {"cleared": books.connection.execute("DELETE FROM faults").rowcount}


def _dispute(books: Books, _: Endpoint, given: Document, __: str) -> Any:
    charge = refunds.charge_of(books, given.pop("charge", None), given.pop("payment_intent", None))
    return disputes.open_dispute(books, charge, **given)


def _close_dispute(books: Books, _: Endpoint, given: Document, identifier: str) -> Any:
    return disputes.close(books, books.get("dispute", identifier), given["status"])


def _refund(books: Books, _: Endpoint, given: Document, __: str) -> Any:
    charge = refunds.charge_of(books, given.pop("charge", None), given.pop("payment_intent", None))
    return refunds.refund(books, charge, **given)


def _fail_refund(books: Books, _: Endpoint, __: Document, identifier: str) -> Any:
    return refunds.end(books, books.get("refund", identifier), "failed")


def _end_refund(books: Books, _: Endpoint, given: Document, identifier: str) -> Any:
    return refunds.end(books, books.get("refund", identifier), given["status"])


def _warn_of_fraud(books: Books, _: Endpoint, given: Document, __: str) -> Any:
    charge = refunds.charge_of(books, given.pop("charge", None), given.pop("payment_intent", None))
    return disputes.warn(books, charge, **given)


def _complete_payment(books: Books, _: Endpoint, given: Document, identifier: str) -> Any:
    intent = books.get("payment_intent", identifier)
    payments.complete(books, intent, given.get("succeeded", True))
    return intent


def _change_card(books: Books, _: Endpoint, given: Document, identifier: str) -> Any:
    method = books.get("payment_method", identifier) | {"_number": BY_NUMBER[given["number"]].number}
    books.save(method)
    return method


def _set_account(books: Books, _: Endpoint, given: Document, identifier: str) -> Any:
    account, reason = books.get("account", identifier), given.pop("disabled_reason", None)
    if given.pop("closed", False):
        account["_closed"] = True
        books.save(account)
    if recipient := given.pop("recipient", None):
        recipients.set_status(books, account, recipient)
    return connect.set_state(books, account, given, reason) if given or reason else account


def _advance(books: Books, _: Endpoint, given: Document, __: str) -> Any:
    seconds = float(given["seconds"])
    if not 0 < seconds <= MAX_ADVANCE:
        raise ValueError(f"seconds must be above 0 and at most {MAX_ADVANCE}")
    books.connection.execute("UPDATE clock SET advanced = advanced + ?", (seconds,))
    books.now = int(store.now(books.connection))
    clockwork.tick(books)
    return {"now": books.now}


def _deliveries(books: Books, *_: object) -> Any:
    return webhooks.listing(books.connection)


def _deliver_again(books: Books, _: Endpoint, __: Document, identifier: str) -> Any:
    event = books.get("event", identifier)
    webhooks.queue(books.connection, event)
    return {"event": event["id"]}


def _set_webhook(_: Books, endpoint: Endpoint, given: Document, __: str) -> Any:
    endpoint.secrets = tuple(given.get("secrets", endpoint.secrets))
    endpoint.url = given.get("url", endpoint.url)
    return {"url": endpoint.url, "secrets": len(endpoint.secrets), "under_way": len(endpoint.posting)}


def _totals(books: Books, *_: object) -> Any:
    return balance.totals(books)


CONTROLS = (
    Control("GET", "faults", _faults, "the faults that are still active"),
    Control("POST", "faults", _add_fault, "{kind, match, count, probability, seconds}"),
    Control("DELETE", "faults", _clear_faults, "forget them"),
    Control("POST", "disputes", _dispute, "{charge or payment_intent, amount, reason}: the bank takes money back"),
    Control("POST", "disputes/{id}/close", _close_dispute, "{status: won or lost}"),
    Control(
        "POST", "refunds", _refund, "{charge or payment_intent, amount, reason, status}: a refund from the dashboard"
    ),
    Control("POST", "refunds/{id}", _end_refund, "{status: succeeded, failed, canceled}: what becomes of a refund"),
    Control("POST", "refunds/{id}/fail", _fail_refund, "the card's bank returns a refund"),
    Control("POST", "fraud_warnings", _warn_of_fraud, "{charge or payment_intent, fraud_type}"),
    Control("POST", "payment_intents/{id}/complete", _complete_payment, "{succeeded}: end an asynchronous payment"),
    Control("POST", "payment_methods/{id}", _change_card, "{number}: make a saved card behave like this test card"),
    Control(
        "POST",
        "accounts/{id}",
        _set_account,
        "{recipient, closed, payouts_enabled, charges_enabled, details_submitted, disabled_reason}",
    ),
    Control("POST", "advance", _advance, "{seconds}: move the clock forward; what is due happens"),
    Control("GET", "deliveries", _deliveries, "every webhook delivery with its attempts"),
    Control("POST", "events/{id}/deliver", _deliver_again, "deliver an event once more"),
    Control(
        "POST", "webhook", _set_webhook, "{url, secrets}: until the next start; returns how many events are under way"
    ),
    Control("GET", "totals", _totals, "per currency, in minor units: charged, refunded, disputed, fees, net…"),
)
PATTERNS = [(re.compile("/_control/" + each.path.replace("{id}", r"([\w-]{1,255})")), each) for each in CONTROLS]


def run(books: Books, endpoint: Endpoint, method: str, path: str, body: str) -> Any:
    """Return a call's JSON answer; None for an unknown address. Raises ApiError, or ValueError for invalid input."""
    for pattern, each in PATTERNS:
        if each.method == method and (match := pattern.fullmatch(path)):
            try:
                done = each.handler(books, endpoint, _object(body), match[1] if match.groups() else "")
            except (TypeError, KeyError) as error:
                raise Invalid(f"{path} takes {each.help}: {error}") from None
            return shown(done) if isinstance(done, dict) else done
    return None


def _object(body: str) -> Document:
    given = json.loads(body or "{}")
    if not isinstance(given, dict):
        raise TypeError("not an object")
    return given
