"""Adapters (LoRA): catalogue, validation, training and makers' revenue. Knows billing, knows no torch."""
