"""The table of exceptions and the problems that they are for whoever called."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions as rest

from billing.amounts import format_fraction, format_tokens, show_money
from billing.errors import (
    AccountFrozen,
    CapBelowPrice,
    CountryKept,
    CountryNotPaid,
    IdempotencyMismatch,
    InsufficientTokens,
    NotAPayee,
    NothingMatured,
    PaymentInFlight,
    PaymentsRefused,
    PaymentsUnavailable,
    PayoutBelowMinimum,
    SpendCapReached,
    UnknownCurrency,
    UnknownOperation,
    UnknownPack,
    UnknownServiceClass,
)
from inference.errors import InvalidPicture, InvalidRequest, ModelUnavailable
from lora import errors as lora
from lora.adapters import MOST_SHARED
from marketplace.accounts import keys
from marketplace.accounts.authentication import UNKNOWN_KEY
from marketplace.accounts.signing_keys import ProviderAway
from marketplace.api.bodies import TooMuchText
from marketplace.api.limits import headers
from marketplace.api.problems import Problem, invalid, not_found, respond
from marketplace.closing import SomethingLeft
from marketplace.files.errors import QuotaReached
from marketplace.jobs import errors as jobs
from marketplace.jobs.inputs import Busy
from marketplace.limits.policies import BYTES, LimitReached
from marketplace.trainings import errors as trainings
from marketplace.webhooks import endpoints

logger = logging.getLogger(__name__)


def _insufficient(error: InsufficientTokens) -> Problem:
    needed, available = format_tokens(error.needed), format_tokens(error.available)
    message = f"This costs {needed} Tokens and {available} are available."
    return Problem(402, "payment", "insufficient_tokens", message)


def _capped(error: SpendCapReached) -> Problem:
    needed, left, cap = (format_tokens(amount) for amount in (error.needed, error.left, error.cap))
    whose = {"key": "this API key's", "account": "the account's"}[error.whose]
    message = (
        f"This costs {needed} Tokens, and {left} are left of {whose} {cap} a {error.period}, until"
        f" {error.resets_at:%Y-%m-%dT%H:%M:%SZ}."
    )
    return Problem(402, "payment", f"{error.whose}_{CAPS[error.period]}_reached", message)


def _left(error: SomethingLeft) -> Problem:
    """Name all that an account would lose by being closed, and the ways to keep it."""
    what, ways = [], []
    if error.tokens:
        what.append(f"{format_tokens(error.tokens)} Tokens")
        ways.append("spend the Tokens or ask for a refund")
    if error.earned:
        worth = "".join(f", worth {show_money(minor, currency)}" for currency, minor in error.worth.items())
        what.append(f"{format_tokens(error.earned)} Tokens of earnings{worth}")
        ways.append("spend the earnings or be paid out")
    for each in error.payouts:
        what.append(f"a payout of {show_money(each.money_minor, each.purse.currency)}, which is under way")
    if error.payouts:
        ways.append("wait for the payout")
    code = "earnings_left" if error.earned or error.payouts else "tokens_left"
    message = f"Still there: {'; '.join(what)}. To keep it, {', '.join(ways)}; or say `forfeit`."
    return Problem(409, "conflict", code, message)


def _too_dear(error: jobs.CostAboveMaximum | trainings.CostAboveMaximum) -> Problem:
    message = f"This costs {format_tokens(error.quoted)} Tokens, above max_cost {format_tokens(error.maximum)}."
    return invalid("max_cost", message, "cost_above_maximum")


def _quota(error: QuotaReached) -> Problem:
    whose = "An account" if error.funded else "An account without Tokens"
    message = f"{whose} keeps {error.files} files and {error.mebibytes} MiB of them at most: delete some."
    return Problem(409, "conflict", "file_quota_reached", message)


def _limited(error: LimitReached) -> Problem:
    policy = error.policy
    what = "bytes sent" if policy.unit == BYTES else "refused attempts" if policy.name == "failures" else policy.unit
    message = f"More than {policy.quota} {what} in {policy.seconds} s: go on in {error.retry_after} s."
    told = {"Retry-After": str(error.retry_after), **headers(error.standings)}
    return Problem(429, "rate_limit", f"{policy.name}_limit_reached", message, headers=told)


def _queue_full(error: jobs.QueueFull) -> Problem:
    message = f"{error.most} of your jobs wait to be started, and no more may: send this again when some have been."
    return Problem(429, "rate_limit", "queue_full", message, headers={"Retry-After": "5"})


def _outside_tier(error: lora.OutsideTier) -> Problem:
    name = {"side": "resolution"}.get(error.field, error.field)
    return invalid(name, f"This tier allows {error.least} to {error.most}.", "outside_tier")


def _trainings_full(error: trainings.QueueFull) -> Problem:
    message = f"{error.most} of your trainings wait or run, and no more may: send this again when some have ended."
    return Problem(429, "rate_limit", "queue_full", message, headers={"Retry-After": "60"})


def _unauthenticated(error: rest.APIException) -> Problem:
    challenge = 'Bearer realm="kiln"'
    code, message = "missing_api_key", "Send your API key as `Authorization: Bearer kiln_…`."
    if isinstance(error, rest.AuthenticationFailed):
        code = "invalid_api_key" if error.get_codes() == error.default_code else str(error.get_codes())
        message = str(error.detail)
        challenge += ', error="invalid_token"'
    return Problem(401, "authentication", code, message, headers={"WWW-Authenticate": challenge})


def _validation(error: rest.ValidationError) -> Problem:
    param, detail = _first(error.detail)
    code = getattr(detail, "code", "") or "invalid_value"
    return invalid(param, str(detail), "invalid_value" if code == "invalid" else str(code))


def _first(detail: Any, path: str = "") -> tuple[str | None, Any]:
    """Return the dotted name of the first field at fault in DRF's nested detail, and its error."""
    if isinstance(detail, dict):
        name, inner = next(iter(detail.items()))
        name = "" if name == "non_field_errors" else str(name)
        return _first(inner, f"{path}.{name}" if path and name else path or name)
    if isinstance(detail, list):
        return _first(detail[0], path)
    return path or None, detail


