"""The pages that need no API key: the home page, and the top-up page to which Stripe's payment page leads back."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from billing.amounts import format_tokens, show_money
from billing.models import TopUp


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return render(request, "home.html")


@require_safe
def top_up(request: HttpRequest, topup_id: UUID) -> HttpResponse:
    """Show a top-up's status to anyone who knows its id (74 random bits), without names, balances or actions."""
    row = get_object_or_404(TopUp.objects.select_related("pack"), id=topup_id)
    shown = {
        "top_up": row,
        "tokens": format_tokens(row.pack.tokens + row.pack.bonus),
        "price": show_money(row.price_minor, row.currency),
        "refunded": show_money(row.refunded_minor, row.currency),
    }
    answer = render(request, "top_up.html", shown)
    answer["Cache-Control"] = "no-store"
    return answer
