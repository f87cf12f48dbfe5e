"""A small but real Qwen-Image that draws flat shapes on coloured backgrounds, and ships with the repository.

The folder holds its world, its judge, its training and its weights; the engine loads only the weights.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
