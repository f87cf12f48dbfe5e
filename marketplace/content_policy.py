"""`Content-Security-Policy` on every response: nothing comes from other sites, and pages may do only what they need."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

View = Callable[[HttpRequest], HttpResponse]

CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE = f"{CLOSED}; style-src 'self'; img-src 'self'"
# Swagger UI sets styles from its scripts and draws its icons as data.
DOCS = (
    f"{CLOSED}; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'"
)
# Unfold's Alpine evaluates the expressions in its templates, and its colours are an inline style.
CONSOLE = (
    "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; connect-src 'self';"
    " script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'"
)


class ContentPolicy:
    """Middleware that sets the policy of each response."""

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.setdefault("Content-Security-Policy", policy(request.path))
        return response


def policy(path: str) -> str:
    if path.startswith("/admin/"):
        return CONSOLE
    if path.startswith("/topups/"):
        return PAGE
    return {"/": PAGE, "/docs": DOCS}.get(path, CLOSED)
