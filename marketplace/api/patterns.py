"""What JSON Schema can say of our fields, for the OpenAPI description: made from the code that checks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension

from marketplace import text
from marketplace.api.fields import Labels, Text, Tokens

PLANE = [*range(0xD800), *range(0xE000, 0x10000)]
"""The characters that every kind of regular expression knows by four hexadecimal digits."""
AMOUNT = r"^(0|[1-9][0-9]{0,14})(\.[0-9]{1,3})?$"
POSITIVE = r"^([1-9][0-9]{0,14}(\.[0-9]{1,3})?|0\.(00[1-9]|0[1-9][0-9]?|[1-9][0-9]{0,2}))$"
SHOWN_AMOUNT = r"^-?[0-9]+(\.[0-9]{1,3})?$"


@cache
def characters(normalise: Callable[[str], str], visible: bool = False) -> str:
    """Return a class of the characters that text in this form may have, or of those of them that are to be seen."""
    refused = [code for code in PLANE if not _may_have(normalise, chr(code), visible)]
    return f"[^{''.join(_ranges(refused))}]"


def _may_have(normalise: Callable[[str], str], character: str, visible: bool) -> bool:
    try:
        normalise(character)
    except ValueError:
        return False
    return not (visible and text.is_blank(character))


def _ranges(codes: list[int]) -> Iterator[str]:
    for _, run in groupby(enumerate(codes), lambda each: each[1] - each[0]):
        found = [code for _, code in run]
        first, last = (f"\\u{code:04x}" for code in (found[0], found[-1]))
        yield first if first == last else f"{first}-{last}"


def pattern(normalise: Callable[[str], str], allow_blank: bool) -> str:
    """Return the pattern of text in this form."""
    some = characters(normalise)
    return f"^{some}*$" if allow_blank else f"^{some}*{characters(normalise, visible=True)}{some}*$"


def _text(field: Text) -> dict[str, Any]:
    shape = {"type": "string", "pattern": field.pattern or pattern(field.normalise, field.allow_blank)}
    return shape if field.allow_blank else {**shape, "minLength": 1}


class TextDescription(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    target_class = Text
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        return _text(self.target) if direction == "request" else {"type": "string"}


class TokensDescription(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    target_class = Tokens

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        asked = POSITIVE if self.target.positive else AMOUNT
        amount = asked if direction == "request" else SHOWN_AMOUNT
        return {"type": "string", "pattern": amount, "example": "13.417"}


class LabelsDescription(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    target_class = Labels

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        value, names = self.target.child, self.target.names
        return {
            "type": "object",
            "maxProperties": self.target.most,
            "propertyNames": {**_text(names), "maxLength": names.max_length},
            "additionalProperties": {**_text(value), "maxLength": value.max_length},
        }
