"""A customer's server, over HTTPS, that verifies what it is sent as the specification's library does."""

import http.server
import json
import ssl
import threading
import time
from dataclasses import dataclass

import trustme
from standardwebhooks import Webhook


@dataclass
class Heard:
    """One request: when it came, what it said."""

    at: float
    path: str
    headers: dict
    text: str

    @property
    def event(self):
        return json.loads(self.text)

    def verify(self, secret):
        return Webhook(secret).verify(self.text, self.headers)


class Receiver:
    """Answers with what `answers` says for a path: a status, or a function that returns one and headers."""

    def __init__(self, folder):
        self.heard = []
        self.answers = {}
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver.heard.append(Heard(time.monotonic(), self.path, dict(self.headers), text))
                answer = receiver.answers.get(self.path, 200)
                status, headers = answer() if callable(answer) else (answer, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"thank you" * 1000)

        self.server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
        self.server.daemon_threads = True
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority = trustme.CA()
        authority.issue_cert("localhost").configure_cert(tls)
        self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(self.authority)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"https://localhost:{self.server.server_address[1]}"

    def at(self, path):
        return [each for each in self.heard if each.path == path]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Sender:
    """The deliverer of this process, looked at step by step."""

    def __init__(self):
        from marketplace.api.webhooks.schemas import shown_job
        from marketplace.webhooks.deliverer import Deliverer

        self.deliverer = Deliverer(shown_job, hands=8)

    def send(self):
        """Send all that is due, and wait until that is done; return how much it was."""
        count = 0
        while begun := self.deliverer.look():
            count += begun
            self.wait()
        return count

    def wait(self):
        while self.deliverer.lanes:
            time.sleep(0.01)

    def close(self):
        self.deliverer.pool.shutdown()
