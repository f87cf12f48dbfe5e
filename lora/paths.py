"""Where the files of versions are, in whatever storage. Pure."""

from __future__ import annotations

from uuid import UUID


def ready(adapter_id: UUID | str, number: int, sha256: str) -> str:
    """Return the path of a ready version's canonical file. No two versions share one."""
    return f"versions/{adapter_id}/{number}-{sha256}.safetensors"


def incoming(adapter_id: UUID | str, number: int) -> str:
    """Return the path of what was sent, until it is checked."""
    return f"incoming/{adapter_id}/{number}"
