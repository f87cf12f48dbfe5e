"""Fields and a parser that take JSON at its word: no "256" for 256, no 1 for "1", nothing unknown, nothing huge."""

from __future__ import annotations

from typing import IO, Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.fields import empty
from rest_framework.parsers import JSONParser

from billing import amounts


class ObjectParser(JSONParser):
    """A JSON object, else 400."""

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        try:
            data = super().parse(stream, media_type, parser_context)
        except RecursionError as error:
            raise ParseError("The JSON is nested too deeply.") from error
        if not isinstance(data, dict):
            raise ParseError("The body must be a JSON object.")
        return data


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields that it does not have, and names them."""

    def to_internal_value(self, data: Any) -> Any:
        """Checks what was sent; the rest takes its field's default, or is left out where there is none."""
        if not isinstance(data, dict):
            return super().to_internal_value(data)
        if unknown := data.keys() - self.fields.keys():
            raise serializers.ValidationError({unknown.pop()[:50]: ["This field is unknown."]}, code="unknown_field")
        values: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        for name, field in self.fields.items():
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


class Text(serializers.CharField):
    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("Must be a string.")
        return super().to_internal_value(data)


class Choice(serializers.ChoiceField):
    def __init__(self, choices: Any, **terms: Any) -> None:
        super().__init__(choices, **terms)
        self.error_messages["invalid_choice"] = f"Must be one of {', '.join(map(str, self.choices))}."


class Whole(serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            raise serializers.ValidationError("Must be a whole number.")
        return super().to_internal_value(data)


class Flag(serializers.BooleanField):
    def to_internal_value(self, data: Any) -> bool:
        if type(data) is not bool:
            raise serializers.ValidationError("Must be true or false.")
        return data


class Number(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        if type(data) not in (int, float):
            raise serializers.ValidationError("Must be a number.")
        return super().to_internal_value(data)


@extend_schema_field({"type": "string", "pattern": r"^-?\d+(\.\d{1,3})?$", "example": "13.417"})
class Tokens(serializers.Field[int, Any, str, Any]):
    """Tokens as a decimal string, e.g. "13.417"; milli-Tokens inside."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, str):
            raise serializers.ValidationError('Must be Tokens as a string, e.g. "20" or "13.417".')
        try:
            return amounts.parse_tokens(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error

    def to_representation(self, value: int) -> str:
        return amounts.format_tokens(value)
