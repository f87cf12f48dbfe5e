"""Log-ins, failed log-ins and log-outs of staff, which Django reports by signals only."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.http import HttpRequest

from marketplace.accounts.models import Person
from marketplace.audit import trail


def watch() -> None:
    user_logged_in.connect(_logged_in)
    user_logged_out.connect(_logged_out)
    user_login_failed.connect(_failed)


def _logged_in(request: HttpRequest, user: Person, **_: Any) -> None:
    if user.is_staff:
        trail.record(trail.name_of(user), "login", f"person {user.pk}", _origin(request))


def _logged_out(request: HttpRequest, user: Person | None, **_: Any) -> None:
    if user is not None and user.is_staff:
        trail.record(trail.name_of(user), "logout", f"person {user.pk}", _origin(request))


def _failed(credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    """Record a failed log-in of an operator; unknown addresses leave no record, or strangers could fill the table."""
    email = str(credentials.get("username") or credentials.get("email") or "").lower()
    person = Person.objects.filter(email=email, is_staff=True).first()
    if person is not None:
        trail.record("somebody not logged in", "login.failed", f"person {person.pk}", _origin(request))


def _origin(request: HttpRequest | None) -> dict[str, str]:
    if request is None:
        return {}
    return {"address": request.META.get("REMOTE_ADDR", ""), "request": getattr(request, "id", "")}
