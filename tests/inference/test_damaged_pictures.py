"""Every decoder of the types that are read is fed damaged files: a picture comes out or one sentence, and memory stays
bounded.

`--picture-minutes 10` feeds for as long, with new files each time, and `-s` shows what came out.
"""

import io
import re
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from contextlib import suppress
from random import Random

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from inference import appearance
from inference.errors import InvalidPicture
from inference.models import catalog
from inference.picture_files import read_image, read_mask
from tests.inference.test_appearance import (
    COLOURS,
    DISPLAY_P3,
    GREY,
    HALF,
    RAMP,
    chunk,
    moving,
    png,
    profile,
    sixteen,
    stored,
    turned,
    with_alpha,
)
from tests.inference.test_picture_files import memory, most_taken, with_segments

CARD = catalog.card()
# files, and how many between two looks at the clock
QUICK, FULL, ROUND = 400, 10_000, 2_000
# what the largest picture takes in its several forms
MOST = 400


def texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "Kiln " * 20, zip=True)
    info.add_itxt("Title", "窯", "zh", "標題")
    return info


def pngs() -> dict[str, bytes]:
    colours = np.asarray(COLOURS)
    samples = {(depth, 0): RAMP >> (8 - depth) for depth in (1, 2, 4, 8)} | {(16, 0): sixteen(RAMP)}
    samples |= {(8, 2): colours, (16, 2): sixteen(colours)}
    samples |= {(8, 4): np.dstack([RAMP, RAMP.T]), (16, 4): sixteen(np.dstack([RAMP, RAMP.T]))}
    samples |= {(8, 6): np.dstack([colours, RAMP]), (16, 6): sixteen(np.dstack([colours, RAMP]))}
    transparent = {0: bytes(2), 2: bytes(6)}
    made = {}
    for (depth, colour), pixels in samples.items():
        extra = [chunk(b"tRNS", transparent[colour])] if colour in transparent else []
        for interlaced in (False, True):
            made[f"PNG {depth} {colour} {interlaced}"] = png(pixels, depth, colour, *extra, interlaced=interlaced)
    palette = [chunk(b"PLTE", bytes(range(48))), chunk(b"tRNS", bytes(range(16)))]
    for depth in (1, 2, 4):
        made[f"PNG {depth} 3"] = png(RAMP >> (8 - depth), depth, 3, *palette, interlaced=depth == 4)
    return made | {
        "PNG 8 3": stored(COLOURS.quantize(200), transparency=bytes(range(200))),
        "PNG with a profile": stored(COLOURS, icc_profile=DISPLAY_P3, pnginfo=texts()),
        "PNG with a grey profile": stored(GREY, icc_profile=profile(gamma=1.8)),
        "PNG on its side": turned("PNG", 6),
        "PNG that moves": moving("PNG"),
    }


def jpegs() -> dict[str, bytes]:
    inks = COLOURS.convert("CMYK")
    return {
        "JPEG": stored(COLOURS, "JPEG"),
        "JPEG grey": stored(GREY, "JPEG"),
        "JPEG progressive": stored(COLOURS, "JPEG", progressive=True, subsampling=2),
        "JPEG of four inks": stored(inks, "JPEG"),
        "JPEG of four inks, progressive": stored(inks, "JPEG", progressive=True),
        "JPEG with restarts": stored(COLOURS, "JPEG", restart_marker_blocks=2, subsampling=0),
        "JPEG with a profile": stored(COLOURS, "JPEG", icc_profile=DISPLAY_P3, comment=b"Kiln"),
        "JPEG on its side": turned("JPEG", 8),
        "JPEG and another": stored(COLOURS, "MPO", save_all=True, append_images=[GREY.convert("RGB")]),
        "JPEG of Adobe": with_segments(
            (0xEE, b"Adobe\0\x64\0\0\0\0\1"), (0xED, b"Photoshop 3.0\08BIM\4\4\0\0\0\0\0\2ab")
        ),
    }


def webps() -> dict[str, bytes]:
    see_through = with_alpha("RGBA", HALF)
    return {
        "WebP": stored(COLOURS, "WEBP"),
        "WebP lossless": stored(COLOURS, "WEBP", lossless=True),
        "WebP with alpha": stored(see_through, "WEBP"),
        "WebP lossless with alpha": stored(see_through, "WEBP", lossless=True),
        "WebP of few colours": stored(COLOURS.quantize(8).convert("RGB"), "WEBP", lossless=True),
        "WebP with a profile": stored(COLOURS, "WEBP", icc_profile=DISPLAY_P3, xmp=b"<x/>"),
        "WebP on its side": turned("WEBP", 5),
        "WebP that moves": moving("WEBP"),
    }


WHOLE = {**pngs(), **jpegs(), **webps()}
NAMES = sorted(WHOLE)
# by Pillow
NOT_OPENED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
NUMBERS = [0, 1, 2, 255, 256, 2048, 2049, 32767, 65535, 65536, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1]


def damaged(chance: Random) -> bytes:
    content = bytearray(WHOLE[chance.choice(NAMES)])
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        chance.choice(DAMAGES)(chance, content)
    made = repair(bytes(content)) if chance.random() < 0.8 else bytes(content)
    return made[: chance.randint(0, len(made))] if chance.random() < 0.05 else made


