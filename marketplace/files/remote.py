"""Downloads from addresses that strangers give: only from the public internet, over TLS, bounded in size and time.

A name is looked up once, and the connection goes to the address that was checked, so that a name which changes its
address meanwhile leads nowhere else (OWASP, "Server-Side Request Forgery Prevention"). Redirects are checked alike.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

PORT = 443
MAX_URL = 2048
MAX_REDIRECTS = 3
CHUNK = 64 * 1024
REDIRECTS = {301, 302, 303, 307, 308}
# IPv6 addresses that stand for IPv4 ones: NAT64's, which Python counts as public
_NAT64 = [ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48")]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Unreachable(Exception):
    """Why nothing was downloaded: a sentence for whoever gave the address."""


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public internet, and does not stand for one that is not."""
    if isinstance(address, ipaddress.IPv6Address):
        if inner := address.ipv4_mapped or address.sixtofour:
            return is_public(inner)
        if address.teredo or any(address in network for network in _NAT64):
            return False
    return address.is_global and not address.is_multicast


@dataclass(frozen=True)
class Downloader:
    """Downloads of at most `max_bytes` within `seconds`. The rest is what tests replace."""

    max_bytes: int
    seconds: float
    allows: Callable[[Address], bool] = is_public
    port: int = PORT
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def get(self, url: str) -> bytes:
        """Return what an https address has. Raises Unreachable."""
        deadline = time.monotonic() + self.seconds
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._parts(url)
            connection = _Connection(parts.hostname or "", self.port, self._address(parts), self.tls)
            try:
                found = self._ask(connection, parts, deadline)
            except TimeoutError as error:
                raise Unreachable(f"it took longer than {self.seconds:g} s") from error
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable("it cannot be reached") from error
            finally:
                connection.close()
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise Unreachable(f"it redirects more than {MAX_REDIRECTS} times")

    def _parts(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Unreachable("it is not an address") from error
        if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
            raise Unreachable(f"it must be an address of at most {MAX_URL} plain characters")
        if parts.scheme != "https" or not parts.hostname:
            raise Unreachable("it must begin with https://")
        if parts.username is not None or parts.password is not None:
            raise Unreachable("it must have no user name or password in it")
        if port not in {None, self.port}:
            raise Unreachable(f"it must be at port {self.port}")
        return parts

    def _address(self, parts: SplitResult) -> str:
        """Return the first address of a host. Raises Unreachable if it has none, or one that is not allowed."""
        try:
            found = socket.getaddrinfo(parts.hostname, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unreachable("its host is unknown") from error
        addresses = [str(each[4][0]) for each in found]
        if not addresses or not all(self.allows(ipaddress.ip_address(each.split("%")[0])) for each in addresses):
            raise Unreachable("its host is not on the public internet")
        return addresses[0]

    def _ask(self, connection: _Connection, parts: SplitResult, deadline: float) -> bytes | str:
        """Return what is there, or the address to which it redirects."""
        connection.timeout = _left(deadline)
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "Kiln"})
        reading = connection.sock  # an answer that closes the connection takes it away
        reading.settimeout(_left(deadline))
        answer = connection.getresponse()
        if answer.status in REDIRECTS and (place := answer.getheader("Location")):
            return place
        if answer.status != 200:
            raise Unreachable(f"it answers {answer.status}")
        if answer.getheader("Content-Encoding", "identity") != "identity":
            raise Unreachable("it is packed, which was not asked for")
        content = bytearray()
        while True:
            reading.settimeout(_left(deadline))
            chunk = answer.read1(CHUNK)
            if not chunk:
                return bytes(content)
            content += chunk
            if len(content) > self.max_bytes:
                raise Unreachable(f"it has more than {self.max_bytes} bytes")


class _Connection(http.client.HTTPSConnection):
    """A connection to one address of a host, whose certificate must be the host's."""

    def __init__(self, host: str, port: int, address: str, tls: ssl.SSLContext) -> None:
        super().__init__(host, port, context=tls)
        self._place, self._tls = (address, port), tls

    def connect(self) -> None:
        raw = socket.create_connection(self._place, self.timeout)
        try:
            self.sock = self._tls.wrap_socket(raw, server_hostname=self.host)
        except BaseException:
            raw.close()
            raise


def _left(deadline: float) -> float:
    """Return the seconds that are left. Raises TimeoutError if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
