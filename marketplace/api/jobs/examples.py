"""Examples for the OpenAPI description: one order, its price, its job before and after, its receipt."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample

ORDER = {"prompt": "a red circle on a white background", "width": 128, "height": 128, "steps": 20, "seed": 7}
QUOTE = {
    "total": "0.365",
    "unit": "0.365",
    "n": 1,
    "price_list": 2,
    "factors": {
        "base_cost": "100",
        "resolution": "0.015625",
        "steps": "0.4",
        "prompt": "0.583095",
        "service_class": "1",
        "operation": "1",
        "n": "1",
    },
    "adapters": [],
}
QUEUED: dict[str, Any] = {
    "id": "01a1fc35-d9b0-7c28-b357-b63e93188538",
    "status": "queued",
    "operation": "generate",
    "model": "kiln-house",
    "service_class": "standard",
    "prompt": "a red circle on a white background",
    "negative_prompt": "",
    "width": 128,
    "height": 128,
    "steps": 20,
    "guidance_scale": 3.0,
    "deterministic": False,
    "output_format": "png",
    "inputs": [],
    "mask": None,
    "adapters": [],
    "strength": None,
    "extend": None,
    "box": None,
    "seed": 7,
    "n": 1,
    "metadata": {},
    "progress": {"step": 0, "steps": 20},
    "queue_position": 1,
    "images": [],
    "cost": {"quoted": "0.365", "held": "0.365", "captured": "0", "released": "0"},
    "cancel_cost": "0",
    "cancel_requested_at": None,
    "quote": QUOTE,
    "receipt": None,
    "cache": {"tier": "none", "similarity": None, "steps_skipped": 0},
    "timings": {"created_at": "2026-11-21T03:45:50.000Z", "started_at": None, "finished_at": None},
    "error": None,
    "forgotten_at": None,
}
SUCCEEDED = QUEUED | {
    "status": "succeeded",
    "progress": {"step": 20, "steps": 20},
    "queue_position": None,
    "images": [
        {
            "url": "http://127.0.0.1:8000/images/01a1fc35-e070-7d1f-a08a-7bce967fecad.png?expires=…&signature=…",
            "expires_at": "2026-11-21T04:46:00.000Z",
            "sha256": "6763c613ceb4c5b686557cad95b8abf67888ebb74290fe4f682a8be37c9f2e68",
            "width": 128,
            "height": 128,
            "media_type": "image/png",
            "seed": 7,
        }
    ],
    "cost": {"quoted": "0.365", "held": "0", "captured": "0.365", "released": "0"},
    "cancel_cost": None,
    "receipt": {
        "images": [{"delivered": True, "steps_run": 20, "steps_skipped": 0, "tier": "none", "similarity": None}],
        "captured": "0.365",
    },
    "timings": {
        "created_at": "2026-11-21T03:45:50.000Z",
        "started_at": "2026-11-21T03:45:50.038Z",
        "finished_at": "2026-11-21T03:45:51.737Z",
        "engine_seconds": 1.621,
        "store_seconds": 0.038,
    },
}

RECEIPT: dict[str, Any] = {
    "job": QUEUED["id"],
    "status": "succeeded",
    "operation": "generate",
    "model": "kiln-house",
    "service_class": "standard",
    "quote": QUOTE | {"skipped_step": "0.25"},
    "images": [{"delivered": True, "steps_run": 20, "steps_skipped": 0, "charged": "0.365"}],
    "steps": {"ordered": 20, "run": 20, "skipped": 0},
    "hold": {
        "status": "captured",
        "amount": "0.365",
        "captured": "0.365",
        "released": "0",
        "refunded": "0",
        "created_at": "2026-11-21T03:45:50.000Z",
        "expires_at": "2026-11-22T03:45:50.000Z",
        "resolved_at": "2026-11-21T03:45:51.737Z",
    },
    "transfers": [
        {"id": 4712, "kind": "capture", "amount": "-0.365", "created_at": "2026-11-21T03:45:51.737Z"},
    ],
    "lots": [
        {
            "id": "6e0f8a52-93c4-4be1-8f0a-51f1f0a7d7c3",
            "kind": "granted",
            "amount": "0.365",
            "price": None,
            "currency": None,
        }
    ],
    "cost": {},
}

ordering = [OpenApiExample("a red circle", ORDER, request_only=True)]
quoted = [*ordering, OpenApiExample("its price", QUOTE, response_only=True, status_codes=["200"])]
bought = [
    *ordering,
    OpenApiExample("queued", QUEUED, response_only=True, status_codes=["202"]),
    OpenApiExample("after Prefer: wait=60", SUCCEEDED, response_only=True, status_codes=["200"]),
]
seen = [OpenApiExample("succeeded", SUCCEEDED, response_only=True, status_codes=["200"])]
receipt = [OpenApiExample("paid with granted Tokens", RECEIPT, response_only=True, status_codes=["200"])]
