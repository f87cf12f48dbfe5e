"""405, 406 and 415 at every address: told in the shape of all errors, and in the description of every operation."""

import re
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from tests.marketplace.api.asking import error
from tests.marketplace.api.test_tenants import routes

pytestmark = pytest.mark.django_db(transaction=True)
METHODS = ("get", "post", "put", "patch", "delete")
DESCRIBED = yaml.safe_load((Path(__file__).parents[3] / "docs" / "openapi.yaml").read_text())["paths"]
NAMES = {"month": "2026-11", "year": "2026", "int": "1"}
RETIRED = {"v1/images/variations"}


def path_of(route):
    """The address with an id of nothing: what is refused here is refused before anything is looked for."""
    return "/" + re.sub(r"<(\w+):\w+>", lambda found: NAMES.get(found[1], str(uuid4())), route)


def ask(client, customer, method, path, **headers):
    body = {} if method == "get" else {"data": headers.pop("body", b"{}"), "content_type": "application/json"}
    return client.generic(method.upper(), path, headers={"Authorization": f"Bearer {customer.key}", **headers}, **body)


@pytest.mark.parametrize("route", routes())
def test_a_method_that_is_not_there_is_refused_with_those_that_are(route, alice, client):
    path = path_of(route)
    allowed = set(client.options(path)["Allow"].lower().split(", ")) - {"options", "head"}
    assert allowed
    for method in set(METHODS) - allowed:
        answer = ask(client, alice, method, path)
        assert error(answer, 405)["code"] == "method_not_allowed"
        assert set(answer["Allow"].lower().split(", ")) - {"options", "head"} == allowed


@pytest.mark.parametrize("route", routes())
def test_a_body_in_another_charset_or_coding_is_refused(route, alice, client):
    path = path_of(route)
    for method in ("post", "put", "patch"):
        kind = "application/json; charset=latin-1"
        headers = {"Authorization": f"Bearer {alice.key}"}
        answer = client.generic(method.upper(), path, b"{}", content_type=kind, headers=headers)
        assert error(answer, 415)["code"] == "unsupported_charset"
        answer = ask(client, alice, method, path, **{"Content-Encoding": "br"})
        assert error(answer, 415)["code"] == "unsupported_coding"


@pytest.mark.parametrize("route", [route for route in routes() if "." not in route and "content" not in route])
def test_an_answer_of_another_type_is_not_made(route, alice, client):
    path = path_of(route)
    if "get" in client.options(path)["Allow"].lower() and not path.endswith("/events"):
        assert error(ask(client, alice, "get", path, Accept="image/gif"), 406)["code"] == "not_acceptable"


@pytest.mark.parametrize("path", sorted(DESCRIBED))
def test_every_operation_describes_them(path):
    for method, operation in DESCRIBED[path].items():
        assert {"405", "406", "415", "429"} <= operation["responses"].keys(), method
