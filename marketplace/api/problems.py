"""What is not a success: `{"error": {type, code, message, param, request_id}}`, as JSON or as a page.

Which exception is which problem is in `errors`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.cache import patch_vary_headers

from marketplace.api.bodies import Body
from marketplace.api.browsing import page, prefers_page
from marketplace.api.fields import Text


@dataclass(eq=False)
class Problem(Exception):
    """An answer that is not a success. `param` names the field or header at fault."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class ErrorDetail(Body):
    type = Text()
    code = Text(help_text="Stable; switch on this.")
    message = Text()
    param = Text(allow_null=True)
    request_id = Text(given=True)


class ErrorBody(Body):
    error = ErrorDetail(given=True)


def invalid(param: str | None, message: str, code: str = "invalid_value") -> Problem:
    return Problem(422, "invalid_request", code, message, param)


def not_found(what: str = "resource") -> Problem:
    return Problem(404, "not_found", "not_found", f"There is no such {what}.")


def respond(problem: Problem, request: HttpRequest) -> HttpResponse:
    """Answer with JSON, or with a page where the client prefers one, as browsers do."""
    detail = ErrorDetail.show(problem, request_id=getattr(request, "id", None))
    if prefers_page(request):
        shown = {"title": HTTPStatus(problem.status).phrase, "error": detail}
        answer = page("problem.html", shown, problem.status)
    else:
        answer = JsonResponse(ErrorBody.show(error=detail), status=problem.status)
    patch_vary_headers(answer, ["Accept"])
    for name, value in problem.headers.items():
        answer[name] = value
    return answer


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(not_found("page"), request)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(Problem(403, "permission", "forbidden", "This is not allowed."), request)


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponse:
    message = "This form is too old or comes from another site: go back, load its page again, and send it then."
    return respond(Problem(403, "permission", "form_not_ours", message), request)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(Problem(400, "invalid_request", "malformed", "The request could not be read."), request)


def server_error(request: HttpRequest) -> HttpResponse:
    return respond(Problem(500, "server", "internal", "Something went wrong here; it was logged."), request)
