"""Kiln's web side and workers: the only package that knows all the others."""
