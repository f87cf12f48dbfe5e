"""Answers to save as files: their types and names, and cells that no spreadsheet runs as a formula."""

from __future__ import annotations

from typing import Any, TypeVar

from django.http.response import HttpResponseBase
from rest_framework.renderers import BaseRenderer

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
Answer = TypeVar("Answer", bound=HttpResponseBase)


class File(BaseRenderer):
    """A renderer for content negotiation only: views answer with the file itself, and errors are JSON."""

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> bytes:
        return b""


class Csv(File):
    media_type = "text/csv"
    format = "csv"


class Pdf(File):
    media_type = "application/pdf"
    format = "pdf"


def download(answer: Answer, name: str) -> Answer:
    """Tell browsers to save the answer, and caches not to store it."""
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    answer["Cache-Control"] = "private, no-store"
    return answer


def plain(value: Any) -> str:
    """Return a cell that no spreadsheet takes for a formula; numbers stay numbers (OWASP, CSV injection)."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdecimal() and text.isascii()
