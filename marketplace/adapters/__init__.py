"""Adapters in the marketplace: sent, checked, kept, used by orders, and at hand for the workers."""
