"""The errors that the double answers with, in the words and JSON of Stripe's API.

ApiError
├── Invalid       400: the parameters are wrong, or the state does not allow it
├── NotFound      404, or 400 if a parameter gave the id
└── Declined      402: the card was refused; the attempt is kept
"""

from typing import Any

Document = dict[str, Any]


class ApiError(Exception):
    """An error answer. `kept`: changes made before it stay; `stored`: an idempotency key replays it."""

    status = 500
    kept = False

    def __init__(self, message: str, *, stored: bool = True, kind: str = "invalid_request_error", **more: Any) -> None:
        super().__init__(message)
        self.message = message
        self.stored = stored
        self.kind = kind
        self.more = more

    def document(self) -> Document:
        """Return the `error` object: message and type, with code, param, decline_code… if known."""
        error = {name: value for name, value in self.more.items() if value is not None}
        if code := error.get("code"):
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        return {"error": {**error, "message": self.message, "type": self.kind}}


class Refused(ApiError):
    """A refusal that concerns neither parameters nor a card: authentication, rate limits, keys in use."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message, stored=False, **more)
        self.status = status


class Invalid(ApiError):
    """See the tree above."""

    status = 400


class NotFound(ApiError):
    """See the tree above."""

    def __init__(self, kind: str, identifier: str, param: str | None = None) -> None:
        what = f"No such {kind.replace('.', ' ').replace('_', ' ') if '.' in kind else kind}: '{identifier}'"
        super().__init__(what, code="resource_missing", param=param or "id")
        self.status = 400 if param else 404


class Declined(ApiError):
    """See the tree above."""

    status = 402
    kept = True

    def __init__(self, message: str, code: str, decline_code: str | None, **more: Any) -> None:
        super().__init__(message, kind="card_error", code=code, decline_code=decline_code, **more)
