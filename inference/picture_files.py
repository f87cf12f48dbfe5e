"""Picture files of strangers: bytes in, a checked picture or mask out.

PNG, JPEG and WebP are read, and of their bytes only those on which pixels depend: comments, thumbnails, films and other
things that a file may carry are cut away unread. Size and number of frames are checked before anything is decoded.
Other kinds are refused by name. Loads no torch.
"""

from __future__ import annotations

import io
import re
import struct
from typing import TYPE_CHECKING

from PIL.Image import DecompressionBombError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from inference import appearance, pictures
from inference.errors import InvalidPicture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL import Image

    from inference.card import ModelCard

# a pixel of the largest PNG takes 8 bytes, and this is for all else
_SPARE_BYTES = 1024**2
# each scan of a JPEG passes over all of its pixels again; progressive ones have about ten
_MAX_SCANS = 100
# chunks of a PNG, or segments of a JPEG: usually some hundred
_MAX_PARTS = 65536
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"IDAT", b"IEND")
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START, _END, _SCAN, _JFIF, _EXIF, _PROFILE, _ADOBE = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
# frames, tables of Huffman's and arithmetic codes, of quantization, restarts, and whose colours these are
_JPEG_SEGMENTS = (_START, *range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDB, 0xDD, _JFIF, _ADOBE)
_WITHOUT_LENGTH = (0x01, _START)
_OTHER_KINDS = {
    "GIF": rb"GIF8",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM",
    "AVIF": rb"....ftypavi[fs]",
    "HEIC": rb"....ftyp(hei|hev|mif1|msf1)",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "Photoshop file": rb"8BPS",
    "PDF": rb"%PDF",
    "SVG": rb"\s*<(\?xml|svg|!DOCTYPE svg)",
}


def read_image(content: bytes, card: ModelCard) -> Image.Image:
    """Return the picture in a file as a viewer shows it, RGB. Raises InvalidPicture if a model may not have it."""
    return appearance.rgb(_open(content, card))


def read_mask(content: bytes, card: ModelCard) -> Image.Image:
    """Return the mask in a file as greys, "L"; white is repainted. Raises InvalidPicture if a model may not have it."""
    return appearance.grey(_open(content, card))


def read_mask_or_holes(content: bytes, card: ModelCard) -> Image.Image:
    """Return the mask in a file as `read_mask` does; of one that has holes, those are white, whatever its colours."""
    image = _open(content, card)
    return appearance.holes(image) or appearance.grey(image)


def open_image(path: Path, card: ModelCard) -> Image.Image:
    """Read a picture's file as `read_image` does; here the message of InvalidPicture begins with the path."""
    return _at(path, card, read_image)


def open_mask(path: Path, card: ModelCard) -> Image.Image:
    """Read a mask's file as `read_mask` does; here the message of InvalidPicture begins with the path."""
    return _at(path, card, read_mask)


def media_type(content: bytes) -> str:
    """Return the type of a picture's file."""
    if content.startswith(_PNG):
        return "image/png"
    if content.startswith(_JPEG):
        return "image/jpeg"
    return "image/webp"


def max_bytes(card: ModelCard) -> int:
    """Return how large a file may be."""
    return 8 * card.max_image_side**2 + _SPARE_BYTES


def _at(path: Path, card: ModelCard, read: Callable[[bytes, ModelCard], Image.Image]) -> Image.Image:
    try:
        with path.open("rb") as file:
            return read(file.read(max_bytes(card) + 1), card)
    except (OSError, InvalidPicture) as error:
        raise InvalidPicture(f"{path} cannot be read as a picture: {error}") from error


def _open(content: bytes, card: ModelCard) -> Image.Image:
    """Return a picture of accepted size, not decoded yet."""
    if len(content) > max_bytes(card):
        raise InvalidPicture(f"it has more than {max_bytes(card)} bytes")
    try:
        image = _undecoded(content)
    except InvalidPicture:
        raise
    except DecompressionBombError as error:
        raise InvalidPicture(f"it must have sides up to {card.max_image_side} pixels") from error
    except Exception as error:  # decoders raise whatever they stumble over
        raise InvalidPicture("it is damaged, cut off or of a rare kind, and cannot be read") from error
    pictures.check_size(image, card)
    return image


def _undecoded(content: bytes) -> Image.Image:
    if content.startswith(_PNG):
        return PngImageFile(io.BytesIO(_png(content)))
    if content.startswith(_JPEG):
        kept, exif = _jpeg(content)
        image = JpegImageFile(io.BytesIO(kept))
        if exif:
            image.info["exif"] = exif
        return image
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return WebPImageFile(io.BytesIO(content))
    if not content:
        raise InvalidPicture("it is empty")
    for name, beginning in _OTHER_KINDS.items():
        if re.match(beginning, content, re.DOTALL):
            raise InvalidPicture(f"it is a {name}, and only PNG, JPEG and WebP files are read")
    raise InvalidPicture("it is not a PNG, JPEG or WebP file")


def _png(content: bytes) -> bytes:
    """Return a PNG with the first chunk of each kind that matters and all of its data. Raises InvalidPicture if it has
    too many chunks, or moves."""
    kept, seen, at = [_PNG], set[bytes](), len(_PNG)
    for _ in range(_MAX_PARTS):
        if at + 8 > len(content) or b"IEND" in seen:
            return b"".join(kept)
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"acTL" and kind not in seen and content[at + 8 : at + 12] > b"\0\0\0\1":
            raise InvalidPicture("it has more than one frame, so it is not clear which is meant")
        if kind in _PNG_CHUNKS and (kind == b"IDAT" or kind not in seen):
            kept.append(content[at : at + 12 + length])
        seen.add(kind)
        at += 12 + length
    raise InvalidPicture(f"it has more than {_MAX_PARTS} parts")


def _jpeg(content: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG's first picture, the head of it without what no pixel depends on, and its EXIF data, if any.

    Raises InvalidPicture if it has too many segments or scans.
    """
    kept, exif, scans, at = [], b"", [], 0
    for _ in range(_MAX_PARTS):
        marker = _JPEG_MARKER.search(content, at)
        kind = marker[1][0] if marker else _END
        if marker is None or kind == _END:
            break
        at = marker.end()
        if kind not in _WITHOUT_LENGTH:
            (length,) = struct.unpack_from(">H", content, at)
            at += max(length, 2)  # which are those of the length itself
        segment = content[marker.start() : at]
        if kind == _SCAN:
            scans.append(marker.start())
        elif not scans and (kind in _JPEG_SEGMENTS or (kind == _PROFILE and segment[4:].startswith(b"ICC_PROFILE\0"))):
            kept.append(segment)
        elif kind == _EXIF and segment[4:].startswith(b"Exif\0\0"):
            exif = exif or segment[4:]
    else:
        raise InvalidPicture(f"it has more than {_MAX_PARTS} parts")
    if len(scans) > _MAX_SCANS:
        raise InvalidPicture(f"it has more than {_MAX_SCANS} scans")
    end = marker.end() if marker else len(content)
    return b"".join([*kept, *(content[start:end] for start in scans[:1])]), exif
