"""Fields of bodies: they accept JSON of the exact type (no "256" for 256, no 1 for "1") and know how to be shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.fields import empty

from billing import amounts
from marketplace import text
from marketplace.remote import Unreachable
from marketplace.webhooks import posting

HTTPS = r"^https://[^\s/]+(/[!-~]*)?$"
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
    """One `line`, or prose. Its length is limited before it is trimmed.

    A `pattern` is for the description alone, where what the text means is checked elsewhere.
    """

    def __init__(self, *args: Any, line: bool = True, pattern: str | None = None, **terms: Any) -> None:
        super().__init__(*args, **terms)
        self.normalise = text.line if line else text.prose
        self.pattern = pattern

    def run_validation(self, data: Any = empty) -> Any:
        """Check all text in `to_internal_value`; REST framework's own way takes blanks before it measures them."""
        return super(serializers.CharField, self).run_validation(data)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("Must be a string.")
        try:
            found = self.normalise(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error
        if self.max_length is not None and len(found) > self.max_length:
            self.fail("max_length", max_length=self.max_length)
        if not self.allow_blank and text.is_blank(found):
            self.fail("blank")
        return found.strip() if self.trim_whitespace else found


@extend_schema_field({"type": "string"})
class Source(Shown, serializers.Field[str | bytes, Any, str, Any]):
    """Where a picture is: the id of a file, a data URL, which may be long, or an https address; bytes in a form."""

    def to_internal_value(self, data: Any) -> str | bytes:
        if not isinstance(data, str | bytes):
            raise serializers.ValidationError("Must be a string: the id of a file, a data URL or an https address.")
        return data


class Choice(Shown, serializers.ChoiceField):
    def __init__(self, choices: Any, **terms: Any) -> None:
        super().__init__(choices, **terms)
        self.error_messages["invalid_choice"] = f"Must be one of {', '.join(map(str, self.choices))}."


class Whole(Shown, serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            raise serializers.ValidationError("Must be a whole number.")
        return super().to_internal_value(data)


class Count(serializers.IntegerField):
    """A whole number in a query, which is text there: only digits."""

    def to_internal_value(self, data: Any) -> int:
        if not re.fullmatch("[0-9]{1,9}", data):
            raise serializers.ValidationError("Must be a whole number.")
        return int(data)


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


class Tokens(Shown, serializers.Field[int, Any, str, Any]):
    """Tokens as a decimal string, e.g. "13.417"; milli-Tokens in Python. Some must be `positive`, not just none."""

    show = staticmethod(amounts.format_tokens)

    def __init__(self, *args: Any, positive: bool = False, **terms: Any) -> None:
        super().__init__(*args, **terms)
        self.positive = positive

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, str):
            raise serializers.ValidationError('Must be Tokens as a string, e.g. "20" or "13.417".')
        try:
            found = amounts.parse_tokens(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error
        if self.positive and not found:
            raise serializers.ValidationError("Must be above 0.")
        return found


class Identifier(Shown, serializers.UUIDField):
    show = str


class Moment(Shown, serializers.DateTimeField):
    """A time in UTC, to the millisecond."""

    @staticmethod
    def show(moment: datetime, zone: tzinfo = UTC) -> str:
        return moment.astimezone(zone).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@extend_schema_field({"type": "string", "format": "binary"})
class Upload(Shown, serializers.FileField):
    """A file in a form. Whatever folder its name tells is not kept."""

    def to_internal_value(self, data: Any) -> Any:
        found = super().to_internal_value(data)
        try:
            found.name = text.line(found.name or "picture")[:200]
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error
        return found


class Object(Shown, serializers.DictField):
    """A JSON object whose names are not declared as fields."""


class Labels(Object):
    """A JSON object of texts with names of the sender's: at most `most`, their names checked by `names`."""

    def __init__(self, names: Text, most: int, **terms: Any) -> None:
        super().__init__(**terms)
        self.names = names
        self.most = most

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        found = super().to_internal_value(data)
        if len(found) > self.most:
            raise serializers.ValidationError(f"At most {self.most} labels.")
        labels = {self.names.run_validation(name): value for name, value in found.items()}
        if len(labels) < len(found):
            raise serializers.ValidationError("Two labels have the same name.")
        return labels


class Array(Shown, serializers.ListField):
    """A JSON array of plain values."""


def webhook_address(url: str) -> str:
    """Return an address to which webhooks may go. Raises ValidationError; whose it is shows when it is asked."""
    try:
        posting.guard().check(url)
    except Unreachable as error:
        raise serializers.ValidationError(f"It cannot be used: {error}.", code="invalid_url") from error
    return url
