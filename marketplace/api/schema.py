"""How the OpenAPI description is made: every answer may also be an error of the one shape."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

from marketplace.api.serializers import ErrorBody

COMMON = {401: "the API key is missing or bad"}
WITH_BODY = {400: "not JSON", 422: "a value is wrong; `param` names it"}
SPENDING = {402: "too few Tokens"}


class Schema(AutoSchema):
    def get_response_serializers(self) -> Any:
        found = super().get_response_serializers()
        if not isinstance(found, dict):
            return found
        statuses = dict(COMMON)
        if self.get_request_serializer() is not None:
            statuses |= WITH_BODY
        if self.path == "/v1/jobs" and self.method == "POST":
            statuses |= SPENDING
        if "{" in self.path:
            statuses[404] = "unknown, or another customer's"
        if self.path.endswith("/cancel"):
            statuses[409] = "it has already ended"
        return {**found, **dict.fromkeys(statuses, ErrorBody)}

    def get_operation_id(self) -> str:
        noun = self.path.removeprefix("/v1/").split("/")[0]
        if self.path.endswith("/cancel"):
            return "cancel_job"
        if self.method == "GET" and "{" not in self.path:
            return f"list_{noun}" if noun not in {"balance"} else "get_balance"
        verb = {"GET": "get", "POST": "create", "DELETE": "revoke"}[self.method]
        return f"{verb}_{noun.removesuffix('s')}"

    def get_tags(self) -> list[str]:
        return [self.path.removeprefix("/v1/").split("/")[0]]


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "marketplace.accounts.authentication.ApiKeyAuthentication"
    name = "API key"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "`kiln_…`, from `create_customer` or `POST /v1/keys`.",
        }
