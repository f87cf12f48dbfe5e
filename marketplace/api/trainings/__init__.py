"""Trainings of adapters over HTTP."""
