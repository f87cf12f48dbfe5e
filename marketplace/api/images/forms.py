"""Forms as OpenAI's clients send them: everything is text, lists and objects are in the names (`image[]`, `a[b]`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.http import QueryDict
from rest_framework import serializers

from marketplace.api.bodies import TooMuchText
from marketplace.api.problems import invalid

NAME = re.compile(r"(\w{1,40})((?:\[[\w.-]{0,40}\]){0,3})", re.ASCII)
WHOLE = re.compile("-?[0-9]{1,18}")
NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


def body_of(form: QueryDict, fields: Mapping[str, serializers.Field[Any, Any, Any, Any]]) -> dict[str, Any]:
    """Return a form as the JSON body that it stands for, with the types of these fields; files become bytes.

    Raises a 422 if a name is none, or is there twice, and TooMuchText.
    """
    said = (value for _, values in form.lists() for value in values if isinstance(value, str))
    if sum(len(each) for each in said if each[:5].lower() != "data:") > settings.MAX_BODY_BYTES:
        raise TooMuchText(settings.MAX_BODY_BYTES)
    body: dict[str, Any] = {}
    for key, values in form.lists():
        found = NAME.fullmatch(key)
        if found is None:
            raise invalid(key[:50], "This field is unknown.", "unknown_field")
        name, path = found[1], re.findall(r"\[([^]]*)\]", found[2])
        if len(values) > 1 and "" not in path:
            raise invalid(name, "Must be there once.")
        for value in values:
            _put(body, [name, *path], _typed(value, _at(fields.get(name), path)))
    return body


def _at(field: Any, path: list[str]) -> Any:
    """Return the field of an object in a list, of those that it declares; else the field itself."""
    child = getattr(field, "child", None)
    return child.fields.get(path[-1]) if isinstance(child, serializers.Serializer) and path else field


def _typed(value: Any, field: Any) -> Any:
    """Return text as what its field takes; what it cannot be stays text, which the field refuses."""
    if not isinstance(value, str):
        return value.read()
    if isinstance(field, serializers.IntegerField) and WHOLE.fullmatch(value):
        return int(value)
    if isinstance(field, serializers.FloatField) and NUMBER.fullmatch(value):
        return float(value)
    if isinstance(field, serializers.BooleanField):
        return {"true": True, "false": False}.get(value, value)
    if isinstance(field, serializers.ListField):
        return _typed(value, field.child)
    if isinstance(field, serializers.DictField) and not isinstance(field.child, serializers.CharField):
        return float(value) if NUMBER.fullmatch(value) else value
    return value


def _put(into: Any, path: list[str], value: Any) -> None:
    """Put a value at its place: "" is a list's next element, or its last one if that lacks the name that follows."""
    name, rest = path[0], path[1:]
    if not rest:
        into[name] = value
    elif rest[0] != "":
        _put(_object(into, name), rest, value)
    else:
        if not isinstance(into.setdefault(name, []), list):
            raise invalid(name, "Must be a list or one value, not both.")
        if len(rest) == 1:
            into[name].append(value)
            return
        if not into[name] or not isinstance(into[name][-1], dict) or rest[1] in into[name][-1]:
            into[name].append({})
        _put(into[name][-1], rest[1:], value)


def _object(into: Any, name: str) -> Any:
    if not isinstance(into.setdefault(name, {}), dict):
        raise invalid(name, "Must be an object or one value, not both.")
    return into[name]
