"""Downloads from addresses that strangers give, bounded in size. Each redirect is checked as the first address was."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from urllib.parse import urljoin

from marketplace.remote import Connection, Guard, Unreachable

MAX_REDIRECTS = 3
CHUNK = 64 * 1024
REDIRECTS = {301, 302, 303, 307, 308}


@dataclass(frozen=True)
class Downloader:
    """Downloads of at most `max_bytes` within `seconds`."""

    max_bytes: int
    seconds: float
    guard: Guard = field(default_factory=Guard)

    def get(self, url: str) -> bytes:
        """Return what an https address has. Raises Unreachable."""
        deadline = time.monotonic() + self.seconds
        for _ in range(MAX_REDIRECTS + 1):
            with self.guard.connected(url, self.seconds, deadline) as (connection, path):
                found = self._ask(connection, path)
            if isinstance(found, bytes):
                return found
            try:
                url = urljoin(url, found)
            except ValueError as error:
                raise Unreachable("it redirects to what is not an address") from error
        raise Unreachable(f"it redirects more than {MAX_REDIRECTS} times")

    def _ask(self, connection: Connection, path: str) -> bytes | str:
        """Return what is there, or the address to which it redirects."""
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "Kiln"})
        answer = connection.getresponse()
        if answer.status in REDIRECTS and (place := answer.getheader("Location")):
            return place
        if answer.status != 200:
            raise Unreachable(f"it answers {answer.status}")
        if answer.getheader("Content-Encoding", "identity") != "identity":
            raise Unreachable("it is packed, which was not asked for")
        content = bytearray()
        while chunk := answer.read1(CHUNK):
            content += chunk
            if len(content) > self.max_bytes:
                raise Unreachable(f"it has more than {self.max_bytes} bytes")
        return bytes(content)
