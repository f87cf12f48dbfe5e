"""All API addresses that the double answers, with the SDK's type of their parameters."""

import json
import re
from typing import Any, NamedTuple

from stripe import params as p
from stripe.params import checkout, radar
from stripe.params.v2 import core

from devstack.stripe import (
    balance,
    catalogue,
    connect,
    customers,
    disputes,
    payments,
    recipients,
    refunds,
    sessions,
    setups,
)
from devstack.stripe.books import Call, Handler, listed, lists, retrieve
from devstack.stripe.errors import Document, Invalid
from devstack.stripe.store import field


class Route(NamedTuple):
    """An address and its handler; `{id}` in `path` stands for one part of an address."""

    method: str
    path: str
    handler: Handler
    params: type


def list_events(call: Call) -> Document:
    """Handle `GET /v1/events`, by `type` (also `charge.*`), `types` and `delivery_success`."""
    if "type" in call.params and "types" in call.params:
        raise Invalid("You may pass only one of these parameters: type, types.", stored=False)
    types = call.params.get("types") or [call.params.get("type", "*")]
    matches = f"EXISTS (SELECT 1 FROM json_each(?) AS t WHERE {field('type')} GLOB t.value)"
    conditions: list[tuple[str, Any]] = [(matches, json.dumps(types))]
    if "delivery_success" in call.params:
        undelivered = "(SELECT event FROM deliveries WHERE state != 'delivered')"
        conditions.append((f"(id NOT IN {undelivered}) = ?", call.params.get("delivery_success")))
    return listed(call, "event", conditions)


