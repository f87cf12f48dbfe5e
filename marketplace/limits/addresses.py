"""Where a request comes from: the address before the last proxy of ours, by which those without a key are counted."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from django.conf import settings

UNKNOWN = "unknown"


def client(meta: Mapping[str, Any]) -> str:
    """Return the client's address; of IPv6 the /64, which one customer has.

    `X-Forwarded-For` is read from its end, as long as it was written by a proxy that KILN_TRUSTED_PROXIES names.
    """
    found = _parsed(meta.get("REMOTE_ADDR") or "")
    for hop in reversed(meta.get("HTTP_X_FORWARDED_FOR", "").split(",")):
        before = _parsed(hop.strip())
        if before is None or not (found is None or _is_ours(found)):
            break
        found = before
    if isinstance(found, IPv6Address):
        return str(ip_network((found, 64), strict=False))
    return str(found or UNKNOWN)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return None for what is no address, such as that of a socket in a folder, behind which is always a proxy."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _is_ours(address: IPv4Address | IPv6Address) -> bool:
    return any(address in network for network in settings.TRUSTED_PROXIES)
