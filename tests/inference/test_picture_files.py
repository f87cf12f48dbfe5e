"""Files of strangers: what is read, what is refused by name, and that nothing large is made of something small."""

import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from inference import picture_files
from inference.errors import InvalidPicture
from inference.models import catalog
from inference.picture_files import read_image, read_mask
from tests.inference.test_appearance import COLOURS, DISPLAY_P3, GREY, chunk, distance, moving, png, stored, turned

CARD = catalog.card()
MIB = 1024**2


def refusal(content: bytes, read=read_image) -> str:
    with pytest.raises(InvalidPicture) as refused:
        read(content, CARD)
    assert str(refused.value).startswith("it ")
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


OTHERS = {
    "GIF": stored(COLOURS, "GIF"),
    "TIFF": stored(COLOURS, "TIFF"),
    "BMP": stored(COLOURS, "BMP"),
    "AVIF": stored(COLOURS, "AVIF"),
    "JPEG 2000": stored(COLOURS, "JPEG2000"),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "JPEG XL": b"\xff\x0a" + bytes(30),
    "Photoshop file": b"8BPS\0\1" + bytes(30),
    "PDF": stored(COLOURS, "PDF"),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}


@pytest.mark.parametrize(("name", "content"), OTHERS.items(), ids=OTHERS.keys())
def test_files_of_other_kinds_are_refused_by_name(name, content):
    assert refusal(content) == f"it is a {name}, and only PNG, JPEG and WebP files are read"


@pytest.mark.parametrize(
    "content", [b"no picture", bytes(100), b"RIFF\0\0\0\0WAVE", b"\x89PNG", stored(COLOURS, "PPM")]
)
def test_what_is_no_picture_at_all_is_said(content):
    assert refusal(content) == "it is not a PNG, JPEG or WebP file"


def test_an_empty_file_is_said():
    assert refusal(b"") == "it is empty"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_is_cut_off_is_refused_wherever_it_is_cut(kind):
    content = stored(Image.effect_noise((64, 64), 90), kind)
    for length in range(12, len(content) - 20, 29):
        assert refusal(content[:length]).startswith("it is damaged, cut off or of a rare kind")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_follows_a_picture_is_ignored(kind):
    content = stored(COLOURS, kind)
    for more in (b"\n", bytes(5000), content, b"\xff\xda" * 5000):
        assert distance(read_image(content + more, CARD), read_image(content, CARD)) == 0


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_moving_picture_is_refused_and_one_of_a_single_frame_is_not(kind):
    assert refusal(moving(kind)) == "it has more than one frame, so it is not clear which is meant"
    still = stored(COLOURS, kind, save_all=True, lossless=True)
    assert distance(read_image(still, CARD), COLOURS) == 0


def test_a_photo_with_a_second_picture_behind_it_is_the_first(tmp_path):
    content = stored(COLOURS, "MPO", save_all=True, append_images=[GREY.convert("RGB")], quality=100)
    assert content.count(b"MPF\0")
    assert distance(read_image(content, CARD), read_image(stored(COLOURS, "JPEG", quality=100), CARD)) == 0