WARNINGS, WARNING = "/v1/radar/early_fraud_warnings", "radar.early_fraud_warning"
ROUTES = (
    Route("POST", "/v1/account_links", connect.create_link, p.AccountLinkCreateParams),
    Route("POST", "/v1/accounts", connect.create, p.AccountCreateParams),
    Route("GET", "/v1/accounts", lists("account"), p.AccountListParams),
    Route("GET", "/v1/accounts/{id}", retrieve("account"), p.AccountRetrieveParams),
    Route("POST", "/v1/accounts/{id}", connect.update, p.AccountUpdateParams),
    Route("POST", "/v1/accounts/{id}/login_links", connect.create_login_link, p.AccountCreateLoginLinkParams),
    Route("GET", "/v1/balance", balance.retrieve, p.BalanceRetrieveParams),
    Route("GET", "/v1/balance_transactions", lists("balance_transaction", "source", "type"),
        p.BalanceTransactionListParams),
    Route("GET", "/v1/balance_transactions/{id}", retrieve("balance_transaction"), p.BalanceTransactionRetrieveParams),
    Route("GET", "/v1/charges", lists("charge", "customer", "payment_intent", "transfer_group"), p.ChargeListParams),
    Route("GET", "/v1/charges/{id}", retrieve("charge"), p.ChargeRetrieveParams),
    Route("GET", "/v1/checkout/sessions", lists("checkout.session", "customer", "payment_intent", "status"),
        checkout.SessionListParams),
    Route("POST", "/v1/checkout/sessions", sessions.create, checkout.SessionCreateParams),
    Route("GET", "/v1/checkout/sessions/{id}", retrieve("checkout.session"), checkout.SessionRetrieveParams),
    Route("POST", "/v1/checkout/sessions/{id}/expire", sessions.expire_now, checkout.SessionExpireParams),
    Route("GET", "/v1/checkout/sessions/{id}/line_items", sessions.line_items, checkout.SessionListLineItemsParams),
    Route("GET", "/v1/customers", lists("customer", "email"), p.CustomerListParams),
    Route("POST", "/v1/customers", customers.create, p.CustomerCreateParams),
    Route("GET", "/v1/customers/{id}", retrieve("customer"), p.CustomerRetrieveParams),
    Route("POST", "/v1/customers/{id}", customers.update, p.CustomerUpdateParams),
    Route("DELETE", "/v1/customers/{id}", customers.delete, p.CustomerDeleteParams),
    Route("GET", "/v1/customers/{id}/payment_methods", customers.list_methods, p.CustomerListPaymentMethodsParams),
    Route("GET", "/v1/disputes", lists("dispute", "charge", "payment_intent"), p.DisputeListParams),
    Route("GET", "/v1/disputes/{id}", retrieve("dispute"), p.DisputeRetrieveParams),
    Route("POST", "/v1/disputes/{id}", disputes.update, p.DisputeUpdateParams),
    Route("POST", "/v1/disputes/{id}/close", disputes.accept, p.DisputeCloseParams),
    Route("GET", "/v1/events", list_events, p.EventListParams),
    Route("GET", "/v1/events/{id}", retrieve("event"), p.EventRetrieveParams),
    Route("GET", "/v1/payment_intents", lists("payment_intent", "customer"), p.PaymentIntentListParams),
    Route("POST", "/v1/payment_intents", payments.create, p.PaymentIntentCreateParams),
    Route("GET", "/v1/payment_intents/{id}", retrieve("payment_intent"), p.PaymentIntentRetrieveParams),
    Route("POST", "/v1/payment_intents/{id}/cancel", payments.cancel, p.PaymentIntentCancelParams),
    Route("POST", "/v1/payment_intents/{id}/confirm", payments.confirm, p.PaymentIntentConfirmParams),
    Route("GET", "/v1/payment_methods", customers.list_methods, p.PaymentMethodListParams),
    Route("POST", "/v1/payment_methods", customers.create_method, p.PaymentMethodCreateParams),
    Route("GET", "/v1/payment_methods/{id}", retrieve("payment_method"), p.PaymentMethodRetrieveParams),
    Route("POST", "/v1/payment_methods/{id}/attach", customers.attach_method, p.PaymentMethodAttachParams),
    Route("POST", "/v1/payment_methods/{id}/detach", customers.detach_method, p.PaymentMethodDetachParams),
    Route("GET", "/v1/prices", lists("price", "active", "currency", "product", "type"), p.PriceListParams),
    Route("POST", "/v1/prices", catalogue.create_price, p.PriceCreateParams),
    Route("GET", "/v1/prices/{id}", retrieve("price"), p.PriceRetrieveParams),
    Route("GET", "/v1/products", lists("product", "active"), p.ProductListParams),
    Route("POST", "/v1/products", catalogue.create_product, p.ProductCreateParams),
    Route("GET", "/v1/products/{id}", retrieve("product"), p.ProductRetrieveParams),
    Route("GET", WARNINGS, lists(WARNING, "charge", "payment_intent"), radar.EarlyFraudWarningListParams),
    Route("GET", WARNINGS + "/{id}", retrieve(WARNING), radar.EarlyFraudWarningRetrieveParams),
    Route("GET", "/v1/refunds", lists("refund", "charge", "payment_intent"), p.RefundListParams),
    Route("POST", "/v1/refunds", refunds.create, p.RefundCreateParams),
    Route("GET", "/v1/refunds/{id}", retrieve("refund"), p.RefundRetrieveParams),
    Route("POST", "/v1/refunds/{id}/cancel", refunds.cancel, p.RefundCancelParams),
    Route("GET", "/v1/setup_intents", lists("setup_intent", "customer", "payment_method"), p.SetupIntentListParams),
    Route("POST", "/v1/setup_intents", setups.create, p.SetupIntentCreateParams),
    Route("GET", "/v1/setup_intents/{id}", retrieve("setup_intent"), p.SetupIntentRetrieveParams),
    Route("GET", "/v1/transfers", lists("transfer", "destination", "transfer_group"), p.TransferListParams),
    Route("POST", "/v1/transfers", connect.transfer, p.TransferCreateParams),
    Route("GET", "/v1/transfers/{id}", retrieve("transfer"), p.TransferRetrieveParams),
    Route("GET", "/v1/transfers/{id}/reversals", connect.list_reversals, p.TransferListReversalsParams),
    Route("POST", "/v1/transfers/{id}/reversals", connect.reverse, p.TransferCreateReversalParams),
    Route("POST", "/v2/core/account_links", recipients.create_link, core.AccountLinkCreateParams),
    Route("POST", "/v2/core/accounts", recipients.create, core.AccountCreateParams),
    Route("GET", "/v2/core/accounts/{id}", recipients.retrieve, core.AccountRetrieveParams),
)  # fmt: skip
PATTERNS = [(re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[\\w-]{1,255})", route.path)), route) for route in ROUTES]


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """Return the route of a request, with the values of its `{}`."""
    for pattern, route in PATTERNS:
        if route.method == method and (match := pattern.fullmatch(path)):
            return route, match.groupdict()
    return None
