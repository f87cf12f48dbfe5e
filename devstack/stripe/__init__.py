"""A Stripe to test against: a real HTTP server that the real SDK talks to, which remembers and which fails on demand.

It moves no money and reaches nobody but the webhook's address. It is not for production.
"""
