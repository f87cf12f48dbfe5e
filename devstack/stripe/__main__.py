"""The double's command line: `python -m devstack.stripe --port 12111 --webhook-url URL …`."""

import argparse
import signal
import sqlite3
import sys
import threading
from pathlib import Path

from devstack.stripe.control import CONTROLS
from devstack.stripe.faults import AFTER, BEFORE, DURING, WEBHOOKS
from devstack.stripe.server import Double, Settings
from devstack.stripe.webhooks import Endpoint


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or Ctrl-C; return 0 then, or 1 if it could not start."""
    try:
        double = Double(settings(arguments))
    except (OSError, sqlite3.Error) as error:
        print(f"stripe double: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=double.stop).start())
    print(f"stripe double at {double.url}", flush=True)
    double.serve()
    return 0


def settings(arguments: list[str]) -> Settings:
    """Return the settings that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m devstack.stripe",
        description="A Stripe to test against. The SDK talks to it: "
        "stripe.StripeClient('sk_test_x', base_addresses={'api': 'http://127.0.0.1:PORT'}).",
        epilog=_controls(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=12111, help="port on 127.0.0.1; 0 picks a free one and prints it (default: 12111)")
    add("--webhook-url", help="where to post events; without it they are only listed")
    add("--webhook-secret", action="append", default=[], help="whsec_…; may be repeated, as while a secret is replaced")
    add("--data", type=Path, help="SQLite file that keeps all data across restarts (default: none)")
    add("--key", help="the only secret key to accept (default: every sk_test_…)")
    add("--public-url", help="base of the links to hosted pages (default: where it listens)")
    add("--retry-scale", type=float, default=0.01, help="factor for webhook retry times, 5 min … 12 h (default: 0.01)")
    add("--webhook-timeout", type=float, default=10.0, help="seconds to wait for an answer (default: 10)")
    add("--webhook-threads", type=int, default=4, help="simultaneous deliveries; 1 keeps their order (default: 4)")
    given = parser.parse_args(arguments)
    if given.webhook_url and not given.webhook_secret:
        parser.error("--webhook-url needs a --webhook-secret")
    endpoint = Endpoint(
        given.webhook_url, tuple(given.webhook_secret), given.retry_scale, given.webhook_timeout, given.webhook_threads
    )
    return Settings(given.port, endpoint, given.data, public_url=given.public_url, key=given.key)


def _controls() -> str:
    lines = [f"  {each.method:6} /_control/{each.path:29} {each.help}" for each in CONTROLS]
    kinds = f"kinds of faults: {', '.join((*BEFORE, *DURING, *AFTER))}; of webhooks: {', '.join(WEBHOOKS)}"
    return "\n".join(["control calls, with a JSON body:", *lines, kinds])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
