"""What the OpenAPI description says of the whole API: its manners, its sections, and which calls follow on which."""

from __future__ import annotations

import re
from typing import Any

NAME = re.compile(r"\{(\w+)\}")
ABOUT = """\
Pictures from Qwen-Image, paid for in Tokens. Begin with `POST /v1/quotes`, which costs nothing, then buy with
`POST /v1/jobs` and `Prefer: wait=60`, and download the pictures that the answer links to. What takes longer is watched
(`GET /v1/jobs/{job_id}/events`), or tells your server when it has ended (`/v1/webhooks`).

**Who asks.** Send your API key with every call: `Authorization: Bearer kiln_…`, or a token of the identity provider,
where there is one. Models, prices and packs need none. Keep keys on servers: they do not belong into a browser.

**Money.** Tokens and money are decimal strings, such as `"13.417"`, never floats. A job's price is known before it is
bought and held when it is; in the end the job costs what was delivered, and the rest is released.

**Once.** Give everything that buys an `Idempotency-Key` of your own, such as a UUID, and send it again with the same
body as often as you must: it buys once, and later answers say `Idempotent-Replayed: true`.

**Errors.** Whatever is not a success is `{"error": {"type", "code", "message", "param", "request_id"}}`. Switch on
`code`, which is stable; `message` is for people; `param` names the field or header at fault; quote `request_id`, which
is also the header `X-Request-Id`, when you ask for help. Send again, after `Retry-After`, what was answered 408, 429,
502, 503, or 409 with `Retry-After`; nothing else gets better by itself.

**Limits.** JSON bodies have at most 64 KiB; with pictures, 20 MiB. Lists come in pages: send `next_cursor` as `cursor`
until it is null. `GET /v1/models` has the limits of pictures. The headers `RateLimit-Policy` and `RateLimit` say how
much you may ask for, and how much of it is left.

**Conditions.** Answers to GET have an `ETag`: `If-None-Match` gets 304, and a change with an `If-Match` that no longer
holds gets 412.
"""

TAGS = {
    "quotes": "What a job would cost, before you buy it.",
    "jobs": "Buy pictures, follow them, cancel them, and see what they cost and why.",
    "images": "The same for clients that speak OpenAI's Images API.",
    "files": "Pictures that you send once and use in orders: to edit, to begin from, or as masks.",
    "adapters": "Adapters (LoRA): trained from your pictures or sent, used in orders, shared.",
    "market": "Adapters that everybody may use: the catalogue, ratings, reports. Looking needs no API key.",
    "trainings": "What becomes of a training: progress, samples, costs, and the versions that come of it.",
    "tiers": "The tiers of trainings on sale. Needs no API key.",
    "maker": "The handle by which others name your adapters.",
    "models": "What can be ordered, with limits and defaults. Needs no API key.",
    "prices": "The price list in force. Needs no API key.",
    "balance": "Your Tokens, what is held, what expires and what was spent.",
    "transfers": "Your statement: everything that came in or went out, also as CSV.",
    "packs": "The Token packs on sale. Needs no API key.",
    "topups": "Buy Tokens by card, once or whenever they run low.",
    "earnings": "What your adapters earn, and how it is spent.",
    "payouts": "What your adapters earned, as money.",
    "invoices": "Your months, with invoices and credit notes as PDF.",
    "keys": "API keys, with spend caps.",
    "webhooks": "Your addresses that are told what happened.",
    "account": "Your account: its time zone, the sites that may call for it, and its end.",
}
"""The sections of the API, by what people need first."""

STARTED = {
    "/v1/adapters": "/v1/trainings",
    "/v1/adapters/{adapter_id}/trainings": "/v1/trainings",
    "/v1/images/generations": "/v1/jobs",
    "/v1/images/edits": "/v1/jobs",
    "/v1/webhooks/{webhook_id}/test": "/v1/webhooks/{webhook_id}/deliveries",
}
"""Calls that make something of another address's."""


def complete(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Add what is not said of one call alone."""
    result["info"]["description"] = ABOUT
    result["servers"] = [{"url": "/"}]
    calls = [call for methods in result["paths"].values() for call in methods.values()]
    used = {tag for call in calls for tag in call["tags"]}
    known = {name: {"name": name, "description": said} for name, said in TAGS.items()}
    result["tags"] = [said for name, said in known.items() if name in used]
    for call in calls:
        if "security" not in call:
            call["security"] = []
    for path, methods in result["paths"].items():
        if "post" in methods:
            _link(methods["post"], result["paths"], STARTED.get(path, path))
    return result


def _link(call: dict[str, Any], paths: dict[str, Any], path: str) -> None:
    """Say of a call that makes something which others take its id (OpenAPI's links)."""
    links = {}
    known = {name: f"$request.path.{name}" for name in NAME.findall(path)}
    for address, methods in paths.items():
        names = NAME.findall(address.removeprefix(path))
        if address.startswith(f"{path}/{{") and len(names) == 1:
            parameters = {**known, names[0]: "$response.body#/id"}
            for other in methods.values():
                links[other["operationId"]] = {"operationId": other["operationId"], "parameters": parameters}
    for status, answer in call["responses"].items():
        if links and status in {"200", "201", "202"}:
            answer["links"] = links
