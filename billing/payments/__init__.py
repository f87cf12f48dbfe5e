"""Payments: how money comes in through Stripe, and goes back."""
