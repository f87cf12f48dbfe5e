"""Keeps secrets out of logs: whatever is logged, API keys, Stripe's keys, signatures and passwords in it are masked.

A request may have a key where none belongs, such as in its path, and libraries log what they like.
"""

from __future__ import annotations

import logging
import re

_UNDERSCORE = r"(?:_|%(?:25)*5f)"
_SECRETS = re.compile(
    rf"""
      (?P<key>kiln{_UNDERSCORE}[a-z0-9]{{12}}{_UNDERSCORE})[\w%-]{{8,}}
    | (?P<stripe>\b(?:sk|rk|pk)_(?:live|test)_)\w+
    | (?P<webhook>\bwhsec_)[\w+/=%-]+
    | (?P<named>\b(?:signature|sessionid|csrftoken|csrfmiddlewaretoken|password|api_?key|token)["']?\s*(?:=|:|%3d)\s*)
      ["']?[^\s&;,"']+
    | (?P<bearer>\bBearer\s+)[^\s"']+
    | (?P<url>://[^\s/:@]*:)[^\s/@]+(?=@)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def mask(text: str) -> str:
    """Return the text with the secrets in it cut: `kiln_abcdefghijkl_…` tells which key it was."""
    return _SECRETS.sub(lambda found: f"{found[found.lastgroup or 0]}…", text)


class Formatter(logging.Formatter):
    """A formatter of log lines and of the tracebacks under them."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))
