"""Prints the figures of a simulation as JSON."""

import argparse
import json

from bench.simulate.report import GPUS, PRICE, REQUESTS, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.simulate")
    parser.add_argument("--quick", action="store_true", help="thousands of requests, no plots")
    parser.add_argument("--requests", type=int, help=f"of the largest run ({REQUESTS})")
    parser.add_argument("--gpus", type=int, help=f"of the largest run ({GPUS})")
    parser.add_argument("--price", type=float, default=PRICE, help="dollars an hour of a GPU (%(default)s)")
    print(json.dumps(main(**vars(parser.parse_args())), indent=2))
