"""Turns an adapter file of any form that is read right into the one that is kept, by which its content is known.

    python -m inference.adapters.sizes MODEL | python -m inference.adapters.canonical IN OUT --name NAME --recipe JSON

It is meant for files of strangers, so it runs as a process of its own, with limits. It reads the sizes of the model's
layers from stdin. The last line on stdout is a JSON
object: what the adapter is (`sha256`, `size`, `rank`, `layers`, `recipe`), or why it is `refused`. The same adapter
gives the same bytes, whichever form it came in: the tensors in the model's order as

    transformer.NAME.lora_down.weight · .lora_up.weight · .alpha

in the narrowest of BF16, F16 and F32 that loses nothing, alpha in F32, and no metadata but the recipe.
"""

import argparse
import hashlib
import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inference.adapters import files, recipes
from inference.adapters.recipes import METADATA, Recipe
from inference.adapters.weights import Adapter
from inference.errors import AdapterUnavailable, InvalidRequest

NARROWEST = (torch.bfloat16, torch.float16, torch.float32)
# of a layer's change, its root mean square; models' own weights have about 0.02
MOST_CHANGE = 10.0
GIB = 1024**3


def write(source: Path, target: Path, sizes: Mapping[str, tuple[int, int]], recipe: Recipe) -> dict[str, Any]:
    """Write the canonical file of the adapter in `source`; return what it is, as JSON.

    Raises AdapterUnavailable if it is not read right, or changes the model absurdly.
    """
    adapter = files.read(source, sizes, torch.float32)
    check(adapter)
    said = {name: value for name, value in recipe._asdict().items() if value is not None}
    metadata = {METADATA: json.dumps(said, sort_keys=True, separators=(",", ":"))} if said else None
    save_file(_tensors(adapter), target, metadata)
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {"sha256": digest, "size": target.stat().st_size, "rank": adapter.rank, "layers": len(adapter.shapes)}
    return facts | {"recipe": said}


def check(adapter: Adapter) -> None:
    """Raise AdapterUnavailable if a layer is changed by more than any training does, or none is at all."""
    largest = 0.0
    for layer, (down, up, scale) in adapter.factors.items():
        # |BA|² is the sum of the products of the two small matrices AAᵀ and BᵀB
        squared = float((down.double() @ down.double().T * (up.double() @ up.double().T)).sum())
        change = abs(scale) * (max(squared, 0.0) / (down.shape[1] * up.shape[1])) ** 0.5
        if not change <= MOST_CHANGE:
            raise AdapterUnavailable(f"its change of {layer} is {change:.3g}, and more than {MOST_CHANGE:g} is absurd")
        largest = max(largest, change)
    if largest == 0:
        raise AdapterUnavailable("it changes nothing")


def recipe_of(source: Path, name: str, given: str) -> Recipe:
    """Return the recipe that was given, else the one in the file, else what is known of a file of that name.

    Raises InvalidRequest or ValueError if it is not valid.
    """
    if given:
        return recipes.parse(given)
    inside = recipes.read(source)
    return inside if inside != Recipe() else recipes.known(Path(name).stem)


def _tensors(adapter: Adapter) -> dict[str, torch.Tensor]:
    dtype = next(each for each in NARROWEST if bool((adapter.memory.to(each).float() == adapter.memory).all()))
    tensors = {}
    for layer, (down, up, scale) in adapter.factors.items():
        tensors[f"transformer.{layer}.lora_down.weight"] = down.to(dtype).contiguous()
        tensors[f"transformer.{layer}.lora_up.weight"] = up.T.to(dtype).contiguous()
        tensors[f"transformer.{layer}.alpha"] = torch.tensor(scale * len(down), dtype=torch.float32)
    return tensors


def _limit(gibibytes: float, seconds: int) -> None:
    """Let this process take so much more memory, and so much time of a core."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(gibibytes * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m inference.adapters.canonical", description=__doc__.split("\n")[0])
    parser.add_argument("source", metavar="IN", type=Path, help="the file that was sent")
    parser.add_argument("target", metavar="OUT", type=Path, help="the canonical file")
    parser.add_argument("--name", default="", help="the name that the file had")
    parser.add_argument("--recipe", default="", help="its recipe as JSON, in place of the file's own")
    parser.add_argument("--memory", type=float, default=6, help="GiB that this process may take")
    parser.add_argument("--seconds", type=int, default=120, help="of a core that it may take")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {layer: (inputs, outputs) for layer, (inputs, outputs) in json.load(sys.stdin).items()}
    _limit(options.memory, options.seconds)
    try:
        recipe = recipe_of(options.source, options.name, options.recipe)
        found = write(options.source, options.target, sizes, recipe)
    except (AdapterUnavailable, InvalidRequest, ValueError, RecursionError) as error:
        named = f"adapter {options.source.name}: "
        said = str(error).replace(f"the recipe of {named}", "its recipe: ").replace(named, "")
        # what strangers call things may be no text that a database keeps
        found = {"refused": "".join(each if each.isprintable() else repr(each)[1:-1] for each in said)}
    except MemoryError:
        found = {"refused": "it needs more memory than a check may take"}
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
