"""Connected accounts (express), transfers to them, and reversals of those."""

import stripe

from devstack.stripe import balance, recipients
from devstack.stripe.books import Books, Call, address, listed, text
from devstack.stripe.errors import Document, Invalid
from devstack.stripe.objects import nulls, page, random_text
from devstack.stripe.store import field

LINK_SECONDS = 300
STATES = ("payouts_enabled", "charges_enabled", "details_submitted")
DUE = ["business_type", "external_account", "tos_acceptance.date", "tos_acceptance.ip"]


def create(call: Call) -> Document:
    """Handle `POST /v1/accounts`: create an account whose onboarding has not begun."""
    params = call.params
    if params.get("type", "express") != "express":
        raise Invalid("This double supports only accounts of type express.", stored=False, param="type")
    wanted = params.part("capabilities").plain()
    account = call.books.create(
        "account",
        type="express",
        business_type=params.get("business_type"),
        capabilities={name: "inactive" for name, each in wanted.items() if each.get("requested")},
        charges_enabled=False,
        controller={"is_controller": True, "type": "application", "stripe_dashboard": {"type": "express"}},
        country=params.get("country", "US"),
        default_currency=params.get("default_currency", "usd"),
        details_submitted=False,
        email=text(params.get("email")),
        metadata=call.merged_metadata({}),
        payouts_enabled=False,
        requirements=_requirements(DUE),
    )
    account["external_accounts"] = page(f"/v1/accounts/{account['id']}/external_accounts", [])
    call.books.save(account)
    return account


def update(call: Call) -> Document:
    """Handle `POST /v1/accounts/{id}`."""
    account = call.books.get("account", call.names["id"])
    fields = {name: text(call.params.get(name)) for name in ("email", "business_type") if name in call.params}
    metadata = call.merged_metadata(account)
    call.books.change(account, "account.updated", account["id"], **fields, metadata=metadata)
    return account


def create_link(call: Call) -> Document:
    """Handle `POST /v1/account_links`: create the address of a page on which the owner completes the onboarding."""
    params = call.params
    params.require("refresh_url", "return_url")
    account = call.books.get("account", params.get("account"), "account")
    if params.get("type") not in ("account_onboarding", "account_update"):
        raise Invalid("This double supports only links of type account_onboarding.", stored=False, param="type")
    account |= {"_link": random_text(24), "_return_url": address(params, "return_url")}
    address(params, "refresh_url")
    call.books.save(account)
    url = f"{call.books.url}/connect/{account['id']}/{account['_link']}"
    return {
        "object": "account_link",
        "created": call.books.now,
        "expires_at": call.books.now + LINK_SECONDS,
        "url": url,
    }


def create_login_link(call: Call) -> Document:
    """Handle `POST /v1/accounts/{id}/login_links`, possible once the onboarding is complete."""
    account = call.books.get("account", call.names["id"])
    if not account["details_submitted"]:
        raise Invalid("Cannot create a login link for an account that has not completed onboarding.")
    url = f"{call.books.url}/connect/{account['id']}/dashboard"
    return {"object": "login_link", "created": call.books.now, "url": url}


def set_state(books: Books, account: Document, states: dict[str, bool], disabled: str | None = None) -> Document:
    """Set payouts_enabled, charges_enabled and details_submitted of an account, and why it is `disabled`."""
    if unknown := set(states) - set(STATES):
        raise Invalid(f"an account has no {unknown.pop()}; it has {', '.join(STATES)}")
    done = states.get("details_submitted", account["details_submitted"])
    payable = states.get("payouts_enabled", account["payouts_enabled"])
    capabilities = dict.fromkeys(account["capabilities"], "active" if done and payable else "inactive")
    requirements = _requirements([] if done else DUE) | {"disabled_reason": disabled}
    fields = {**states, "capabilities": capabilities, "requirements": requirements}
    books.change(account, "account.updated", account["id"], **fields)
    return account


