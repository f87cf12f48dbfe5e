"""Time-ordered identifiers (RFC 9562, version 7), so that newer rows sort last and indexes stay compact."""

from __future__ import annotations

import secrets
import time
from uuid import UUID


def uuid7() -> UUID:
    """48 bits of Unix milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    high, low = secrets.randbits(12), secrets.randbits(62)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
