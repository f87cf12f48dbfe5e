"""`POST /webhooks/stripe`: events are verified byte for byte, acted on, and only then acknowledged."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from billing.errors import BadSignature
from billing.payments import automatic, events, payees, refund_orders, stripe
from marketplace.api.problems import Problem, respond
from marketplace.approvals import requests


@csrf_exempt
@require_POST
def receive(request: HttpRequest) -> HttpResponse:
    """Answer 200 once the event is done, or if it needs nothing. After a 500 or 503 Stripe sends it again."""
    try:
        event = stripe.read_event(request.body, request.headers.get("Stripe-Signature", ""))
    except BadSignature:
        problem = Problem(400, "invalid_request", "invalid_signature", "This is not signed by Stripe, or too long ago.")
        return respond(problem, request)
    events.apply(event)
    _follow_up(event["type"].partition(".")[0])
    return JsonResponse({"received": True})


def _follow_up(kind: str) -> None:
    """Do at once what an event asks for beyond our books; the periodic tasks do what fails here."""
    refund_orders.carry_out(stripe.from_settings())
    if kind == "payment_method":
        automatic.follow_cards(stripe.from_settings())
    if kind == "v2":
        payees.follow(stripe.from_settings())
    if kind == "refund":
        requests.note_sent_back()
