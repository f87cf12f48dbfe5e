"""Adapters put on the shelf past the upload: their files in the storage, their versions ready. Imports wait."""

import hashlib
from pathlib import Path
from typing import Any
from uuid import uuid4


def weights(path: Path, seed: int = 0, strength: float = 0.3) -> Path:
    """Write a LoRA that changes the house model's pictures visibly, as diffusers would name it."""
    import torch
    from safetensors.torch import save_file

    from inference.house_model.architecture import HEAD_WIDTH, HEADS, LAYERS

    width, random = HEADS * HEAD_WIDTH, torch.Generator().manual_seed(seed)
    factors = {}
    for block in range(LAYERS):
        layer = f"transformer.transformer_blocks.{block}.attn.to_v"
        factors[f"{layer}.lora_A.weight"] = strength * torch.randn(8, width, generator=random)
        factors[f"{layer}.lora_B.weight"] = strength * torch.randn(width, 8, generator=random)
    save_file(factors, path)
    return path


def adapter(owner: Any, slug: str = "glaze", **changes: Any) -> Any:
    """Make a customer's adapter for the model that is served."""
    from inference.models import catalog
    from lora import adapters

    card = catalog.card()
    terms = {"name": slug.title(), "base_model": card.name, "base_revision": card.revision, **changes}
    return adapters.create(uuid4(), owner.account.id, slug=slug, **terms)


def version(made: Any, folder: Path, seed: int = 0, **facts: Any) -> Any:
    """Make an adapter's next version, ready, with its file in the storage."""
    from lora import paths, versions
    from lora.models import Version
    from lora.versions import Facts
    from marketplace.adapters import storage

    file = weights(folder / f"{uuid4()}.safetensors", seed)
    content = file.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    begun = versions.begin(made, Version.Origin.UPLOADED, len(content), most=100, mebibytes=100)
    with file.open("rb") as opened:
        storage.put(paths.ready(made.id, begun.number, sha256), opened)
    assert versions.accept(begun, Facts(sha256=sha256, size=len(content), rank=8, layers=4, **facts))
    begun.refresh_from_db()
    return begun
