"""Pictures among the bytes that schemathesis makes up for files (schemathesis.toml names this module)."""

import io

import schemathesis
from hypothesis import strategies
from PIL import Image


def drawn(size: tuple[int, int], kind: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (220, 40, 40)).save(content, kind)
    return content.getvalue()


PICTURES = [drawn((128, 128), "PNG"), drawn((96, 160), "JPEG"), drawn((64, 64), "WEBP")]
schemathesis.openapi.format("binary", strategies.sampled_from(PICTURES) | strategies.binary(max_size=64))
