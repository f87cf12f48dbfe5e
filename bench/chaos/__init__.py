"""Everything at once, while everything is killed: `python -m bench.chaos [--seconds 300] [--seed 1]`.

Clients buy, cancel, top up, have their cards charged, get refunds and dispute over HTTP. Meanwhile a saboteur kills and
restarts every part, whose clocks are seconds apart, and an accountant compares the books with Stripe's, to the cent.
Exits with code 1 if anything does not add up.
"""

from bench.chaos.run import main as main
