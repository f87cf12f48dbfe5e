"""Connections to addresses that strangers give: only to the public internet, over TLS, bounded in time.

A name is looked up once, and the connection goes to the address that was checked, so that a name which changes its
address meanwhile leads nowhere else (OWASP, "Server-Side Request Forgery Prevention").
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

MAX_URL = 2048
# All of IPv6 that is given out for the internet (RFC 4291, IANA). Beside it are site-local addresses and those that
# stand for IPv4 ones, some of which Python counts as public.
_IPV6_INTERNET = ipaddress.ip_network("2000::/3")
# What Python counts as public within: 6to4, for routers that are everywhere, and examples
_NOT_PUBLIC = [ipaddress.ip_network(each) for each in ("2002::/16", "192.88.99.0/24", "3fff::/20")]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Unreachable(Exception):
    """Why nothing came of it: a sentence for whoever gave the address."""


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public internet, and does not stand for one that is not."""
    if address.version == 6 and address not in _IPV6_INTERNET:
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_PUBLIC)


@dataclass(frozen=True)
class Guard:
    """Where connections may lead. Whatever is not the default is for tests and development.

    Without a `port`, any will do; `plain` allows http:// too.
    """

    allows: Callable[[Address], bool] = is_public
    port: int | None = 443
    plain: bool = False
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def check(self, url: str) -> SplitResult:
        """Return the parts of an address that may be asked. Raises Unreachable."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Unreachable("it is not an address") from error
        if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
            raise Unreachable(f"it must be an address of at most {MAX_URL} plain characters")
        if not (parts.scheme == "https" or (self.plain and parts.scheme == "http")) or not parts.hostname:
            raise Unreachable("it must begin with https://")
        if parts.username is not None or parts.password is not None:
            raise Unreachable("it must have no user name or password in it")
        if self.port is not None and port not in {None, self.port}:
            raise Unreachable(f"it must be at port {self.port}")
        return parts

    @contextmanager
    def connected(self, url: str, seconds: float, deadline: float | None = None) -> Iterator[tuple[Connection, str]]:
        """Yield a connection and the path to ask it for. Raises Unreachable.

        It ends after so many seconds, or at the deadline of what had so many in all.
        """
        parts = self.check(url)
        deadline = deadline or time.monotonic() + seconds
        usual = 443 if parts.scheme == "https" else 80
        port = parts.port or self.port or usual
        tls = self.tls if parts.scheme == "https" else None
        connection = Connection(parts.hostname or "", port, self._address(parts, port), tls, deadline)
        try:
            yield connection, f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        except TimeoutError as error:
            raise Unreachable(f"it took longer than {seconds:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable("it cannot be reached") from error
        finally:
            connection.close()

    def _address(self, parts: SplitResult, port: int) -> str:
        """Return the first address of a host. Raises Unreachable if it has none, or one that is not allowed."""
        try:
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unreachable("its host is unknown") from error
        addresses = [str(each[4][0]) for each in found]
        if not addresses or not all(self.allows(ipaddress.ip_address(each.split("%")[0])) for each in addresses):
            raise Unreachable("its host is not on the public internet")
        return addresses[0]


class Connection(http.client.HTTPConnection):
    """A connection to one address of a host, whose certificate must be the host's. At its deadline, all of it ends."""

    def __init__(self, host: str, port: int, address: str, tls: ssl.SSLContext | None, deadline: float) -> None:
        super().__init__(host, port)
        self.default_port = 443 if tls else 80
        self._place, self._tls, self._deadline = (address, port), tls, deadline

    def connect(self) -> None:
        raw = socket.create_connection(self._place, left(self._deadline))
        try:
            if self._tls:
                raw.settimeout(left(self._deadline))
                raw = self._tls.wrap_socket(raw, server_hostname=self.host)
        except BaseException:
            raw.close()
            raise
        self.sock: Any = _Bounded(raw, self._deadline)


class _Bounded:
    """A socket as http.client uses it, each of whose waits ends at one deadline, however slowly bytes drip in."""

    def __init__(self, raw: socket.socket, deadline: float) -> None:
        self.raw, self.deadline = raw, deadline

    def sendall(self, content: bytes) -> None:
        self.raw.settimeout(left(self.deadline))
        self.raw.sendall(content)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self.raw, self.deadline))

    def close(self) -> None:
        self.raw.close()


class _Reader(io.RawIOBase):
    def __init__(self, raw: socket.socket, deadline: float) -> None:
        self.raw, self.deadline = raw, deadline
        self.inner = raw.makefile("rb", buffering=0)  # keeps the socket open until it is read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.raw.settimeout(left(self.deadline))
        return self.inner.readinto(buffer)

    def close(self) -> None:
        self.inner.close()
        super().close()


def left(deadline: float) -> float:
    """Return the seconds that are left. Raises TimeoutError if there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
