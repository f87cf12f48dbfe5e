"""The embedded stack from the command line: `python -m devstack run | demo | with-servers`."""

import os
import signal
import subprocess
import sys
import time

from devstack import demo, servers
from devstack.interrupts import Interrupted, Interrupts
from devstack.processes import LocalError
from devstack.stack import Stack
from marketplace import addresses

USAGE = """usage: python -m devstack COMMAND
  run                       the whole stack at http://127.0.0.1:${PORT:-8000} until Ctrl-C or SIGTERM; PostgreSQL,
                            Redis and a double of Stripe too, where DATABASE_URL, REDIS_URL and STRIPE_SECRET_KEY
                            do not name them
  demo                      buy one picture from a stack of its own, and stop it
  with-servers -- COMMAND   run COMMAND with an empty PostgreSQL and Redis (DATABASE_URL, REDIS_URL)"""


def main(arguments: list[str]) -> int:
    """Run one command and return the exit code."""
    match arguments:
        case ["run"]:
            return run()
        case ["demo"]:
            return demo.main()
        case ["with-servers", "--", *command] if command:
            return with_servers(command)
    print(USAGE, file=sys.stderr)
    return 2


def run() -> int:
    """The stack in the foreground; 0 when it was asked to stop, 1 when something failed."""
    try:
        port = int(os.environ.get("PORT") or 8000)
    except ValueError:
        print(f"PORT must be a number, not {os.environ['PORT']!r}", file=sys.stderr)
        return 2
    started = time.monotonic()
    try:
        with Stack(addresses.home(), port, Interrupts(), _say, os.environ) as stack:
            stack.wait_ready()
            _say(_welcome(stack, time.monotonic() - started))
            stack.watch()
    except Interrupted:
        _say("stopped")
        return 0
    except (LocalError, PermissionError) as error:
        print(f"kiln: {error}", file=sys.stderr)
        return 1


def with_servers(command: list[str]) -> int:
    """Run `command` on empty servers in a temporary folder; its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with servers.temporary_home() as home, servers.running(home, durable=False) as found:
        own = {"DATABASE_URL": found.database_url, "REDIS_URL": found.redis_url, "KILN_HOME": str(home)}
        return subprocess.run(command, env=os.environ | own, check=False).returncode


def _welcome(stack: Stack, seconds: float) -> str:
    home = f"KILN_HOME={stack.home} " if os.environ.get("KILN_HOME") else ""
    payments = f"a DOUBLE of Stripe at {stack.stripe} (STRIPE_SECRET_KEY is not set)" if stack.stripe else "Stripe"
    return f"""ready in {seconds:.1f} s
  API             {stack.url}/v1
  API docs        {stack.url}/docs
  admin console   {stack.url}/admin/
  payments        {payments}
  logs            {stack.home}/logs

  a first customer, with 100 Tokens and an API key:
      {home}{sys.executable} manage.py create_customer you@example.com --grant 100
  Tokens by card: POST /v1/topups (docs/payments.md), on whose page 4242 4242 4242 4242 pays if it is the double
  an operator for the admin console:
      {home}{sys.executable} manage.py createsuperuser
Ctrl-C stops it."""


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