def _payments(error: PaymentsUnavailable | PaymentsRefused) -> Problem:
    if isinstance(error, PaymentInFlight):
        message = "This key's first request is still being answered; send this again in a moment."
        return Problem(409, "conflict", "idempotency_key_in_flight", message, "Idempotency-Key", {"Retry-After": "1"})
    if isinstance(error, PaymentsRefused):
        return Problem(502, "server", "payments_refused", "Stripe refused this; nothing was bought.")
    message = "Stripe cannot be reached; nothing was bought. Send this again, with the same Idempotency-Key."
    return Problem(503, "server", "payments_unavailable", message, headers={"Retry-After": "5"})


CAPS = {"day": "daily_cap", "month": "monthly_cap"}
KEY_REUSED = invalid("Idempotency-Key", "This key was used before with another body.", "idempotency_key_reused")
TABLE: list[tuple[type[Exception] | tuple[type[Exception], ...], Callable[[Any], Problem]]] = [
    (Problem, lambda error: error),
    (InsufficientTokens, _insufficient),
    (
        AccountFrozen,
        lambda _: Problem(402, "payment", "account_frozen", "A payment went back; settle the debt that it left first."),
    ),
    (SpendCapReached, _capped),
    (jobs.CostAboveMaximum, _too_dear),
    (jobs.QueueFull, _queue_full),
    (LimitReached, _limited),
    (jobs.KeyReused, lambda _: KEY_REUSED),
    (IdempotencyMismatch, lambda _: KEY_REUSED),
    (UnknownPack, lambda _: invalid("pack", "There is no such pack.", "unknown_pack")),
    (
        UnknownCurrency,
        lambda error: invalid("currency", f"Must be one of {', '.join(error.known)}.", "unknown_currency"),
    ),
    (CapBelowPrice, lambda _: invalid("daily_cap", "Must be at least what one top-up costs.", "cap_below_price")),
    (PaymentsUnavailable, _payments),
    (PaymentsRefused, _payments),
    (UnknownOperation, lambda _: invalid("operation", "This is not sold now.", "operation_not_sold")),
    (UnknownServiceClass, lambda _: invalid("service_class", "This is not sold now.", "service_class_not_sold")),
    (jobs.NotFound, lambda _: not_found("job")),
    (
        jobs.NotCancelable,
        lambda _: Problem(409, "conflict", "not_cancelable", "The job has already ended."),
    ),
    (trainings.NotFound, lambda _: not_found("training")),
    (trainings.NoSuchStep, lambda _: not_found("adapter of that step")),
    (
        trainings.NotCancelable,
        lambda _: Problem(409, "conflict", "not_cancelable", "The training has already ended."),
    ),
    (
        trainings.NotEnded,
        lambda _: Problem(409, "conflict", "not_ended", "The training has not ended: wait, or cancel it."),
    ),
    (trainings.KeyReused, lambda _: KEY_REUSED),
    (trainings.CostAboveMaximum, _too_dear),
    (trainings.QueueFull, _trainings_full),
    (lora.UnknownTier, lambda _: invalid("tier", "There is no such tier: see `GET /v1/tiers`.", "unknown_tier")),
    (lora.OutsideTier, _outside_tier),
    (
        lora.NotPublishable,
        lambda error: Problem(409, "conflict", "not_publishable", f"{str(error)[:1].upper()}{str(error)[1:]}."),
    ),
    (
        lora.FeeOutsideBounds,
        lambda error: invalid("fee", f"Must be {format_fraction(error.most, 3)} at most.", "fee_outside_bounds"),
    ),
    (
        lora.PublicationPending,
        lambda _: Problem(409, "conflict", "publication_pending", "The operator has not decided on the last one yet."),
    ),
    (
        lora.WordsKept,
        lambda _: Problem(
            409,
            "conflict",
            "words_kept",
            "It is published, or waits to be, with the words that the operator sees: end that first.",
        ),
    ),
    (
        lora.NotBought,
        lambda _: Problem(403, "permission", "not_bought", "Only those who bought pictures with it rate an adapter."),
    ),
    (lora.UnknownAdapter, lambda _: not_found("adapter")),
    (
        lora.SlugTaken,
        lambda _: Problem(409, "conflict", "slug_taken", "You have another adapter of this name.", "slug"),
    ),
    (InvalidRequest, lambda error: invalid(error.param, f"{str(error)[:1].upper()}{str(error)[1:]}.")),
    (
        Busy,
        lambda _: Problem(
            503, "server", "busy", "Too many pictures are being fetched; send this again.", headers={"Retry-After": "2"}
        ),
    ),
    (
        NothingMatured,
        lambda error: Problem(
            409,
            "conflict",
            "nothing_matured",
            f"{format_tokens(error.ready)} Tokens of your earnings have matured and are not gone yet.",
        ),
    ),
    (
        CountryNotPaid,
        lambda error: invalid(
            "country",
            f"Nothing can be paid out in {error.country!r}: spend what you earned as Tokens (POST /v1/earnings/spend).",
            "country_not_paid",
        ),
    ),
    (
        CountryKept,
        lambda error: Problem(
            409,
            "conflict",
            "country_kept",
            f"Stripe has your account in {error.country!r}, which cannot change. Ask the operator to close it there.",
            "country",
        ),
    ),
    (
        NotAPayee,
        lambda _: Problem(
            409,
            "conflict",
            "not_a_payee",
            "Stripe does not pay you yet, or no longer: see GET /v1/payouts/account, and begin with a POST to it.",
        ),
    ),
    (
        PayoutBelowMinimum,
        lambda error: Problem(
            409,
            "conflict",
            "below_minimum",
            f"{show_money(error.ready_minor, error.currency)} have matured, and at least"
            f" {show_money(error.least, error.currency)} are paid out.",
        ),
    ),
    (SomethingLeft, lambda error: _left(error)),
    (
        jobs.NotEnded,
        lambda _: Problem(409, "conflict", "not_ended", "The job has not ended: cancel it first."),
    ),
    (InvalidPicture, lambda error: invalid("file", f"This file cannot be used: {error}.", "invalid_picture")),
    (QuotaReached, _quota),
    (lora.UnknownVersion, lambda _: not_found("version")),
    (lora.HandleTaken, lambda _: Problem(409, "conflict", "handle_taken", "This handle is taken.", "handle")),
    (
        lora.HandleKept,
        lambda _: Problem(409, "conflict", "handle_kept", "A handle is chosen once, and you have one.", "handle"),
    ),
    (
        lora.TooManyShared,
        lambda _: Problem(409, "conflict", "too_many_shared", f"An adapter is shared with {MOST_SHARED} accounts."),
    ),
    (
        lora.TooManyVersions,
        lambda error: Problem(
            409,
            "conflict",
            "adapter_quota_reached",
            f"An account keeps {error.most} versions of adapters, fewer without Tokens, and {error.mebibytes} MiB of "
            "them at most: delete some. What was deleted counts for a day.",
        ),
    ),
    (
        endpoints.TooMany,
        lambda _: Problem(409, "conflict", "too_many_webhooks", f"Delete one of your {endpoints.MOST} webhooks first."),
    ),
    (
        endpoints.Disabled,
        lambda _: Problem(409, "conflict", "webhook_disabled", "This webhook is disabled: enable it first."),
    ),
    (
        endpoints.TooManyWaiting,
        lambda _: Problem(409, "conflict", "too_many_deliveries", "Too much waits to be sent there: try again later."),
    ),
    (rest.ValidationError, _validation),
    (rest.NotAuthenticated, _unauthenticated),
    (rest.AuthenticationFailed, _unauthenticated),
    (
        keys.SwitchedOff,
        lambda _: Problem(403, "permission", "account_switched_off", "This account is switched off: ask the operator."),
    ),
    (
        ProviderAway,
        lambda _: Problem(
            503,
            "server",
            "identity_provider_unavailable",
            "The identity provider cannot be asked for its keys: try again in a moment.",
            headers={"Retry-After": "30"},
        ),
    ),
    (keys.Revoked, lambda _: _unauthenticated(rest.AuthenticationFailed(UNKNOWN_KEY))),
    (rest.PermissionDenied, lambda _: Problem(403, "permission", "forbidden", "This is not allowed.")),
    (PermissionDenied, lambda _: Problem(403, "permission", "forbidden", "This is not allowed.")),
    (Http404, lambda _: not_found()),
    (rest.NotFound, lambda _: not_found()),
    (
        rest.UnsupportedMediaType,
        lambda _: Problem(415, "invalid_request", "not_json", "Send JSON, with `Content-Type: application/json`."),
    ),
    (
        TooMuchText,
        lambda error: Problem(
            413,
            "invalid_request",
            "body_too_large",
            f"Beside data URLs the body may have at most {error.most // 1024} KiB.",
        ),
    ),
    (rest.ParseError, lambda error: Problem(400, "invalid_request", "malformed", str(error.detail))),
    (
        rest.MethodNotAllowed,
        lambda error: Problem(405, "invalid_request", "method_not_allowed", str(error.detail)),
    ),
    (
        rest.NotAcceptable,
        lambda _: Problem(406, "invalid_request", "not_acceptable", "Answers are application/json."),
    ),
    (
        ModelUnavailable,
        lambda _: Problem(
            503, "server", "model_unavailable", "No model can be served now; the operator must see to it."
        ),
    ),
    (
        (OperationalError, InterfaceError),
        lambda _: Problem(503, "server", "unavailable", "Try again in a moment.", headers={"Retry-After": "2"}),
    ),
]


def handle(error: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """Handle an exception for DRF; return None (→ `server_error`) if it is not in the table."""
    return answer_to(error, context["request"]._request)


def answer_to(error: Exception, request: HttpRequest) -> HttpResponse | None:
    """Return the table's answer to an exception, None if it has none."""
    for kind, translate in TABLE:
        if isinstance(error, kind):
            problem = translate(error)
            if problem.status >= 500:
                logger.error("%s", problem.code, exc_info=error)
            return respond(problem, request)
    return None
