"""The addresses of the running embedded stack's database, broker and double of Stripe; `devstack` starts them."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Addresses:
    """URLs that include their passwords; `stripe` has the settings for the double of Stripe, if one runs."""

    database_url: str
    redis_url: str
    stripe: dict[str, str] = field(default_factory=dict)


def home() -> Path:
    """Return the folder that holds the stack's data: `$KILN_HOME`, or else `.kiln` in the checkout."""
    return Path(os.environ.get("KILN_HOME") or ROOT / ".kiln").absolute()


def read() -> Addresses | None:
    """Return the addresses of the stack that runs in `home()`, or None if none was started."""
    try:
        stored = json.loads(_file(home()).read_text())
    except FileNotFoundError:
        return None
    return Addresses(stored["database_url"], stored["redis_url"], stored.get("stripe", {}))


def write(folder: Path, addresses: Addresses) -> None:
    """Publish `addresses` in `folder`, readable by the owner alone."""
    new = folder / "stack.json.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(asdict(addresses), out)
    new.replace(_file(folder))


def forget(folder: Path) -> None:
    """Remove what `write` published."""
    _file(folder).unlink(missing_ok=True)


def _file(folder: Path) -> Path:
    return folder / "stack.json"
