"""Tokens: wallets, the transfers between them, and the lots that they came in."""
