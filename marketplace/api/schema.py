"""The OpenAPI description: every view may also answer with an error, and all errors have one shape.

What holds for all calls is in `description`, what fields may be in `patterns`.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import get_lib_doc_excludes

from marketplace.api import patterns  # noqa: F401 (they are found by themselves)
from marketplace.api.bodies import Body, StoredBody, StrictSerializer
from marketplace.api.problems import ErrorBody

ALWAYS = {
    405: "This address has no such method; `Allow` says which it has.",
    406: "The client accepts neither this type of answer nor `application/json`.",
    415: "The body is of another type or charset, or packed in another way than gzip.",
    429: "Too many requests, or too much was sent: go on after `Retry-After`.",
}
WITH_KEY = {401: "The API key is missing or bad.", 403: "The account is switched off."}
WITH_BODY = {
    400: "The request body is not a JSON object.",
    413: "The body is too large.",
    415: "The body is not JSON, or packed in another way than gzip.",
    422: "A value is wrong; `param` names it.",
}
QUERY = {422: "A parameter is wrong; `param` names it."}
BUYING = {
    "/v1/jobs", "/v1/images/generations", "/v1/images/edits", "/v1/adapters", "/v1/adapters/{adapter_id}/trainings",
}  # fmt: skip
PAYING = {
    409: "The first request with this Idempotency-Key is still being answered.",
    502: "Stripe refused this; nothing was bought.",
    503: "Stripe cannot be reached; send this again after `Retry-After`, with the same Idempotency-Key.",
}
WAITING = {
    409: "The job was canceled.",
    500: "The job failed; nothing was charged. `code` is the job's.",
    503: "The job has not ended yet: send the same again, and it goes on waiting for the same job.",
}
SPENDING = {402: "Too few Tokens, or a spend cap is reached."}
SENDING = {
    400: "The form cannot be read.",
    409: "The account keeps as many files as it may.",
    415: "The body is not a form.",
    422: "The file is not a picture that a model may have.",
}
SENDING_ADAPTERS = {
    400: "The form cannot be read.",
    409: "The slug is taken, or the account keeps as many versions as it may.",
    415: "The body is not a form.",
}
KEYS = {403: "The API key that asks has a spend cap, or the account is switched off."}

NAMED = {
    ("GET", "/v1/earnings.csv"): "download_earnings",
    ("GET", "/v1/earnings/summary"): "get_earnings_summary",
    ("GET", "/v1/earnings/years/{year}.csv"): "download_earnings_of_year",
    ("GET", "/v1/earnings/years/{year}.pdf"): "print_earnings_of_year",
    ("POST", "/v1/earnings/spend"): "spend_earnings",
    ("GET", "/v1/payouts/account"): "get_payout_account",
    ("POST", "/v1/payouts/account"): "set_payout_account",
    ("DELETE", "/v1/webhooks/{id}"): "delete_webhook",
    ("POST", "/v1/webhooks/{id}/secret"): "rotate_webhook_secret",
    ("POST", "/v1/webhooks/{id}/test"): "test_webhook",
    ("GET", "/v1/webhooks/{id}/deliveries"): "list_webhook_deliveries",
    ("POST", "/v1/webhooks/{id}/deliveries/{delivery_id}/replay"): "replay_delivery",
    ("POST", "/v1/account/webhook-secret"): "rotate_account_webhook_secret",
    ("GET", "/v1/account/webhook-deliveries"): "list_order_deliveries",
    ("GET", "/v1/account/notifications"): "get_notifications",
    ("PATCH", "/v1/account/notifications"): "change_notifications",
    ("POST", "/v1/adapters/{adapter_id}/publication"): "publish_adapter",
    ("GET", "/v1/adapters/{adapter_id}/publication"): "get_publication",
    ("DELETE", "/v1/adapters/{adapter_id}/publication"): "end_publication",
    ("GET", "/v1/market"): "list_market",
    ("GET", "/v1/market/{handle}/{slug}"): "get_offer",
    ("GET", "/v1/market/{handle}/{slug}/samples"): "download_offer_samples",
    ("PUT", "/v1/market/{handle}/{slug}/rating"): "rate_offer",
    ("DELETE", "/v1/market/{handle}/{slug}/rating"): "forget_rating",
    ("POST", "/v1/market/{handle}/{slug}/reports"): "report_offer",
    ("POST", "/v1/adapters"): "create_adapter",
    ("POST", "/v1/adapters/{adapter_id}/trainings"): "train_version",
    ("GET", "/v1/adapters/{adapter_id}/trainings"): "list_trainings_of_adapter",
    ("POST", "/v1/trainings/quotes"): "quote_training",
    ("POST", "/v1/trainings/{training_id}/cancel"): "cancel_training",
    ("GET", "/v1/trainings/{training_id}/events"): "watch_training",
    ("GET", "/v1/trainings/{training_id}/samples/{step}"): "download_samples",
    ("POST", "/v1/trainings/{training_id}/steps/{step}/version"): "keep_step",
    ("DELETE", "/v1/adapters/{adapter_id}"): "delete_adapter",
    ("POST", "/v1/adapters/{adapter_id}/versions"): "create_version",
    ("DELETE", "/v1/adapters/{adapter_id}/versions/{number}"): "delete_version",
    ("GET", "/v1/adapters/{adapter_id}/versions/{number}/file"): "download_version",
    ("PUT", "/v1/adapters/{adapter_id}/shared/{account_id}"): "share_adapter",
    ("DELETE", "/v1/adapters/{adapter_id}/shared/{account_id}"): "unshare_adapter",
    ("GET", "/v1/maker"): "get_maker",
    ("PATCH", "/v1/maker"): "choose_handle",
}


def bases() -> list[type]:
    """Return the classes whose docstrings are for developers; those of other bodies are shown to customers."""
    return [Body, StoredBody, *get_lib_doc_excludes()]  # type: ignore[no-untyped-call]


CONFLICTS = {
    ("POST", "/v1/adapters/{adapter_id}/publication"): "The version may not be published, or one waits for a decision.",
    ("POST", "/v1/trainings/{training_id}/steps/{step}/version"): "The training has not ended.",
    ("POST", "/v1/earnings/spend"): "So much has not matured.",
    ("POST", "/v1/payouts"): "Stripe does not pay you yet, too little has matured, or the key is in flight.",
    ("POST", "/v1/payouts/account"): "It was made for another country, or the request is still being answered.",
}


class Schema(AutoSchema):
    def _get_response_bodies(self, direction: Any = "response") -> dict[str, Any]:
        """Return what the view declares, and the errors that its kind of request can meet.

        `extend_schema` replaces the public hook for responses, so the errors are added after it.
        """
        found: dict[str, Any] = super()._get_response_bodies(direction)
        for status, meaning in self._errors().items():
            body = self._get_response_for_code(  # type: ignore[no-untyped-call]
                ErrorBody, str(status), media_types=["application/json"], direction=direction
            )
            found[str(status)] = {**body, "description": meaning}
        return dict(sorted(found.items()))

    def _get_request_body(self, direction: Any = "request") -> Any:
        """Return the body that is sent, also where a DELETE has one, which drf-spectacular takes for none."""
        method = self.method
        if method == "DELETE" and self.path == "/v1/account":
            self.method = "POST"
        try:
            return super()._get_request_body(direction)  # type: ignore[no-untyped-call]
        finally:
            self.method = method

    def _map_basic_serializer(self, serializer: Any, direction: Any) -> dict[str, Any]:
        """Say of a body that is checked that it has no other fields."""
        found: dict[str, Any] = super()._map_basic_serializer(serializer, direction)  # type: ignore[no-untyped-call]
        kind = serializer if isinstance(serializer, type) else type(serializer)
        if direction == "request" and issubclass(kind, StrictSerializer) and kind.whole:
            found["additionalProperties"] = False
        return found

    def _insert_field_validators(self, field: Any, schema: dict[str, Any]) -> None:
        """Leave a pattern of ours as it is: it knows whether the text may be blank."""
        pattern = schema.pop("pattern", None)
        super()._insert_field_validators(field, schema)  # type: ignore[no-untyped-call]
        if pattern:
            schema["pattern"] = pattern

    def _errors(self) -> dict[int, str]:
        statuses = ALWAYS | (WITH_KEY if self.view.permission_classes else {})
        if self.method in {"POST", "PUT", "PATCH"} and not self.path.endswith("/cancel"):
            statuses |= WITH_BODY
        if any(each["in"] == "query" for each in self._get_parameters()):  # type: ignore[no-untyped-call]
            statuses |= QUERY
        if self.method == "POST" and self.path in BUYING:
            statuses |= SPENDING
        if self.path.startswith("/v1/images/"):
            statuses |= WAITING
        paying = self.path.startswith("/v1/topups") or self.path == "/v1/payouts/account"
        if paying and self.method in {"PUT", "POST"}:
            statuses |= PAYING
        if self.path.startswith("/v1/adapters") and self.method == "POST":
            statuses |= SENDING_ADAPTERS
        if (self.path == "/v1/maker" and self.method == "PATCH") or self.path.endswith("/shared/{account_id}"):
            statuses[409] = "The handle is taken or chosen already; or too many accounts share the adapter."
        if self.path == "/v1/files" and self.method == "POST":
            statuses |= SENDING
        if self.path.startswith("/v1/keys") and self.method in {"POST", "PATCH"}:
            statuses |= KEYS
        if "webhook" in self.path or self.path == "/v1/account/notifications":
            statuses |= KEYS if self.method != "GET" else {}
            if self.method == "POST" and not self.path.endswith("secret"):
                statuses[409] = "There are too many, or the webhook is disabled."
        if self.path == "/v1/keys" and self.method == "POST":
            statuses[409] = "The account has as many keys as it may."
        if self.path == "/v1/adapters" and self.method == "POST":
            statuses[409] = "The account has another adapter with this slug."
        if self.path == "/v1/topups/automatic" and self.method == "GET":
            statuses[404] = "There are none."
        if self.path == "/v1/payouts/account" and self.method == "GET":
            statuses[404] = "There is none."
        if "{" in self.path:
            statuses[404] = "Unknown, or another customer's."
        if self.path.endswith("/events"):
            statuses |= {429: "The account has too many open streams.", 503: "There are too many open streams."}
        if self.path.endswith("/cancel"):
            statuses[409] = "It has already ended."
        if (self.method, self.path) in CONFLICTS:
            statuses[409] = CONFLICTS[self.method, self.path]
        if self.path.endswith("/rating") and self.method == "PUT":
            statuses[403] = "Only those who bought pictures with it rate an adapter; or the account is switched off."
        if self.path == "/v1/account" and self.method == "DELETE":
            statuses |= WITH_BODY | KEYS | {409: "Tokens are left."}
        if self.path == "/v1/jobs/{job_id}" and self.method == "DELETE":
            statuses[409] = "It has not ended: cancel it first."
        return statuses

    def get_operation_id(self) -> str:
        noun = self.path.removeprefix("/v1/").split("/")[0]
        if name := NAMED.get((self.method, self.path.replace("{webhook_id}", "{id}"))):
            return name
        if self.path.endswith("/cancel"):
            return "cancel_job"
        if noun == "images":
            return {"generations": "generate_images", "edits": "edit_images"}[self.path.rpartition("/")[2]]
        if noun == "account":
            return {"GET": "get", "PATCH": "change", "DELETE": "close"}[self.method] + "_account"
        if self.path == "/v1/topups/automatic":
            return {"GET": "get", "PUT": "set", "DELETE": "stop"}[self.method] + "_automatic_topup"
        if self.path.endswith("/events"):
            return "watch_job"
        if self.path.endswith("/receipt"):
            return "get_receipt"
        if noun == "jobs" and self.method == "DELETE":
            return "forget_job"
        if noun == "files" and (self.path.endswith("/content") or self.method == "DELETE"):
            return "delete_file" if self.method == "DELETE" else "download_file"
        if self.path.endswith(".csv"):
            return "download_transfers"
        if self.method == "GET" and "{" not in self.path:
            return f"list_{noun}" if noun not in {"balance", "prices"} else f"get_{noun}"
        verb = {"GET": "get", "POST": "create", "PATCH": "change", "DELETE": "revoke"}[self.method]
        return f"{verb}_{noun.removesuffix('s')}"

    def get_tags(self) -> list[str]:
        return [self.path.removeprefix("/v1/").split("/")[0].removesuffix(".csv")]


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "marketplace.accounts.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "`kiln_…`, from `create_customer` or `POST /v1/keys`; "
            "or a token (JWT) of the identity provider, where there is one.",
        }
