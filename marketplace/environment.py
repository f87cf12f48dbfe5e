"""Settings from environment variables, with a clear error for a bad value.

`docs/configuration.md` lists every variable.
"""

from __future__ import annotations

import os
import secrets
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from billing.amounts import parse_money
from marketplace import addresses

PUBLIC_KEY_ALGORITHMS = (
    *(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)), "EdDSA",
)  # fmt: skip
LOOPBACK = ("127.0.0.0/8", "::1/128")
PRIVATE_RANGES = "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fd00::/8"
"""What Caddy calls so."""


def text(name: str, default: str = "") -> str:
    return os.environ.get(name, "") or default


def whole(name: str, default: int) -> int:
    """Read a non-negative integer. Raises ImproperlyConfigured for anything else."""
    value = text(name, str(default))
    if not value.isascii() or not value.isdigit():
        raise ImproperlyConfigured(f"{name} must be a whole number, not {value!r}")
    return int(value)


def flag(name: str) -> bool:
    """Read a yes or no. Raises ImproperlyConfigured for anything else."""
    value = text(name).strip().lower()
    if value not in {"1", "true", "yes", "on", "0", "false", "no", "off", ""}:
        raise ImproperlyConfigured(f"{name} must be 1 or 0, not {value!r}")
    return value in {"1", "true", "yes", "on"}


def words(name: str, default: str) -> list[str]:
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def signatures(name: str, default: str) -> list[str]:
    """Read algorithms of signatures by public keys. Raises ImproperlyConfigured for others, such as HS256 or none."""
    found = words(name, default)
    if bad := [word for word in found if word not in PUBLIC_KEY_ALGORITHMS]:
        raise ImproperlyConfigured(f"{name} may have {', '.join(PUBLIC_KEY_ALGORITHMS)}, and not {bad[0]}")
    return found


def all_or_none(*names: str) -> None:
    """Raise ImproperlyConfigured if some of these are set and others not."""
    missing = [name for name in names if not text(name)]
    if 0 < len(missing) < len(names):
        raise ImproperlyConfigured(f"{', '.join(missing)} must be set, too")


def networks(name: str) -> list[IPv4Network | IPv6Network]:
    """Read addresses and networks, such as `10.0.0.0/8`, or `private_ranges`, as the front does; this machine is one.

    Raises ImproperlyConfigured.
    """
    given = text(name).replace(",", " ").replace("private_ranges", PRIVATE_RANGES).split()
    try:
        return [ip_network(word) for word in (*LOOPBACK, *given)]
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must be like 10.0.0.0/8,192.168.1.7: {error}") from error


def money(name: str, default: str) -> dict[str, int]:
    """Read amounts such as `eur:50.00,jpy:8000`, in each currency's smallest unit. Raises ImproperlyConfigured."""
    try:
        amounts = [word.split(":") for word in words(name, default)]
        return {currency: parse_money(amount, currency) for currency, amount in amounts}
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must be like {default}: {error}") from error


def storage(name: str, folder: Path) -> dict[str, Any]:
    """Read a storage: a folder, or `s3://bucket/prefix` at Amazon or at `KILN_S3_ENDPOINT`."""
    place = text(name, str(folder))
    if not place.startswith("s3://"):
        return {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": place}}
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    if not bucket:
        raise ImproperlyConfigured(f"{name} must be like s3://bucket/prefix, not {place!r}")
    options = {
        "bucket_name": bucket,
        "location": prefix,
        "endpoint_url": text("KILN_S3_ENDPOINT") or None,
        # each name is written once, so it need not be looked up first
        "file_overwrite": True,
        # larger ones are downloaded to the disk
        "max_memory_size": 2 * 1024**2,
    }
    return {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}


def mail_server(name: str) -> dict[str, Any]:
    """Read a mail server as Django's settings: `smtp://user:password@host:587`, or `smtps://…` for TLS from the start.

    Without one, e-mails are printed. Raises ImproperlyConfigured.
    """
    url = text(name)
    if not url:
        return {"EMAIL_BACKEND": "django.core.mail.backends.console.EmailBackend"}
    parts = urlsplit(url)
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
        raise ImproperlyConfigured(f"{name} must be like smtp://user:password@host:587")
    return {
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": parts.port or (465 if parts.scheme == "smtps" else 587),
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_SSL": parts.scheme == "smtps",
        "EMAIL_USE_TLS": parts.scheme == "smtp" and "plain" not in parse_qs(parts.query, keep_blank_values=True),
        "EMAIL_TIMEOUT": 15,
    }


def secret_key() -> str:
    """Read `KILN_SECRET_KEY`, or the key that is made once and kept in the home folder (mode 0600)."""
    if key := text("KILN_SECRET_KEY"):
        return key
    path = addresses.home() / "secret-key"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
    return path.read_text()


def database_url() -> str:
    return text("DATABASE_URL") or _local("database_url", "DATABASE_URL")


def redis_url() -> str:
    return text("REDIS_URL") or _local("redis_url", "REDIS_URL")


def stripe(name: str) -> str:
    """Read a setting of Stripe's; a local stack whose database is used provides those of its double."""
    if text("DATABASE_URL") or text("STRIPE_SECRET_KEY"):
        return text(name)
    found = addresses.read()
    return found.stripe.get(name, "") if found else ""


def _local(part: str, variable: str) -> str:
    """Read an address that a running local stack has published; empty if there is none."""
    found = addresses.read()
    return str(getattr(found, part, None) or "") if found else ""


def database(url: str) -> dict[str, object]:
    """Return Django's settings for a `postgresql://` URL, with a pool of connections per process."""
    if not url:  # commands that need no database still work; the others fail at once, and `manage.py` says why
        return {"ENGINE": "django.db.backends.postgresql", "NAME": "kiln", "HOST": "/nonexistent"}
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ImproperlyConfigured("DATABASE_URL must begin with postgresql://")
    # billing.prepared says why no plan may scan a whole table where an index would do
    # The server notices within half a minute that a machine is gone, and frees the locks of its sessions.
    silence = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4"
    # A process that hangs within a transaction keeps its rows locked for no longer than this.
    silence += " -c idle_in_transaction_session_timeout=5min"
    # Whoever serves others waits no longer than this for a lock; 0 is for as long as it takes.
    silence += f" -c lock_timeout={whole('KILN_LOCK_SECONDS', 0)}s"
    options = {"options": f"-c enable_seqscan=off {silence}", **dict(parse_qsl(parts.query))}
    pool = {"min_size": 1, "max_size": whole("KILN_DATABASE_POOL", 20), "timeout": 10}
    return {
        "ENGINE": "marketplace.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "kiln",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 0,
        "OPTIONS": {"pool": pool, **options},
    }
