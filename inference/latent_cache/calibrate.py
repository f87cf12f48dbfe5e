"""The command's former name."""

import sys

if __name__ == "__main__":
    sys.exit("The latent cache is calibrated by: python -m inference.training.latent_cache")
