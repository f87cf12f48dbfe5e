"""Stripe's parameter encodings, JSON or `line_items[0][price_data][currency]=usd&expand[]=customer` → dictionaries."""

import json
import re
from typing import Any
from urllib.parse import parse_qsl

from devstack.stripe.errors import Invalid

MAX_PAIRS = 1000
MAX_DEPTH = 8
NAME = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")


def decode(text: str) -> dict[str, Any]:
    """Return form-encoded parameters as nested dictionaries of strings; a list has the keys "0", "1"…

    Raises Invalid if there are too many, or names do not parse or contradict one another.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PAIRS, errors="strict")
    except ValueError as error:
        raise Invalid(f"Invalid request: {error}", stored=False) from None
    tree: dict[str, Any] = {}
    for name, value in pairs:
        _put(tree, _path(name), value, name)
    return tree


def decode_json(text: str) -> dict[str, Any]:
    """Return the JSON object of the API's second version in the same form. Raises Invalid for anything else."""
    try:
        document = json.loads(text or "{}")
    except ValueError as error:
        raise Invalid(f"Invalid request: {error}", stored=False) from None
    if not isinstance(document, dict):
        raise Invalid("Invalid request: a JSON object is expected", stored=False)
    return {name: _as_text(value) for name, value in document.items() if value is not None}


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_text(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return {str(number): _as_text(each) for number, each in enumerate(value)}
    return str(value).lower() if isinstance(value, bool) else str(value)


def _path(name: str) -> list[str]:
    match = NAME.match(name)
    keys = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])] if match else []
    if not 0 < len(keys) <= MAX_DEPTH:
        raise Invalid(f"Invalid parameter name: {name[:100]}", stored=False)
    return keys


def _put(tree: dict[str, Any], path: list[str], value: str, name: str) -> None:
    *folders, last = path
    for key in folders:
        tree = tree.setdefault(key or str(len(tree)), {})
        if not isinstance(tree, dict):
            break
    if not isinstance(tree, dict) or isinstance(tree.get(last), dict):
        raise Invalid(f"Invalid parameter: {name} is given in two ways", stored=False)
    tree[last or str(len(tree))] = value
