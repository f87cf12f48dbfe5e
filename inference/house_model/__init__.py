"""A small, real Qwen-Image of flat shapes on coloured backgrounds, which ships with the repository.

The folder holds its world, its judge, its training and its weights; the engine only loads the weights.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
