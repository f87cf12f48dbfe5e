"""Text from outside in its one normal form, in which it is compared, limited and stored. Pure: no HTTP, no database.

Text is in Unicode's NFC and has no control characters. A line, such as a name, has nothing invisible in it either.
Limits count code points in this form, before anything is trimmed. Errors are sentences for whoever sent the text.
"""

from __future__ import annotations

import re
import unicodedata

import idna
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

MAX_EMAIL = 254
# all but tabs and line breaks, and halves of surrogate pairs, which are no characters at all
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# letters of Persian and of India's scripts need these joiners, and so do some emoji
_JOINERS = "\u200c\u200d"
# not white space to Unicode, but nothing to see either: fillers, an empty Braille cell, a notehead that is none
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0\ufff0-\ufff8\U0001d159"
_FILLER = re.compile(f"[{_FILLERS}]")
# alone they show nothing either; emoji and the Chinese letters of names need these selectors
_EMPTY = re.compile(f"[{_FILLERS}\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# Composing takes the square of the marks on one letter. Unicode's stream-safe text (UAX 15) has no more than these.
MAX_MARKS = 30
# one character each, but two marks
_DOUBLE_MARKS = "\u0f73\u0f75\u0f81"
_VISIBLE_ASCII = re.compile("[!-~]+")
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def prose(text: str) -> str:
    """Return text of any number of lines, with its blanks.

    Raises ValueError if it has a control character, or more marks on one letter than any language.
    """
    if found := _CONTROLS.search(text):
        raise ValueError(f"Must not have the character U+{ord(found[0]):04X}.")
    return text if text.isascii() else _compose(text)


def _compose(text: str) -> str:
    """Return text in NFC. Raises ValueError if a letter has too many marks."""
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) or character in _DOUBLE_MARKS else 0
        if marks > MAX_MARKS:
            raise ValueError(f"Must not have more than {MAX_MARKS} marks on one letter.")
    return unicodedata.normalize("NFC", text)


def line(text: str) -> str:
    """Return text of one line, with its blanks. Raises ValueError if it has a line break or something invisible."""
    text = prose(text)
    for character in text:
        invisible = unicodedata.category(character) in _INVISIBLE and character not in _JOINERS
        if invisible or _FILLER.match(character):
            raise ValueError(f"Must be one line of visible text, without U+{ord(character):04X}.")
    return text


def is_blank(text: str) -> bool:
    """Return whether there is nothing to see."""
    return all(unicodedata.category(character) in _INVISIBLE | {"Zs"} or _EMPTY.match(character) for character in text)


def email(text: str) -> str:
    """Return an e-mail address in lower-case ASCII, its domain as DNS has it (IDNA 2008).

    Raises ValueError if it is no address, or its part before the @ is not ASCII.
    """
    local, _, domain = text.strip().rpartition("@")
    try:
        if not domain.isascii():
            domain = idna.encode(domain, uts46=True).decode()
        found = f"{local}@{domain}"
        if len(found) > MAX_EMAIL or not _VISIBLE_ASCII.fullmatch(found):
            raise ValueError
        validate_email(found)
    except (ValueError, ValidationError) as error:
        raise ValueError("Must be an e-mail address.") from error
    return found.lower()
