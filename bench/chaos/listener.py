"""The customers' server: it verifies the webhooks that arrive, remembers what it was told, and fails now and then."""

import http.server
import random
import threading
from collections import Counter

from standardwebhooks import Webhook

FAILS = 0.1


class Listener:
    """Knows the secret of each account's webhook by the path that it is sent to."""

    def __init__(self, seed: int) -> None:
        self.secrets: dict[str, str] = {}
        self.told: Counter[tuple[str, str]] = Counter()
        """How often each job was told to have ended how, among what was answered 200."""
        self.refused = 0
        self.wrong: list[str] = []
        rng, listener = random.Random(f"{seed}:listener"), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                fails = rng.random() < FAILS
                if fails:
                    listener.refused += 1
                else:
                    listener.hear(self.path, dict(self.headers), body)
                self.send_response(500 if fails else 200)
                self.end_headers()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, name="listener", daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def hear(self, path: str, headers: dict[str, str], body: str) -> None:
        try:
            event = Webhook(self.secrets[path]).verify(body, headers)
        except Exception as error:  # noqa: BLE001
            self.wrong.append(f"a webhook at {path} cannot be verified: {error!r}")
            return
        self.told[event["data"]["id"], event["type"]] += 1