def place(chance: Random, content: bytearray) -> int:
    """Choose a place, half of the time in the file's head, seldom where it says of which type it is."""
    first = 0 if chance.random() < 0.02 else 12
    return chance.randrange(first, max(first + 1, chance.choice((min(len(content), 200), len(content)))))


def flip(chance: Random, content: bytearray) -> None:
    at = place(chance, content)
    content[at : at + 1] = chance.randbytes(1)


def renumber(chance: Random, content: bytearray) -> None:
    at, form, number = place(chance, content), chance.choice(("<H", ">H", "<I", ">I")), chance.choice(NUMBERS)
    packed = struct.pack(form, number % 65536 if form[1] == "H" else number)
    content[at : at + len(packed)] = packed


def cut(chance: Random, content: bytearray) -> None:
    at = place(chance, content)
    del content[at : at + chance.randint(1, 64)]


def repeat(chance: Random, content: bytearray) -> None:
    at = place(chance, content)
    content[at:at] = content[at : at + chance.randint(1, 64)] * chance.randint(1, 20)


def graft(chance: Random, content: bytearray) -> None:
    other = WHOLE[chance.choice(NAMES)]
    start, at = chance.randrange(len(other)), place(chance, content)
    content[at : at + chance.randint(0, 64)] = other[start : start + chance.randint(1, 300)]


def add_part(chance: Random, content: bytearray) -> None:
    """Add a chunk or segment with any content where the first one ends."""
    data = chance.randbytes(chance.randint(0, 80))
    if content.startswith(b"\x89PNG"):
        kinds = [b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"IDAT", b"gAMA"]
        content[33:33] = chunk(chance.choice(kinds), data)
    elif content.startswith(b"\xff\xd8"):
        content[2:2] = struct.pack(">BBH", 0xFF, chance.randint(0xC0, 0xFE), len(data) + 2) + data
    else:
        kind = chance.choice([b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"VP8 ", b"VP8L"])
        content[30:30] = kind + struct.pack("<I", len(data)) + data


def change_inside(chance: Random, content: bytearray) -> None:
    """Change a PNG's pixels or profile behind their compression."""
    kind = chance.choice((b"IDAT", b"iCCP"))
    if (start := content.find(kind)) < 4:
        return
    (length,) = struct.unpack_from(">I", content, start - 4)
    name = 0 if kind == b"IDAT" else content.find(b"\0\0", start) + 2 - (start + 4)
    head, packed = content[start + 4 : start + 4 + name], content[start + 4 + name : start + 4 + length]
    with suppress(zlib.error):
        data = bytearray(zlib.decompress(packed))
        for change in chance.sample((flip, renumber, cut, repeat), 2):
            change(chance, data)
        content[start - 4 : start + 8 + length] = chunk(kind, bytes(head) + zlib.compress(data, 1))


DAMAGES = (flip, renumber, cut, repeat, graft, add_part, change_inside)


def repair(content: bytes) -> bytes:
    """Make the checksums of a PNG and the length of a WebP right again, so that decoders look at the damage."""
    if content.startswith(b"RIFF"):
        return content[:4] + struct.pack("<I", max(0, len(content) - 8)) + content[8:]
    if not content.startswith(b"\x89PNG"):
        return content
    chunks, at = [content[:8]], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append(chunk(content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join(chunks)


def outcome(content: bytes) -> str:
    """Read a file in every way; return what came out."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        told = [told_by(read, content) for read in (read_image, read_mask)]
    assert not warned
    with warnings.catch_warnings(), suppress(*NOT_OPENED):
        warnings.simplefilter("ignore")  # those of whoever opens files with Pillow
        image = Image.open(io.BytesIO(content), formats=["PNG", "JPEG", "WEBP"])
        if max(image.size) <= CARD.max_image_side:
            told_by(lambda image, _: appearance.rgb(image), image)
    return told[0]


def told_by(read, source) -> str:
    try:
        shown = read(source, CARD)
    except InvalidPicture as refused:
        sentence = str(refused)
        assert re.fullmatch(r"its? [^\n]{5,150}", sentence)
        return re.sub(r"\d+ by \d+", "… by …", sentence)
    assert shown.mode in ("RGB", "L")
    assert max(shown.size) <= CARD.max_image_side
    assert np.asarray(shown).shape[:2] == shown.size[::-1]
    return "a picture"


def feed(examples: int, seed: int) -> Counter[str]:
    told: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=True))
    def read(chance: Random) -> None:
        told[outcome(damaged(chance))] += 1

    read()
    return told


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE.keys())
def test_undamaged_files_are_read_as_they_should_be(content):
    assert re.match("a picture|it has more than one frame|its transparent colour has 16 bits", outcome(content))


@pytest.mark.timeout(7200)
def test_damaged_files_give_a_picture_or_one_sentence_and_memory_stays_bounded(pytestconfig, full):
    minutes = pytestconfig.getoption("--picture-minutes")
    with memory(MOST):
        before, told = most_taken(), feed(FULL if full else QUICK, 0)
        until = time.monotonic() + 60 * (minutes or 0)
        while time.monotonic() < until:
            told += feed(ROUND, time.time_ns())
        sys.stdout.write(f"\n{told.total()} files, at most {most_taken() - before} MiB more than before\n")
    sys.stdout.writelines(f"{count:8} {sentence}\n" for sentence, count in told.most_common())
    assert len(told) >= 5
