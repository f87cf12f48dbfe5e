"""The sidebar of the operator's pages, with every list in groups."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse

PAGES = (
    ("", "Dashboard", "dashboard", "index"),
    ("Work", "Jobs", "image", "jobs_job"),
    ("Work", "Trainings", "model_training", "trainings_training"),
    ("Work", "Workers", "memory", "jobs_worker"),
    ("Market", "Adapters", "palette", "lora_adapter"),
    ("Market", "Publications", "storefront", "lora_publication"),
    ("Market", "Reports", "flag", "lora_report"),
    ("Market", "Makers", "brush", "lora_maker"),
    ("Market", "Earnings", "savings", "billing_earning"),
    ("Market", "Payouts", "payments", "billing_payout"),
    ("Market", "Payees", "account_balance", "billing_payee"),
    ("Market", "Marketing", "campaign", "billing_marketing"),
    ("Customers", "Accounts", "storefront", "accounts_account"),
    ("Customers", "Tiers", "speed", "accounts_tier"),
    ("Customers", "API keys", "key", "accounts_apikey"),
    ("Customers", "Webhooks", "webhook", "webhooks_endpoint"),
    ("Customers", "Deliveries", "outgoing_mail", "webhooks_delivery"),
    ("Customers", "People", "person", "accounts_person"),
    ("Customers", "Groups", "group", "auth_group"),
    ("Money", "Wallets", "account_balance_wallet", "billing_wallet"),
    ("Money", "Holds", "lock_clock", "billing_hold"),
    ("Money", "Transfers", "sync_alt", "billing_transfer"),
    ("Money", "Top-ups", "credit_card", "billing_topup"),
    ("Money", "Automatic top-ups", "autorenew", "billing_automatictopup"),
    ("Money", "Debts", "money_off", "billing_clawback"),
    ("Money", "Token packs", "sell", "billing_pack"),
    ("Money", "Training tiers", "school", "lora_tier"),
    ("Money", "Price lists", "price_change", "billing_pricelistversion"),
    ("Control", "Approvals", "approval_delegation", "approvals_request"),
    ("Control", "Audit", "history_edu", "audit_record"),
)


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar with the lists that this operator may see."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for group, title, icon, name in PAGES:
        app, _, model = name.partition("_")
        if not model or request.user.has_perm(f"{app}.view_{model}"):  # type: ignore[union-attr]
            address = reverse(f"admin:{name}_changelist" if model else f"admin:{name}")
            groups.setdefault(group, []).append({"title": title, "icon": icon, "link": address})
    return [{"title": group, "separator": bool(group), "items": items} for group, items in groups.items()]
