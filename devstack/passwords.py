"""Generated passwords, kept in files that only their owner can read. Not for customers' secrets."""

import os
import secrets
from pathlib import Path


def keep(file: Path) -> str:
    """Return the password in `file`; the first time, generate one and create the file."""
    if not file.exists():
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_hex(24))
        new.replace(file)
    return file.read_text()
