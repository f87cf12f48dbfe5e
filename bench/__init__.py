"""Measurements against peers and limits. They are not tests: they print figures and judge nothing.

A benchmark is a module here with `main(quick: bool) -> dict[str, Any]`. It runs in a process of its own, and starts the
servers that it needs. In what it returns, a list of dicts or a dict of dicts is a table. `quick` asks for a run of a
few seconds, whose figures only show that it works.
"""

import time

# before anything slow is imported
BEGUN = time.monotonic()
