"""Fields of bodies: they accept JSON of the exact type (no "256" for 256, no 1 for "1") and know how to be shown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing import amounts

Show = Callable[[Any], Any]


class Shown:
    """How an answer shows a field: `of` is a function of the row, an expression of `row`, or by default its own name.

    A `given` field is not in the row: the caller of `show` passes it.
    """

    show: ClassVar[Any] = None
    """The function from the value to JSON; None if it is JSON already."""

    def __init__(self, *args: Any, of: str | Show | None = None, given: bool = False, **terms: Any) -> None:
        super().__init__(*args, **terms)
        self.of = of
        self.given = given


class Text(Shown, serializers.CharField):
    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("Must be a string.")
        return super().to_internal_value(data)


class Choice(Shown, serializers.ChoiceField):
    def __init__(self, choices: Any, **terms: Any) -> None:
        super().__init__(choices, **terms)
        self.error_messages["invalid_choice"] = f"Must be one of {', '.join(map(str, self.choices))}."


class Whole(Shown, serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            raise serializers.ValidationError("Must be a whole number.")
        return super().to_internal_value(data)


class Flag(Shown, serializers.BooleanField):
    def to_internal_value(self, data: Any) -> bool:
        if type(data) is not bool:
            raise serializers.ValidationError("Must be true or false.")
        return data


class Number(Shown, serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        if type(data) not in (int, float):
            raise serializers.ValidationError("Must be a number.")
        return super().to_internal_value(data)


@extend_schema_field({"type": "string", "pattern": r"^-?\d+(\.\d{1,3})?$", "example": "13.417"})
class Tokens(Shown, serializers.Field[int, Any, str, Any]):
    """Tokens as a decimal string, e.g. "13.417"; milli-Tokens in Python."""

    show = staticmethod(amounts.format_tokens)

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, str):
            raise serializers.ValidationError('Must be Tokens as a string, e.g. "20" or "13.417".')
        try:
            return amounts.parse_tokens(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error


class Identifier(Shown, serializers.UUIDField):
    show = str


class Moment(Shown, serializers.DateTimeField):
    """A time in UTC, to the millisecond."""

    @staticmethod
    def show(moment: datetime, zone: tzinfo = UTC) -> str:
        return moment.astimezone(zone).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Object(Shown, serializers.DictField):
    """A JSON object whose names are not declared as fields."""


class Array(Shown, serializers.ListField):
    """A JSON array of plain values."""