def transfer(call: Call) -> Document:
    """Handle `POST /v1/transfers`, out of the available balance or of the funds from `source_transaction`."""
    books, params = call.books, call.params
    params.require("amount")
    amount, currency = params.get("amount"), params.get("currency").lower()
    account = books.get("account", params.get("destination"), "destination")
    recipients.must_be_open(account, "destination")
    if account["capabilities"].get("transfers") != "active":
        message = (
            "Your destination account needs to have at least one of the following capabilities enabled: transfers, "
            "crypto_transfers, legacy_payments"
        )
        raise Invalid(message, code="insufficient_capabilities_for_transfer", param="destination")
    if amount < 1:
        raise Invalid("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    source, available_on = _source(books, params.get("source_transaction"), amount, currency)
    moved = books.create(
        "transfer",
        amount=amount,
        amount_reversed=0,
        currency=currency,
        description=text(params.get("description")),
        destination=account["id"],
        destination_payment=f"py_1{random_text(23)}",
        metadata=call.merged_metadata({}),
        reversed=False,
        source_transaction=source,
        source_type="card",
        transfer_group=params.get("transfer_group"),
    )
    taken = balance.record(books, "transfer", -amount, currency, moved["id"], available_on=available_on)
    balance.record(books, "payment", amount, currency, moved["id"], available_on=available_on, account=account["id"])
    moved |= {"balance_transaction": taken["id"], "reversals": page(f"/v1/transfers/{moved['id']}/reversals", [])}
    books.save(moved)
    books.emit("transfer.created", moved)
    return moved


def reverse(call: Call) -> Document:
    """Handle `POST /v1/transfers/{id}/reversals`, in full or in part. Raises Invalid if less is left."""
    books = call.books
    moved = books.get("transfer", call.names["id"])
    left = moved["amount"] - moved["amount_reversed"]
    amount = call.params.get("amount", left)
    if not 0 < amount <= left:
        message = f"The transfer reversal amount ({amount}) must be positive and at most what is left ({left})."
        raise Invalid(message, param="amount")
    reversal = books.create(
        "transfer_reversal",
        amount=amount,
        currency=moved["currency"],
        metadata=call.merged_metadata({}),
        transfer=moved["id"],
    )
    given = balance.record(books, "transfer_refund", amount, moved["currency"], reversal["id"])
    balance.record(books, "payment_refund", -amount, moved["currency"], reversal["id"], account=moved["destination"])
    reversal["balance_transaction"] = given["id"]
    books.save(reversal)
    moved["amount_reversed"] += amount
    moved["reversed"] = moved["amount_reversed"] == moved["amount"]
    moved["reversals"]["data"].insert(0, reversal)
    books.save(moved)
    books.emit("transfer.reversed", moved)
    return reversal


def list_reversals(call: Call) -> Document:
    """Handle `GET /v1/transfers/{id}/reversals`."""
    moved = call.books.get("transfer", call.names["id"])
    return listed(call, "transfer_reversal", [(f"{field('transfer')} = ?", moved["id"])])


def _source(books: Books, source: str | None, amount: int, currency: str) -> tuple[str | None, int]:
    if not source:
        balance.must_cover(books, amount, currency)
        return None, books.now
    charge = books.get("charge", source, "source_transaction")
    used = sum(each["amount"] for each in books.find("transfer", source_transaction=source))
    if charge["currency"] != currency or used + amount > charge["amount"]:
        left = charge["amount"] - used
        message = f"The transfers of {source} must be in its currency and within its amount: {left} is left."
        raise Invalid(message, param="amount")
    return source, books.get("balance_transaction", charge["balance_transaction"])["available_on"]


def _requirements(due: list[str]) -> Document:
    lists = {"currently_due": due, "eventually_due": due, "past_due": due, "errors": [], "pending_verification": []}
    reason = "requirements.past_due" if due else None
    return nulls(stripe.Account.Requirements) | lists | {"alternatives": [], "disabled_reason": reason}
