"""Rows → JSON bodies, as `serializers` describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest

from billing.amounts import format_money, format_tokens
from billing.models import AutomaticTopUp, Clawback, Hold, Lot, Pack, Payer, TopUp, Transfer
from billing.payments.invoices import Invoice
from billing.prices import pricing
from billing.tokens.ledger import Entry
from billing.tokens.lots import Cost, Position
from inference.card import ModelCard
from marketplace.accounts.caps import Budget
from marketplace.accounts.models import ApiKey
from marketplace.jobs import storage
from marketplace.jobs.models import Image, Job, Status

SOON = timedelta(days=30)
OF_JOBS = {Transfer.Kind.CAPTURE, Transfer.Kind.REFUND}
QUOTED = ("total", "unit", "n", "price_list", "factors")


def job(row: Job, images: Sequence[Image], request: HttpRequest, position: int | None = None) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "status": row.status,
        "operation": row.operation,
        "model": row.model,
        "service_class": row.service_class,
        "deterministic": False,  # in orders from before it could be asked for
        **row.order,
        "seed": row.seed,
        "n": row.n,
        "metadata": row.metadata,
        "progress": {"step": row.step, "steps": row.steps},
        "queue_position": position,
        "images": [image(item, request) for item in images],
        "cost": {
            "quoted": format_tokens(row.quoted),
            "held": format_tokens(row.held),
            "captured": format_tokens(row.captured),
            "released": format_tokens(row.released),
        },
        "quote": {name: row.quote[name] for name in QUOTED},
        "receipt": row.receipt,
        "cache": _cache(row),
        "timings": _timings(row),
        "error": {"code": row.error_code, "message": row.error_message} if row.error_code else None,
    }


def absolute(request: HttpRequest, path: str) -> str:
    """An address of ours as a customer reaches it."""
    return f"{settings.PUBLIC_URL.rstrip('/')}{path}" if settings.PUBLIC_URL else request.build_absolute_uri(path)


def image(row: Image, request: HttpRequest) -> dict[str, Any]:
    path, expires = storage.signed_path(row)
    return {
        "url": absolute(request, path),
        "expires_at": _time(datetime.fromtimestamp(expires, UTC)),
        "sha256": row.sha256,
        "width": row.width,
        "height": row.height,
        "media_type": row.media_type,
        "seed": row.seed,
    }


def quote(offer: pricing.Quote) -> dict[str, Any]:
    stored = offer.as_json()
    return {name: stored[name] for name in QUOTED}


def balance(found: Position, owed: Sequence[Clawback], budgets: Sequence[Budget], key_id: UUID) -> dict[str, Any]:
    soon: dict[datetime, int] = {}
    for lot in found.lots:
        if lot.expires_at and lot.expires_at <= found.moment + SOON:
            soon[lot.expires_at] = soon.get(lot.expires_at, 0) + lot.remaining
    return {
        **{name: format_tokens(getattr(found.balance, name)) for name in ("available", "held", "total")},
        "lots": [_lot(lot) for lot in found.lots],
        "expiring_soon": [{"expires_at": _time(when), "amount": format_tokens(soon[when])} for when in sorted(soon)],
        "frozen": bool(owed),
        "debts": [_debt(debt) for debt in owed],
        "account": {each.period: _budget(each) for each in budgets if each.whose == "account"},
        "key": {"id": str(key_id)} | {each.period: _budget(each) for each in budgets if each.whose == "key"},
    }


def _budget(budget: Budget) -> dict[str, Any]:
    return {
        "spent": format_tokens(budget.spent),
        "cap": _optional_tokens(budget.cap),
        "left": _optional_tokens(budget.left),
        "resets_at": _time(budget.resets_at),
    }


def transfer(entry: Entry) -> dict[str, Any]:
    job = str(entry.reference) if entry.kind in OF_JOBS else None
    url = f"/v1/jobs/{job}" if job else f"/v1/topups/{entry.top_up}" if entry.top_up else None
    return {
        "id": entry.id,
        "kind": entry.kind,
        "amount": format_tokens(entry.amount),
        "balance": format_tokens(entry.balance),
        "job": job,
        "topup": str(entry.top_up) if entry.top_up else None,
        "url": url,
        "memo": entry.memo,
        "created_at": _time(entry.created_at),
    }


def receipt(row: Job, hold: Hold, moves: Sequence[Transfer], cost: Cost) -> dict[str, Any]:
    quoted = pricing.Quote.from_json(row.quote)
    images = [_receipt_image(row, quoted, outcome) for outcome in (row.receipt or {}).get("images", [])]
    return {
        "job": str(row.id),
        "status": row.status,
        "operation": row.operation,
        "model": row.model,
        "service_class": row.service_class,
        "quote": {name: row.quote[name] for name in (*QUOTED, "skipped_step")},
        "images": images,
        "steps": {
            "ordered": row.steps,
            "run": sum(image["steps_run"] for image in images),
            "skipped": sum(image["steps_skipped"] for image in images),
        },
        "hold": {
            "status": hold.status,
            "amount": format_tokens(hold.amount),
            "captured": format_tokens(hold.captured),
            "released": format_tokens(0 if hold.status == Hold.Status.HELD else hold.amount - hold.captured),
            "refunded": format_tokens(hold.refunded),
            "created_at": _time(hold.created_at),
            "expires_at": _time(hold.expires_at),
            "resolved_at": _time(hold.resolved_at),
        },
        "transfers": [
            {
                "id": move.pk,
                "kind": move.kind,
                "amount": format_tokens(move.amount if move.kind == Transfer.Kind.REFUND else -move.amount),
                "created_at": _time(move.created_at),
            }
            for move in moves
        ],
        "lots": [
            {
                "id": str(part.lot),
                "kind": part.kind,
                "amount": format_tokens(part.amount),
                "price": format_money(part.money_minor, part.currency) if part.currency else None,
                "currency": part.currency or None,
            }
            for part in cost.parts
        ],
        "cost": {currency: format_money(money, currency) for currency, money in sorted(cost.money.items())},
    }


def _receipt_image(row: Job, quoted: pricing.Quote, outcome: Mapping[str, Any]) -> dict[str, Any]:
    run, skipped = outcome.get("steps_run") or 0, outcome.get("steps_skipped") or 0
    if row.status == Status.CANCELED:
        charged = pricing.charge_canceled(quoted, [run])
    else:
        charged = pricing.charge(quoted, [pricing.ImageOutcome(bool(outcome["delivered"]), run, skipped)])
    return {
        "delivered": bool(outcome["delivered"]),
        "steps_run": run,
        "steps_skipped": skipped,
        "charged": format_tokens(charged),
    }


def invoice(found: Invoice) -> dict[str, Any]:
    return {
        "month": f"{found.first:%Y-%m}",
        "number": found.number,
        "final": found.is_final,
        "url": f"/v1/invoices/{found.first:%Y-%m}.pdf",
    }


def _lot(row: Lot) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "kind": row.kind,
        "amount": format_tokens(row.amount),
        "left": format_tokens(row.remaining),
        "price": format_money(row.price_minor, row.currency) if row.price_minor else None,
        "currency": row.currency or None,
        "created_at": _time(row.created_at),
        "expires_at": _time(row.expires_at),
    }


def _debt(row: Clawback) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "owed": format_tokens(row.owed),
        "price": format_money(row.owed_minor, row.lot.currency) if row.lot.price_minor else None,
        "currency": row.lot.currency or None,
        "reason": row.reason,
        "created_at": _time(row.created_at),
    }


def pack(row: Pack) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version,
        "tokens": format_tokens(row.tokens),
        "bonus": format_tokens(row.bonus),
        "prices": {currency: format_money(price, currency) for currency, price in sorted(row.prices.items())},
    }


def top_up(row: TopUp) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "status": row.status,
        "url": row.url if row.status == TopUp.Status.OPEN and row.url else None,
        "pack": pack(row.pack),
        "price": format_money(row.price_minor, row.currency),
        "currency": row.currency,
        "refunded": format_money(row.refunded_minor, row.currency),
        "automatic": row.automatic,
        "failure": row.failure or None,
        "created_at": _time(row.created_at),
        "expires_at": _time(row.expires_at),
        "paid_at": _time(row.paid_at),
    }


def automatic(row: AutomaticTopUp, payer: Payer | None, pending: TopUp | None) -> dict[str, Any]:
    return {
        "status": row.status,
        "reason": row.reason or None,
        "pack": pack(row.pack),
        "price": format_money(row.pack.prices[row.currency], row.currency),
        "currency": row.currency,
        "threshold": format_tokens(row.threshold),
        "daily_cap": format_money(row.daily_cap_minor, row.currency),
        "card": payer.card if payer and payer.card_id else None,
        "card_url": row.card_url or None,
        "retry_at": _time(row.retry_at),
        "pending": top_up(pending) if pending else None,
        "created_at": _time(row.created_at),
    }


def key(row: ApiKey) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "name": row.name,
        "prefix": f"kiln_{row.prefix}",
        "daily_cap": _optional_tokens(row.daily_cap),
        "monthly_cap": _optional_tokens(row.monthly_cap),
        "created_at": _time(row.created_at),
        "last_used_at": _time(row.last_used_at),
        "revoked_at": _time(row.revoked_at),
    }


def model(card: ModelCard) -> dict[str, Any]:
    body = asdict(card)
    for private in ("path", "max_prompt_length"):
        body.pop(private, None)
    return body


def _optional_tokens(milli: int | None) -> str | None:
    return None if milli is None else format_tokens(milli)


def _cache(row: Job) -> dict[str, Any]:
    """What the caches saved; null-safe for jobs that have no receipt yet, and for old ones."""
    images = (row.receipt or {}).get("images", [])
    hits = [each for each in images if each.get("tier", "none") != "none"]
    return {
        "tier": hits[0]["tier"] if hits else "none",
        "similarity": min((each["similarity"] for each in hits), default=None),
        "steps_skipped": sum(each["steps_skipped"] for each in images),
    }


def _timings(row: Job) -> dict[str, Any]:
    moments = {name: _time(getattr(row, name)) for name in ("created_at", "started_at", "finished_at")}
    return {**moments, **row.timings}


def _time(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None
