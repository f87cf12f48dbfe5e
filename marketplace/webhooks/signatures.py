"""The secrets of webhooks and their signatures (Standard Webhooks 1.0).

A secret is derived from a random seed in the database and Kiln's own key (KILN_SECRET_KEY), so neither of them alone
reveals it, and nothing is stored that could be read where it is backed up.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from django.db.models import F
from django.db.models.functions import Now
from django.utils.crypto import salted_hmac
from standardwebhooks import Webhook

from marketplace.webhooks.models import Signed

# For so long the secret before signs too.
OVERLAP = timedelta(hours=24)


def secret(seed: UUID) -> str:
    """Return the secret as customers get it."""
    key = salted_hmac("marketplace.webhooks.secret", seed.hex, algorithm="sha256").digest()
    return f"whsec_{base64.b64encode(key).decode()}"


def rotate(owner: Signed) -> str:
    """Give an endpoint or an account another secret, and return it; the one before signs too for a day."""
    rows = type(owner)._default_manager.filter(pk=owner.pk)
    rows.update(previous_seed=F("seed"), previous_until=Now() + OVERLAP, seed=(seed := uuid4()))
    return secret(seed)


def headers(owner: Signed, event: UUID, body: str, moment: datetime) -> dict[str, str]:
    """Return the headers that say what is sent and by whom."""
    seeds = [owner.seed]
    if owner.previous_seed and owner.previous_until and moment < owner.previous_until:
        seeds.append(owner.previous_seed)
    utc = moment.astimezone(UTC)  # the library takes the time of any other zone for UTC's
    return {
        "webhook-id": str(event),
        "webhook-timestamp": str(int(utc.timestamp())),
        "webhook-signature": " ".join(Webhook(secret(seed)).sign(str(event), utc, body) for seed in seeds),
    }