@pytest.mark.parametrize("size", [(15, 64), (64, 15), (1, 2048), (2049, 64), (64, 2049)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_sizes_are_checked(kind, size):
    content = stored(Image.new("L", size), kind)
    for read in (read_image, read_mask):
        assert refusal(content, read) == f"it must have sides from 16 to 2048 pixels, not {size[0]} by {size[1]}"


def test_sizes_are_the_models():
    with pytest.raises(InvalidPicture, match="from 16 to 63 pixels, not 64 by 64"):
        read_image(stored(COLOURS), replace(CARD, max_image_side=63))


@contextmanager
def memory(most: int) -> Iterator[None]:
    """Check that no more than so many MiB are taken at any time meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # what was taken at most begins anew
    before = most_taken()
    yield
    assert most_taken() - before <= most


def most_taken() -> int:
    """Return what this process has taken at most, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def declared(width: int, height: int) -> dict[str, bytes]:
    """Make files of each kind that say that they are this large."""
    whole = {kind: stored(COLOURS, kind) for kind in ("PNG", "JPEG", "WEBP")}
    at = whole["JPEG"].index(b"\xff\xc0") + 5
    sides = struct.pack(">2H", height % 65536, width % 65536)
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    extended = b"VP8X" + struct.pack("<II", 10, 0) + canvas + whole["WEBP"][12:]
    return {
        "PNG": png(np.zeros((64, 64)), 8, 0).replace(struct.pack(">2I", 64, 64), struct.pack(">2I", width, height)),
        "JPEG": whole["JPEG"][:at] + sides + whole["JPEG"][at + 4 :],
        "WEBP": b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended,
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(2049, 2049), (16383, 16383), (65535, 65535), (2**24, 2**24), (2**31 - 1, 1)])
def test_nothing_is_made_of_a_size_that_is_only_declared(kind, size):
    with memory(16):
        refusal(declared(*size)[kind])


def texts(*, compressed: bool, count: int) -> bytes:
    if compressed:
        return chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(MIB))) * count
    return chunk(b"tEXt", b"Comment\0" + b"x" * 40) * count


def exif_of(size: int, fields: int, each: int) -> bytes:
    """Make EXIF data of `size` bytes in which each of many fields says that it is `each` bytes long."""
    table = b"".join(struct.pack(">HHII", 1000 + index, 7, each, 8) for index in range(fields))
    return (b"MM\0*\0\0\0\x08" + struct.pack(">H", fields) + table).ljust(size, b"x")


def with_segments(*segments: tuple[int, bytes]) -> bytes:
    content = stored(COLOURS, "JPEG")
    added = b"".join(struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data for kind, data in segments)
    return content[:2] + added + content[2:]


def with_junk(junk: bytes) -> bytes:
    content = stored(COLOURS, "JPEG")
    return content[:20] + junk + content[20:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_with(kind: bytes, data: bytes) -> bytes:
    whole = stored(COLOURS, "WEBP")
    canvas = struct.pack("<I", 63)[:3] * 2
    flags = struct.pack("<I", {b"EXIF": 8, b"XMP ": 4, b"ICCP": 32}[kind])
    pixels = (whole[12:16], whole[20:])
    profile, behind = ((kind, data), ()) if kind == b"ICCP" else ((), ((kind, data),))
    return riff((b"VP8X", flags + canvas), *([profile] if profile else []), pixels, *behind)


LARGE_EXIF = b"Exif\0\0" + exif_of(60_000, 4000, 50_000)
SMALL_OUTSIDE = {
    "texts that grow a thousandfold": lambda: png(np.zeros((64, 64)), 8, 0, texts(compressed=True, count=2000)),
    "fifty thousand texts": lambda: png(np.zeros((64, 64)), 8, 0, texts(compressed=False, count=50_000)),
    "millions of bytes between the segments of a JPEG": lambda: with_junk(bytes(8 * MIB)),
    "millions of fill bytes in a JPEG": lambda: with_junk(b"\xff" * 8 * MIB),
    "profiles that grow a thousandfold": lambda: png(
        np.zeros((64, 64)), 8, 0, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(MIB - 1))) * 3000
    ),
    "EXIF data in a PNG whose fields are longer than it": lambda: png(
        np.zeros((64, 64)), 8, 0, chunk(b"eXIf", exif_of(8 * MIB, 60_000, 7 * MIB))
    ),
    "EXIF data in a JPEG whose fields are longer than it": lambda: with_segments((0xE1, LARGE_EXIF)),
    "many EXIF data in a JPEG": lambda: with_segments(*[(0xE1, LARGE_EXIF)] * 400),
    "an index of pictures in a JPEG": lambda: with_segments((0xE2, b"MPF\0" + LARGE_EXIF[6:])),
    "EXIF data in a segment that has no length for Pillow": lambda: with_segments(
        (0xFA, b"\xff\xe1" + struct.pack(">H", 60_008) + LARGE_EXIF), (0xC8, b"\xff\xe1\xea\x68" + LARGE_EXIF)
    ),
    "comments in a JPEG": lambda: with_segments(*[(0xFE, bytes(60_000))] * 400),
    "EXIF data in a WebP": lambda: webp_with(b"EXIF", exif_of(8 * MIB, 60_000, 7 * MIB)),
    "a profile in a WebP": lambda: webp_with(b"ICCP", bytes(16 * MIB)),
}


