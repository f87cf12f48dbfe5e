"""Examples for the OpenAPI description: a statement."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample

TRANSFERS: dict[str, Any] = {
    "data": [
        {
            "id": 4712,
            "kind": "capture",
            "amount": "-0.365",
            "balance": "43999.635",
            "job": "01a1fc35-d9b0-7c28-b357-b63e93188538",
            "topup": None,
            "url": "/v1/jobs/01a1fc35-d9b0-7c28-b357-b63e93188538",
            "memo": "",
            "created_at": "2026-11-21T03:45:51.737Z",
        },
        {
            "id": 4701,
            "kind": "grant",
            "amount": "4000",
            "balance": "44000",
            "job": None,
            "topup": "01a1fc31-2f50-7d3c-9a63-0d4f6b1c2e77",
            "url": "/v1/topups/01a1fc31-2f50-7d3c-9a63-0d4f6b1c2e77",
            "memo": "bonus of pack medium",
            "created_at": "2026-11-21T03:40:12.004Z",
        },
    ],
    "next_cursor": "4701",
}

statement = [OpenApiExample("a charge and a bonus", TRANSFERS, response_only=True, status_codes=["200"])]
