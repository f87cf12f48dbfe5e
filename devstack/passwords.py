"""Passwords made once and kept in a file that only its owner reads. Not for customers' secrets."""

import os
import secrets
from pathlib import Path


def keep(file: Path) -> str:
    """The password in `file`; made at random, with its file, the first time."""
    if not file.exists():
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_hex(24))
        new.replace(file)
    return file.read_text()