@pytest.mark.parametrize("make", SMALL_OUTSIDE.values(), ids=SMALL_OUTSIDE.keys())
def test_what_lies_beside_the_pixels_takes_no_more_room_than_the_file_and_is_no_reason_to_refuse_it(make):
    content = make()
    with memory(3 * len(content) // MIB + 32), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(content, CARD).size == (64, 64)


def test_texts_in_a_png_change_no_pixel():
    info = PngImagePlugin.PngInfo()
    for name in ("transparency", "icc_profile", "interlace", "bbox", "gamma", "exif"):
        info.add_text(name, "1")
    assert distance(read_image(stored(COLOURS, pnginfo=info), CARD), COLOURS) == 0


def test_a_jpeg_of_a_thousand_scans_is_refused():
    content = stored(COLOURS, "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    assert refusal(content[:-2] + last * 1000 + b"\xff\xd9") == "it has more than 100 scans"
    assert read_image(content[:-2] + last * 5 + b"\xff\xd9", CARD).size == (64, 64)


MANY = {
    "empty texts": lambda: png(np.zeros((64, 64)), 8, 0, chunk(b"tEXt", b"") * 70_000),
    "empty data": lambda: png(np.zeros((64, 64)), 8, 0, chunk(b"IDAT", b"") * 70_000),
    "empty comments": lambda: with_junk(b"\xff\xfe\0\2" * 70_000),
    "beginnings": lambda: with_junk(b"\xff\xd8" * 70_000),
    "tables": lambda: with_junk(b"\xff\xdb\0\2" * 70_000),
}


@pytest.mark.parametrize("make", MANY.values(), ids=MANY.keys())
def test_a_file_of_too_many_parts_is_refused(make):
    assert refusal(make()) == "it has more than 65536 parts"


def test_too_many_bytes_are_refused_before_any_is_read():
    content = stored(COLOURS) + bytes(picture_files.max_bytes(CARD))
    assert refusal(content) == f"it has more than {picture_files.max_bytes(CARD)} bytes"


def largest() -> dict[str, Callable[[], bytes]]:
    def noise(*bands: int, dtype: type = np.uint8) -> np.ndarray:
        return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (2048, 2048, *bands), dtype=dtype)

    return {
        "a PNG of 16 bits and alpha": lambda: png(noise(4, dtype=np.uint16), 16, 6),
        "a progressive JPEG with a profile": lambda: stored(
            Image.fromarray(noise(3)), "JPEG", progressive=True, icc_profile=DISPLAY_P3
        ),
        "a JPEG of four inks": lambda: stored(Image.fromarray(noise(4), "CMYK"), "JPEG"),
        "a WebP with alpha": lambda: stored(Image.fromarray(noise(4)), "WEBP", quality=80, method=0),
    }


@pytest.mark.parametrize("make", largest().values(), ids=largest().keys())
def test_the_largest_pictures_take_bounded_memory(make):
    content = make()
    with memory(256):
        assert read_image(content, CARD).size == (2048, 2048)
    assert len(content) <= picture_files.max_bytes(CARD)


def test_a_file_that_never_ends_is_refused(tmp_path):
    endless = tmp_path / "x.png"
    endless.symlink_to("/dev/zero")
    with memory(96), pytest.raises(InvalidPicture, match=r"x\.png cannot be read as a picture: it has more than"):
        picture_files.open_image(endless, CARD)


def test_masks_are_read_upright():
    wide = Image.new("L", (64, 32))
    wide.paste(255, (0, 0, 20, 32))
    mask = read_mask(turned("PNG", 6, wide), CARD)
    assert (mask.mode, mask.size) == ("L", (32, 64))
    assert mask.crop((0, 0, 32, 20)).getextrema() == (255, 255)
