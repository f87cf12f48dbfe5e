"""Everything that fits or measures what the engine runs with, except the house model's own training.

Nothing that serves imports from here.
"""
