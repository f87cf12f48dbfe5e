"""Bodies: what requests may say, and what answers show. Every field is declared once, in a body of its resource.

Bodies check requests and show answers, and the OpenAPI description is made from them. Answers are shown as plain dicts
without REST framework, whose own rendering takes several times as long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, ClassVar

from django.conf import settings
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.fields import empty
from rest_framework.parsers import JSONParser

from marketplace.api.fields import Shown
from marketplace.exact_json import Decoder

# A string that is a data URL, as JSON has it, or what was sent of one.
PICTURE = re.compile(rb'"data:[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.IGNORECASE | re.DOTALL)


# Addresses where a body says much: captions of many pictures.
WITH_CAPTIONS = re.compile("/v1/trainings/quotes|/v1/adapters(/[^/]+/trainings)?")


@dataclass
class TooMuchText(Exception):
    """Beside its pictures a body says more than `most` bytes."""

    most: int


def most_text(path: str) -> int:
    """Return how many bytes a body sent to this address may have beside pictures and adapters."""
    return int(settings.MAX_TRAINING_BYTES if WITH_CAPTIONS.fullmatch(path) else settings.MAX_BODY_BYTES)


class ObjectParser(JSONParser):
    """A parser of JSON objects in UTF-8, whatever charset they claim; anything else is a 400.

    Only pictures may make a body long.
    """

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        content, most = stream.read(), most_text(parser_context["request"].path)
        if len(content) > most and len(PICTURE.sub(b"", content)) > most:
            raise TooMuchText(most)
        try:
            data = json.loads(content.decode(), cls=Decoder)
        except UnicodeDecodeError as error:
            raise ParseError("The request body is not UTF-8.") from error
        except json.JSONDecodeError as error:
            raise ParseError(f"The request body is not JSON: {error}.") from error
        if not isinstance(data, dict):
            raise ParseError("The request body must be a JSON object.")
        return data


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields that it does not have, and names them. One that is a part of a body is not `whole`."""

    whole: ClassVar[bool] = True

    @cached_property
    def _by_name(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return dict(self.fields)  # REST framework's own mapping takes several calls for each field

    def to_internal_value(self, data: Any) -> Any:
        """Check what was sent; other fields take their default, or are left out if they have none."""
        if not isinstance(data, dict):
            return super().to_internal_value(data)
        if unknown := data.keys() - self._by_name.keys():
            raise serializers.ValidationError({unknown.pop()[:50]: ["This field is unknown."]}, code="unknown_field")
        values: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        for name, field in self._by_name.items():
            try:
                if name in data:
                    values[name] = field.run_validation(data[name])
                    if check := getattr(self, f"validate_{name}", None):
                        values[name] = check(values[name])
                elif field.required:
                    field.fail("required")
                elif field.default is not empty:
                    values[name] = field.get_default()
            except serializers.ValidationError as error:
                errors[name] = error.detail
        if errors:
            raise serializers.ValidationError(errors)
        return values


def _compiled(fields: Mapping[str, Any], stored: bool) -> Callable[..., dict[str, Any]]:
    """Compile the fields into a function from a row to its body: a dict display, as one would write it by hand.

    Its keyword arguments are the `given` fields, as JSON. A loop over the fields, which calls something for each, would
    take half as long again for a job.
    """
    given = [name for name, field in fields.items() if _declared(field).given]
    names: dict[str, Any] = {}
    entries = ", ".join(f"{name!r}: {_expression(name, field, stored, names)}" for name, field in fields.items())
    parameters = ", ".join(["row=None", "/", *(["*", *given] if given else [])])
    exec(f"def show({parameters}): return {{{entries}}}", names)
    return names["show"]  # type: ignore[no-any-return]


def _expression(name: str, field: Any, stored: bool, names: dict[str, Any]) -> str:
    """Return the expression for a field's JSON, and add the functions that it calls to `names`."""
    declared = _declared(field)
    if declared.given:
        return name
    names[f"find_{name}"], names[f"show_{name}"] = declared.of, declared.show
    own = f"row[{name!r}]" if stored else f"row.{name}"
    found = f"find_{name}(row)" if callable(declared.of) else declared.of or own
    if stored or declared.show is None:
        return found
    if declared is not field:
        return f"[show_{name}(each) for each in {found}]"
    if field.allow_null:
        return f"None if (found := {found}) is None else show_{name}(found)"
    return f"show_{name}({found})"


def _declared(field: Any) -> Any:
    """Return the field itself, or the body that it has `many` of."""
    return field.child if isinstance(field, serializers.ListSerializer) else field


class Body(Shown, serializers.Serializer[Any]):
    """An answer or a part of one. `show` makes it from a row (or anything with its attributes) and what is given."""

    stored: ClassVar[bool] = False
    show: ClassVar[Callable[..., dict[str, Any]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.show = staticmethod(_compiled(cls._declared_fields, cls.stored))


class StoredBody(Body):
    """The body of a stored JSON object, whose fields are shown unchanged."""

    stored = True
