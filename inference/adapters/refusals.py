"""Refuses what a file says, in a sentence that names it: ValueErrors, which `files` makes AdapterUnavailable."""


def require(condition: bool, otherwise: str) -> None:
    """Raise ValueError with the sentence unless the condition holds."""
    if not condition:
        raise ValueError(otherwise)


def short(text: str) -> str:
    """Quote what a stranger wrote, at most 100 characters of it."""
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
