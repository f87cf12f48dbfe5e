"""`python -m bench.chaos`: see the package."""

import argparse
import sys

from bench.chaos.run import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description="Chaos, and whether the books survive.")
    parser.add_argument("--seconds", type=float, default=300, help="of chaos, beside start and audits (300)")
    parser.add_argument("--seed", type=int, default=1, help="of every client's operations and of the faults (1)")
    parser.add_argument("--round", type=float, default=60, help="seconds of chaos between two full audits (60)")
    parser.add_argument("--clients", type=int, default=32)
    given = parser.parse_args()
    sys.exit(run(given.seconds, given.seed, given.round, given.clients).tell())
