"""Downloads from addresses that strangers give."""

import http.server
import ipaddress
import socket
import ssl
import threading
import time

import pytest
import trustme

from marketplace.files.remote import Downloader
from marketplace.remote import Guard, Unreachable, is_public

PICTURE = b"picture" * 1000


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700:4700::1111", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::7f00:1", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("fd00:ec2::254", False),
        ("fec0::1", False),
        ("::10.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("5f00::1", False),
        ("4000::1", False),
        ("3fff::1", False),
        ("192.88.99.1", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://example.com/a.png", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("https://", "must begin with https://"),
        ("https://user:word@example.com/", "no user name or password"),
        ("https://example.com:22/", "at port 443"),
        ("https://example.com:99999/", "not an address"),
        ("https://[::1/", "not an address"),
        ("https://example.com/a b", "plain characters"),
        ("https://example.com/\r\nHost: x", "plain characters"),
        ("https://exämple.com/", "plain characters"),
        (f"https://example.com/{'a' * 3000}", "at most 2048"),
        ("https://127.0.0.1/", "not on the public internet"),
        ("https://localhost/", "not on the public internet"),
        ("https://2130706433/", "not on the public internet"),
        ("https://0x7f.1/", "not on the public internet"),
        ("https://[::ffff:127.0.0.1]/", "not on the public internet"),
        ("https://[fe80::1]/", "not on the public internet"),
        ("https://no-such-host.invalid/", "its host is unknown"),
    ],
)
def test_addresses_that_lead_elsewhere_are_refused(url, told):
    with pytest.raises(Unreachable, match=told):
        Downloader(10_000, 5).get(url)


class Peer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/to"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        if self.path == "/gone":
            self.send_error(410)
            return
        if self.path == "/dripping":
            for byte in b"HTTP/1.0 200 OK\r\nServer: " + b"x" * 100:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
        self.send_response(200)
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        for byte in range(0, len(PICTURE), 100):
            self.wfile.write(PICTURE[byte : byte + 100])
            if self.path == "/slow":
                time.sleep(0.1)


@pytest.fixture
def peer():
    """A site at localhost, and downloads that may go to this machine."""
    server = http.server.ThreadingHTTPServer(("localhost", 0), Peer)
    server.daemon_threads = True
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(tls)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    def downloader(max_bytes=10_000, seconds=5, allows=lambda _: True, tls=trusting):
        return Downloader(max_bytes, seconds, Guard(allows, port, tls=tls))

    yield f"https://localhost:{port}", downloader
    server.shutdown()
    server.server_close()


def test_a_picture_is_downloaded_also_where_it_moved(peer):
    site, downloader = peer
    assert downloader().get(f"{site}/a.png") == PICTURE
    assert downloader().get(f"{site}/to?/to?{site}/a.png") == PICTURE


@pytest.mark.parametrize(
    ("path", "more", "told"),
    [
        ("/a.png", {"max_bytes": 6999}, "more than 6999 bytes"),
        ("/slow", {"seconds": 0.5}, "longer than 0.5 s"),
        ("/dripping", {"seconds": 0.5}, "longer than 0.5 s"),
        ("/gone", {}, "answers 410"),
        ("/packed", {}, "packed"),
        ("/to?/to?/to?/to?/a.png", {}, "redirects more than 3 times"),
        ("/to?http://localhost/", {}, "must begin with https://"),
        ("/to?https://localhost:22/", {}, "at port"),
        ("/to?https://[::1", {}, "what is not an address"),
        ("/a.png", {"tls": ssl.create_default_context()}, "cannot be reached"),
    ],
)
def test_what_is_not_downloaded(peer, path, more, told):
    site, downloader = peer
    with pytest.raises(Unreachable, match=told):
        downloader(**more).get(f"{site}{path}")


def test_a_redirect_to_a_private_address_is_refused(peer):
    site, downloader = peer
    reached = downloader(allows=lambda address: str(address) != "169.254.169.254")
    with pytest.raises(Unreachable, match="not on the public internet"):
        reached.get(f"{site}/to?https://169.254.169.254:{site.rpartition(':')[2]}/latest/meta-data")


def test_the_connection_goes_to_the_address_that_was_checked(peer, monkeypatch):
    """Though the name has another one meanwhile."""
    site, downloader = peer
    looked_up = []
    real = socket.getaddrinfo

    def once(host, *more, **named):
        if host == "localhost":
            looked_up.append(host)
            if len(looked_up) > 1:
                raise AssertionError("the name was looked up again")
        return real(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    assert downloader().get(f"{site}/a.png") == PICTURE
    assert looked_up == ["localhost"]
