"""Other sites' scripts (CORS): which may call the API, and which may read what it answers.

A browser asks before it sends a key, so that whose it will be is not known yet: it is told yes where any account has
named the site. The answer itself is readable to the sites alone that its own account has named.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from corsheaders.middleware import CorsMiddleware
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest

from marketplace.accounts.authentication import Caller
from marketplace.accounts.models import Origin

MAX_ORIGINS = 10
MAX_LENGTH = 255
LOCAL = {"localhost", "127.0.0.1", "::1"}
DEFAULT_PORTS = {"http": 80, "https": 443}


class CrossOrigin(CorsMiddleware):
    def is_enabled(self, request: HttpRequest) -> bool:
        return request.path_info.startswith("/v1/")

    def check_signal(self, request: HttpRequest) -> bool:
        """Return whether the request's origin may call, or, once its account is known, read the answer.

        While the database is away nobody may: the answer, which is there already, stays what it is.
        """
        named = Origin.objects.filter(origin=request.headers.get("Origin", ""))
        caller = getattr(request, "user", None)
        if isinstance(caller, Caller):
            named = named.filter(account_id=caller.account_id)
        try:
            return named.exists()
        except (OperationalError, InterfaceError):
            return False


def normalise(text: str) -> str:
    """Return an origin as browsers write it. Raises ValueError if it is none, or neither https nor on this machine."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError("Must be an origin, e.g. https://app.example.com.") from error
    if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("Must be an origin, e.g. https://app.example.com, without a path.")
    if len(text) > MAX_LENGTH or not text.isascii() or not text.isprintable() or set(text) & set(" *\\<>\"'%"):
        raise ValueError(f"Must have at most {MAX_LENGTH} plain characters, and no wildcard.")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise ValueError("Must begin with https://, or be http://localhost.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = host if port in {None, DEFAULT_PORTS[parts.scheme]} else f"{host}:{port}"
    return f"{parts.scheme}://{place}"
