"""Kiln's addresses as customers reach them."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def absolute(request: HttpRequest | None, path: str) -> str:
    """Return the full address of a path: under KILN_PUBLIC_URL if set, else under the host that was asked, if any."""
    if settings.PUBLIC_URL or request is None:
        return f"{settings.PUBLIC_URL.rstrip('/')}{path}"
    return request.build_absolute_uri(path)
