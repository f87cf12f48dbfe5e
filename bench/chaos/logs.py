"""What the site's logs say of answers that no client should get, and where the logs are kept for whoever looks."""

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

RECORD = re.compile(r"\d{4}-\d\d-\d\d \S+ (?:ERROR|CRITICAL) \S+: (?P<message>.*)")
OTHER_RECORD = re.compile(r"\d{4}-\d\d-\d\d \S+ [A-Z]+ \S+: ")
VARIES = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b\w+_\w{14,}|\d{3,}|0x[0-9a-f]+")
LONGEST = 160


def errors(folder: Path) -> Counter[str]:
    """Return the errors that the web server logged with a traceback: what it said, and the traceback's last line."""
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("*-web.log")):
        for message, traceback in _records(path.read_text(errors="replace").splitlines()):
            if last := _last_line(traceback):
                found[VARIES.sub("…", f"{message}: {last}")[:LONGEST]] += 1
    return found


def keep(folder: Path) -> Path:
    """Copy the logs to a folder that outlives the run, and return it."""
    kept = Path(tempfile.mkdtemp(prefix="kiln-chaos-"))
    return Path(shutil.copytree(folder, kept, dirs_exist_ok=True))


def _records(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each error's message and the lines below it."""
    begun: tuple[str, list[str]] | None = None
    for line in lines:
        if OTHER_RECORD.match(line):
            if begun:
                yield begun
            record = RECORD.match(line)
            begun = (record["message"], []) if record else None
        elif begun:
            begun[1].append(line)
    if begun:
        yield begun


def _last_line(traceback: list[str]) -> str:
    """Return the exception that a traceback ends with; of several, the last one's. Empty if there is none."""
    last = ""
    for line, above in zip(traceback[1:], traceback, strict=False):
        if above.startswith("    ") and line and not line[0].isspace():
            last = line
    return last
