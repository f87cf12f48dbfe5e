"""Bodies show what they declare, and nothing of an answer is said anywhere else."""

import ast
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from rest_framework import serializers

import marketplace.urls  # noqa: F401 - every body there is
from marketplace import api
from marketplace.api.bodies import Body, StoredBody
from marketplace.api.fields import Identifier, Moment, Object, Text, Tokens, Whole

RESOURCES = sorted(path for path in Path(api.__file__).parent.glob("*/*.py") if path.name != "examples.py")


class MugBody(Body):
    id = Identifier()
    price = Tokens(of="row.milli")
    glaze = Text(of=lambda mug: mug.glaze.upper())
    fired_at = Moment(allow_null=True)


class BoxBody(Body):
    mugs = MugBody(many=True)
    finest = MugBody(of="row.mugs[0]", allow_null=True)
    count = Whole(given=True)


class LabelBody(StoredBody):
    price = Tokens()
    words = Object(child=Text())


NOON = datetime(2026, 11, 27, 12, 0, 0, 500, tzinfo=UTC)
MUG = SimpleNamespace(id=UUID(int=7), milli=12_500, glaze="celadon", fired_at=None)
SHOWN = {"id": str(UUID(int=7)), "price": "12.5", "glaze": "CELADON", "fired_at": None}


def test_a_body_shows_its_fields_in_their_order():
    shown = MugBody.show(MUG)
    assert shown == SHOWN
    assert list(shown) == list(MugBody().fields)


def test_a_moment_is_told_in_utc_to_the_millisecond():
    assert MugBody.show(SimpleNamespace(**vars(MUG) | {"fired_at": NOON}))["fired_at"] == "2026-11-27T12:00:00.000Z"


def test_a_body_within_a_body_is_shown_as_it_is_alone():
    assert BoxBody.show(SimpleNamespace(mugs=[MUG, MUG]), count=2) == {
        "mugs": [SHOWN, SHOWN], "finest": SHOWN, "count": 2,
    }  # fmt: skip


def test_where_there_is_no_body_there_is_null():
    class ShelfBody(Body):
        mug = MugBody(allow_null=True)

    assert ShelfBody.show(SimpleNamespace(mug=None)) == {"mug": None}


@pytest.mark.parametrize("given", [{}, {"count": 1, "colour": "red"}, {"colour": "red"}])
def test_what_is_given_is_what_is_declared_so(given):
    with pytest.raises(TypeError):
        BoxBody.show(SimpleNamespace(mugs=[MUG]), **given)


def test_what_is_stored_is_shown_as_it_stands():
    stored = {"price": "0.365", "words": {"a": "b"}, "of no field": 1}
    assert LabelBody.show(stored) == {"price": "0.365", "words": {"a": "b"}}


# --- one declaration a field ---


def bodies(of=Body):
    for body in of.__subclasses__():
        if body.__module__.startswith("marketplace."):
            yield body
        yield from bodies(body)


def test_every_answer_is_a_body_that_shows_itself():
    """REST framework's own way from rows to JSON is not taken anywhere."""
    found = set(bodies())
    assert len(found) > 30
    for body in found:
        for name, field in body._declared_fields.items():
            inner = field.child if isinstance(field, serializers.ListSerializer) else field
            assert not isinstance(inner, serializers.BaseSerializer) or isinstance(inner, Body), f"{body}.{name}"


@pytest.mark.parametrize("module", RESOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_field_of_an_answer_is_written_beside_its_declaration(module):
    """No dict is put together with a name of an answer's field; the errors of requests name fields, too, and may."""
    names = {name for body in bodies() for name in body._declared_fields}
    tree = ast.parse(module.read_text())
    errors = {
        inner
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("ValidationError")
        for inner in ast.walk(call)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict) and node not in errors:
            written = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            assert not written & names, f"line {node.lineno}"
