"""Checks a request's parameters against the SDK's types, which come from Stripe's own description of its API.

Not checked here: what depends on other parameters or on state. A parameter that Stripe knows but the double has not
read is refused at the end, so that nothing is silently ignored.
"""

import contextlib
import types
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin

from stripe import RequestOptions
from typing_extensions import get_type_hints, is_typeddict

from devstack.stripe.errors import Invalid

MAX_TEXT = 5000
MAX_KEYS, MAX_KEY, MAX_VALUE = 50, 40, 500
MAX_ITEMS = 100
MAX_DIGITS = 16
SCALARS = {"true": True, "false": False}


class Parameters:
    """The checked parameters of one object, which remember which of them were read."""

    def __init__(self, values: dict[str, Any], path: str) -> None:
        self._values = values
        self._path = path
        self._unread = set(values)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value: int, bool, str, Decimal, dict of str, Parameters or a list of those; "" if it is unset."""
        self._unread.discard(name)
        return self._values.get(name, default)

    def part(self, name: str) -> "Parameters":
        """Return the object below `name`, empty if it was not given."""
        return self.get(name) or Parameters({}, name)

    def require(self, *names: str) -> None:
        """Raise Invalid unless all are given."""
        for name in names:
            if name not in self._values:
                raise missing(_join(self._path, name))

    def plain(self) -> dict[str, Any]:
        """Return everything as dictionaries, and mark it as read."""
        self._unread.clear()
        return {name: value.plain() if isinstance(value, Parameters) else value for name, value in self._values.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def unread(self) -> Iterator[str]:
        """Yield the names that `get` was never asked for, as they were sent."""
        for name, value in self._values.items():
            if name in self._unread:
                yield _join(self._path, name)
                continue
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, Parameters):
                    yield from each.unread()


def check(raw: dict[str, Any], schema: type, path: str = "") -> Parameters:
    """Return `raw`, decoded by `encoding`, as Parameters of the TypedDict `schema`. Raises Invalid."""
    fields, required = _fields(schema)
    unknown = [_join(path, name) for name in raw if name not in fields]
    if unknown:
        many = "s" if len(unknown) > 1 else ""
        message = f"Received unknown parameter{many}: {', '.join(unknown)[:500]}"
        raise Invalid(message, stored=False, code="parameter_unknown", param=unknown[0])
    for name in required:
        if name not in raw:
            raise missing(_join(path, name))
    return Parameters({name: _convert(value, fields[name], _join(path, name)) for name, value in raw.items()}, path)


def missing(path: str) -> Invalid:
    """Return Stripe's error for a parameter that must be given."""
    return Invalid(f"Missing required param: {path}.", stored=False, code="parameter_missing", param=path)


@cache
def _fields(schema: type) -> tuple[dict[str, Any], list[str]]:
    hints = get_type_hints(schema, localns={"StripeContext": object, "Mapping": Mapping}, include_extras=True)
    own = {name: hint for name, hint in hints.items() if name not in RequestOptions.__annotations__}
    required = [name for name, hint in own.items() if get_origin(hint) is not NotRequired]
    bare = {
        name: get_args(hint)[0] if get_origin(hint) in (NotRequired, Required) else hint for name, hint in own.items()
    }
    return bare, required


def _convert(value: Any, hint: Any, path: str) -> Any:
    choices = _choices(hint)
    literals = [each for choice in choices if get_origin(choice) is Literal for each in get_args(choice)]
    if isinstance(value, dict):
        return _convert_tree(value, choices, path)
    if value == "":
        if "" not in literals:
            raise _empty(path)
        return ""
    if len(value) > MAX_TEXT:
        raise Invalid(f"Invalid string: must be at most {MAX_TEXT} characters", stored=False, param=path)
    if bool in choices and value in SCALARS:
        return SCALARS[value]
    if int in choices and value.lstrip("-").isdecimal() and len(value) < MAX_DIGITS:
        return int(value)
    allowed = [each for each in literals if each]
    if allowed and value not in allowed:
        listed = f"{', '.join(allowed[:-1])}, or {allowed[-1]}" if len(allowed) > 1 else allowed[0]
        raise Invalid(f"Invalid {path}: must be one of {listed}", stored=False, param=path)
    return value if allowed or str in choices else _number(value, choices, path)


def _convert_tree(value: dict[str, Any], choices: list[Any], path: str) -> Any:
    for choice in choices:
        if is_typeddict(choice):
            return check(value, choice, path)
        if get_origin(choice) is list:
            return _items(value, get_args(choice)[0], path)
        if get_origin(choice) is dict:
            return _mapping(value, path)
    raise Invalid(f"Invalid {path}: an object is not expected here", stored=False, param=path)


def _items(value: dict[str, Any], hint: Any, path: str) -> list[Any]:
    if not all(key.isdigit() for key in value) or len(value) > MAX_ITEMS:
        raise Invalid(f"Invalid array: {path} must be a list of at most {MAX_ITEMS}", stored=False, param=path)
    return [_convert(value[key], hint, f"{path}[{key}]") for key in sorted(value, key=int)]


def _mapping(value: dict[str, Any], path: str) -> dict[str, str]:
    if len(value) > MAX_KEYS:
        raise Invalid(f"{path} can have at most {MAX_KEYS} keys.", stored=False, param=path)
    for key, each in value.items():
        if not isinstance(each, str):
            raise Invalid(f"Invalid {path}: values must be strings", stored=False, param=path)
        if len(key) > MAX_KEY or len(each) > MAX_VALUE:
            message = f"{path} keys can have {MAX_KEY} characters, values {MAX_VALUE}: '{key[:60]}' is too long."
            raise Invalid(message, stored=False, param=path)
    return value


def _number(value: str, choices: list[Any], path: str) -> Decimal:
    if Decimal in choices:
        with contextlib.suppress(InvalidOperation):
            return Decimal(value)
    kind, code = ("integer", "parameter_invalid_integer") if int in choices else (_name(choices[0]), None)
    raise Invalid(f"Invalid {kind}: {value[:100]}", stored=False, code=code, param=path)


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [choice for each in get_args(hint) for choice in _choices(each)]
    return [hint]


def _kind(choice: Any) -> Any:
    return get_origin(choice) or choice


def _name(choice: Any) -> str:
    known = {bool: "boolean", Decimal: "decimal", list: "array"}
    return known.get(_kind(choice), "object")


def _empty(path: str) -> Invalid:
    message = (
        f"You passed an empty string for '{path}'. We assume empty values are an attempt to unset a parameter; "
        f"however '{path}' cannot be unset. You should remove '{path}' from your request or supply a non-empty value."
    )
    return Invalid(message, stored=False, code="parameter_invalid_empty", param=path)


def _join(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name
