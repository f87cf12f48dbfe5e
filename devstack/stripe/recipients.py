"""Accounts as the second version of the API has them, their onboarding, and thin events, which only say what changed.

An account is the same object in both versions; `connect` has the first. Not for transfers to them (connect).
"""

from datetime import UTC, datetime

from devstack.stripe import store, webhooks
from devstack.stripe.books import Books, Call, address
from devstack.stripe.errors import Document, Invalid, NotFound
from devstack.stripe.objects import random_text

LINK_SECONDS = 300
CAPABILITY_CHANGED = "v2.core.account[configuration.recipient].capability_status_updated"
CAPABILITY = "stripe_balance.stripe_transfers"
DUE = ["identity.individual.date_of_birth", "configuration.recipient.default_outbound_destination"]
STATUSES = ("active", "pending", "restricted", "rejected", "unsupported")
# Between these Stripe moves money for a platform of any of them.
SELF_SERVE = {
    "at", "be", "bg", "ca", "ch", "cy", "cz", "de", "dk", "ee", "es", "fi", "fr", "gb", "gr", "hr", "hu", "ie", "is",
    "it", "li", "lt", "lu", "lv", "mt", "nl", "no", "pl", "pt", "ro", "se", "si", "sk", "us",
}  # fmt: skip


def create(call: Call) -> Document:
    """Handle `POST /v2/core/accounts`: create a recipient whose onboarding has not begun."""
    params = call.params.plain()
    country = params.get("identity", {}).get("country", "")
    balance = params.get("configuration", {}).get("recipient", {}).get("capabilities", {}).get("stripe_balance", {})
    if country not in SELF_SERVE:
        raise Invalid(f"Transfers to accounts in {country!r} are not available.", code="unsupported_country")
    if not balance.get("stripe_transfers", {}).get("requested"):
        raise Invalid("This double supports only recipients of transfers.", stored=False, param="configuration")
    account = call.books.create(
        "account",
        type="express",
        capabilities={"transfers": "inactive"},
        charges_enabled=False,
        country=country.upper(),
        details_submitted=False,
        email=params.get("contact_email"),
        metadata=params.get("metadata") or {},
        payouts_enabled=False,
        _recipient="restricted",
    )
    call.books.save(account)
    return shown(account)


def retrieve(call: Call) -> Document:
    """Handle `GET /v2/core/accounts/{id}`; configuration and requirements are shown only if they are to be included."""
    account = call.books.get("account", call.names["id"])
    included = call.params.get("include") or []
    document = shown(account) | {"requirements": _requirements(account) if "requirements" in included else None}
    return document if "configuration.recipient" in included else document | {"configuration": None}


def create_link(call: Call) -> Document:
    """Handle `POST /v2/core/account_links`: create the address of a page on which the onboarding is completed."""
    account = call.books.get("account", call.params.get("account"), "account")
    must_be_open(account, "account")
    case = call.params.part("use_case")
    if case.get("type") != "account_onboarding":
        raise Invalid("This double supports only links of type account_onboarding.", stored=False, param="use_case")
    onboarding = case.part("account_onboarding")
    onboarding.require("refresh_url")
    onboarding.plain()
    address(onboarding, "refresh_url")
    back = address(onboarding, "return_url") or onboarding.get("refresh_url")
    account |= {"_link": random_text(24), "_return_url": back}
    call.books.save(account)
    return {
        "object": "v2.core.account_link",
        "account": account["id"],
        "created": _moment(call.books.now),
        "expires_at": _moment(call.books.now + LINK_SECONDS),
        "livemode": False,
        "url": f"{call.books.url}/connect/{account['id']}/{account['_link']}",
    }


def set_status(books: Books, account: Document, status: str) -> None:
    """Set what has become of a recipient's capability to get transfers, with the thin event that says so."""
    if status not in STATUSES:
        raise Invalid(f"a capability is {', '.join(STATUSES)}, not {status}")
    before = account["_recipient"]
    account |= {"_recipient": status, "capabilities": {"transfers": "active" if status == "active" else "inactive"}}
    books.save(account)
    if status != before:
        _emit(books, CAPABILITY_CHANGED, account)


def must_be_open(account: Document, param: str) -> None:
    """Raise NotFound if an account was closed, which only its own address still shows."""
    if account.get("_closed"):
        raise NotFound("account", account["id"], param)


def shown(account: Document) -> Document:
    """Return an account in the words of the second version; of one that was closed little is shown."""
    status, closed = account["_recipient"], bool(account.get("_closed"))
    details = [] if status == "active" else [{"code": "requirements_past_due", "resolution": "provide_info"}]
    transfers = {"requested": True, "status": status, "status_details": details}
    return {
        "id": account["id"],
        "object": "v2.core.account",
        "applied_configurations": ["recipient"],
        "closed": closed,
        "configuration": None
        if closed
        else {
            "customer": None,
            "merchant": None,
            "recipient": {"applied": True, "capabilities": {"stripe_balance": {"stripe_transfers": transfers}}},
        },
        "contact_email": None if closed else account["email"],
        "created": _moment(account["created"]),
        "dashboard": "express",
        "identity": {"country": account["country"].lower()},
        "livemode": False,
        "metadata": account["metadata"],
    }


def _requirements(account: Document) -> Document:
    past_due = {"status": "past_due", "time": None}
    restricted = {"capability": CAPABILITY, "configuration": "recipient", "deadline": {"status": "past_due"}}
    due = [] if account["_recipient"] in ("active", "rejected", "unsupported") else DUE
    entries = [
        {
            "awaiting_action_from": "user",
            "description": description,
            "errors": [],
            "impact": {"restricts_capabilities": [restricted]},
            "minimum_deadline": past_due,
            "reference": None,
            "requested_reasons": [{"code": "routine_onboarding"}],
        }
        for description in due
    ]
    return {"alternatives": [], "entries": entries, "summary": {"minimum_deadline": past_due} if due else None}


def _emit(books: Books, kind: str, account: Document) -> None:
    related = {"id": account["id"], "type": "v2.core.account", "url": f"/v2/core/accounts/{account['id']}"}
    event: Document = {
        "id": f"evt_test_{random_text(24)}",
        "object": "v2.core.event",
        "context": None,
        "created": _moment(books.now),
        "livemode": False,
        "reason": None,
        "related_object": related,
        "type": kind,
    }
    store.insert(books.connection, event)
    if books.notifies:
        webhooks.queue(books.connection, event)


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
