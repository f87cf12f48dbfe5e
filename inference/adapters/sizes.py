"""The sizes of the layers that adapters of a model may change, which `python -m inference.adapters.sizes MODEL` prints.

They are JSON: each layer's name with its in and out features. To find them out takes diffusers, which takes longer to
import than an adapter to check: whoever checks many asks once (see `canonical`).
"""

import argparse
import json
import sys

import torch
from diffusers import QwenImageTransformer2DModel


def of(model: str) -> dict[str, tuple[int, int]]:
    """Return the in and out features of the linear layers of a model's transformer, whose weights are not read."""
    config = QwenImageTransformer2DModel.load_config(model, subfolder="transformer")
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel.from_config(config)
    linear = {name: each for name, each in transformer.named_modules() if type(each) is torch.nn.Linear}
    return {name: (each.in_features, each.out_features) for name, each in linear.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m inference.adapters.sizes", description="The sizes of a model's layers that adapters may change."
    )
    parser.add_argument("model", metavar="MODEL", help="folder or name of the model")
    json.dump(of(parser.parse_args().model), sys.stdout)


if __name__ == "__main__":
    main()
