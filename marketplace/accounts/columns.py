"""Columns of text that is in its normal form, and the form fields that bring it there. See `marketplace.text`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models

from marketplace import text

if TYPE_CHECKING:  # generic to mypy alone
    CharColumn = models.CharField[str, str]
    EmailColumn = models.EmailField[str, str]
else:
    CharColumn, EmailColumn = models.CharField, models.EmailField


class ProseField(forms.CharField):
    """A field of any number of lines, trimmed after its length was checked."""

    normalise = staticmethod(text.prose)

    def to_python(self, value: Any) -> Any:
        if value in self.empty_values:
            return self.empty_value
        try:
            found = self.normalise(str(value))
        except ValueError as error:
            raise ValidationError(str(error), code="invalid") from error
        if self.max_length is not None and len(found) > self.max_length:
            raise ValidationError(f"Must have at most {self.max_length} characters.", code="max_length")
        return self.empty_value if text.is_blank(found) else super().to_python(found)


class LineField(ProseField):
    normalise = staticmethod(text.line)


class EmailField(forms.EmailField):
    def to_python(self, value: Any) -> Any:
        try:
            return text.email(value) if value else self.empty_value
        except ValueError as error:
            raise ValidationError(str(error), code="invalid") from error


class Line(CharColumn):
    """A name or the like."""

    def formfield(self, **terms: Any) -> Any:
        return super().formfield(**{"form_class": LineField, **terms})


class Email(EmailColumn):
    """An e-mail address, looked up by any way of writing it."""

    def formfield(self, **terms: Any) -> Any:
        return super().formfield(**{"form_class": EmailField, **terms})

    def get_prep_value(self, value: Any) -> Any:
        """Return the normal form; what is no address stays, finds nothing, and is refused by the table."""
        value = super().get_prep_value(value)
        try:
            return text.email(value) if isinstance(value, str) else value
        except ValueError:
            return value

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = self.get_prep_value(super().pre_save(model_instance, add))
        setattr(model_instance, self.attname, value)
        return value
