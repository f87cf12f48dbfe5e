"""Adapters (LoRA) as goods: whose they are, their versions and terms. Knows billing, knows no torch."""
