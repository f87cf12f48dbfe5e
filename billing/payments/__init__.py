"""Payments: how money comes in by Stripe, and goes back."""
