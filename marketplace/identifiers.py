"""Time-ordered identifiers (RFC 9562, version 7), so that newer rows sort last and indexes stay compact."""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from uuid import UUID


def uuid7() -> UUID:
    """48 bits of Unix milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    high, low = secrets.randbits(12), secrets.randbits(62)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)


def first_uuid7(moment: datetime) -> UUID:
    """The smallest identifier of that millisecond: rows made since have this one or a larger one."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
