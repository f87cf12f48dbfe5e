"""A Stripe to test against: an HTTP server for the real SDK that keeps state and fails on demand.

It moves no money and contacts nothing but the webhook's address. Not for production.
"""
