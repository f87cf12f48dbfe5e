"""Input pictures mean what their sender sees, whatever they are stored as; what has no plain meaning is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from inference import appearance, pictures
from inference.errors import InvalidPicture, InvalidRequest
from inference.models import catalog
from inference.picture_files import read_image, read_mask
from tests.inference.conftest import order

CARD = catalog.card()
# every grey; 64 by 64
RAMP = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)
GREY = Image.fromarray(RAMP)
COLOURS = Image.merge("RGB", [Image.fromarray(each) for each in (RAMP, RAMP.T, RAMP[::-1])])
# opaque on the left, transparent on the right
HALF = Image.new("L", (64, 64))
HALF.paste(255, (0, 0, 32, 64))
ON_WHITE = Image.composite(COLOURS, Image.new("RGB", (64, 64), "white"), HALF)


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# columns and rows of the passes of an interlaced PNG: first and step
WHOLE = [(0, 1, 0, 1)]
PASSES = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]


def png(samples: np.ndarray, depth: int, colour: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    """Write what Pillow cannot: samples [height, width, channels] of 1 to 16 bits, and chunks before them."""
    height, width = samples.shape[:2]
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlaced)
    rows = []
    for left, right, top, down in PASSES if interlaced else WHOLE:
        rows += packed(samples[top::down, left::right], depth)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def packed(samples: np.ndarray, depth: int) -> list[np.ndarray]:
    """Return rows of bytes."""
    flat = samples.reshape(len(samples), -1)
    if depth < 8:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        return list(np.packbits(bits.reshape(len(flat), -1), axis=1))
    return list(np.ascontiguousarray(flat.astype(">u2" if depth == 16 else np.uint8)).view(np.uint8))


def distance(one: Image.Image, other: Image.Image) -> int:
    assert (one.mode, one.size) == (other.mode, other.size)
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def sixteen(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.uint16) * 257


def with_alpha(mode: str, alpha: Image.Image = HALF) -> Image.Image:
    image = (GREY if mode[0] in "Ll" else COLOURS).convert(mode.upper())
    image.putalpha(alpha)
    return image if mode.isupper() else image.convert(mode)


SAME = {
    "L": (GREY, 0),
    "I;16": (Image.fromarray(sixteen(RAMP)), 0),
    "I;16B": (Image.frombytes("I;16B", (64, 64), sixteen(RAMP).astype(">u2").tobytes()), 0),
    "real numbers from 0 to 1": (Image.fromarray(RAMP.astype(np.float32) / 255), 0),
    "LA": (with_alpha("LA", Image.new("L", (64, 64), 255)), 0),
    "a grey palette": (GREY.convert("P"), 0),
}


@pytest.mark.parametrize(("image", "most"), SAME.values(), ids=SAME.keys())
def test_a_grey_picture_is_the_same_in_every_mode(image, most):
    assert distance(appearance.rgb(image), GREY.convert("RGB")) <= most
    assert distance(pictures.resize(image, (64, 64)), GREY.convert("RGB")) <= most
    assert distance(appearance.grey(image), GREY) <= most


@pytest.mark.parametrize("mode", ["RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"])
def test_a_coloured_picture_is_the_same_in_every_mode(mode):
    image = COLOURS.convert("RGBA").convert("RGBa") if mode == "RGBa" else COLOURS.convert(mode)
    shown = np.asarray(appearance.rgb(image)).astype(int)
    assert np.abs(shown - np.asarray(COLOURS)).mean() <= (2 if mode in ("YCbCr", "HSV", "LAB") else 0)


TYPES = {
    "1 bit": (png(RAMP >> 7, 1, 0), (GREY.point(lambda level: level // 128 * 255)), 0),
    "2 bits": (png(RAMP >> 6, 2, 0), GREY.point(lambda level: level // 64 * 85), 0),
    "4 bits": (png(RAMP >> 4, 4, 0), GREY.point(lambda level: level // 16 * 17), 0),
    "16 bits of grey": (png(sixteen(RAMP), 16, 0), GREY, 0),
    "interlaced": (png(np.asarray(COLOURS), 8, 2, interlaced=True), COLOURS, 0),
    "4 bits, interlaced": (png(RAMP >> 4, 4, 0, interlaced=True), GREY.point(lambda level: level // 16 * 17), 0),
    "16 bits of grey, between two levels": (png(sixteen(RAMP) - (RAMP > 0), 16, 0), GREY, 0),
    "16 bits of grey and alpha": (png(np.dstack([sixteen(RAMP)] * 2) | [0, 65535], 16, 4), GREY, 1),
    "16 bits of colours": (png(sixteen(np.asarray(COLOURS)), 16, 2), COLOURS, 1),
    "16 bits of colours and alpha": (
        png(np.dstack([sixteen(np.asarray(COLOURS)), np.full((64, 64), 65535)]), 16, 6),
        COLOURS,
        1,
    ),
    "a grey JPEG": (stored(GREY, "JPEG", quality=100), GREY, 2),
    "a JPEG of four inks": (stored(COLOURS.convert("CMYK"), "JPEG", quality=100, subsampling=0), COLOURS, 6),
    "a progressive JPEG": (stored(GREY, "JPEG", quality=100, progressive=True), GREY, 2),
    "a lossless WebP": (stored(COLOURS, "WEBP", lossless=True), COLOURS, 0),
    "a lossy WebP": (stored(GREY, "WEBP", quality=100), GREY, 6),
}


@pytest.mark.parametrize(("content", "seen", "most"), TYPES.values(), ids=TYPES.keys())
def test_every_type_of_file_shows_the_same_picture(content, seen, most):
    assert distance(read_image(content, CARD), seen.convert("RGB")) <= most
    with Image.open(io.BytesIO(content)) as image:
        assert distance(appearance.rgb(image), seen.convert("RGB")) <= most


@pytest.mark.parametrize("mode", [mode for mode in Image.MODES if mode != "I"])
def test_every_mode_that_pillow_has_but_that_of_32_bits_is_a_picture(mode):
    assert len(appearance.rgb(Image.new(mode, (64, 64))).getcolors()) == 1
    catalog.validate(order(operation="img2img", images=(Image.new(mode, (64, 64)),), strength=0.5), CARD)


def hidden(image: Image.Image) -> Image.Image:
    """Make the right half transparent, by one more entry of a palette."""
    image = image.quantize(255)
    image.putpalette([*image.getpalette()[: 255 * 3], 1, 2, 3])
    image.paste(255, (32, 0, 64, 64))
    return image


PALETTE = hidden(COLOURS)
KEYED = COLOURS.copy()
KEYED.paste((1, 2, 3), (32, 0, 64, 64))
TRANSPARENT = {
    "RGBA": (with_alpha("RGBA"), ON_WHITE),
    "RGBa": (with_alpha("RGBa"), ON_WHITE),
    "LA": (with_alpha("LA"), Image.composite(GREY, Image.new("L", (64, 64), 255), HALF)),
    "La": (with_alpha("La"), Image.composite(GREY, Image.new("L", (64, 64), 255), HALF)),
    "PA": (with_alpha("RGBA").convert("PA"), None),
    "half transparent": (Image.new("RGBA", (64, 64), (255, 0, 0, 128)), Image.new("RGB", (64, 64), (255, 127, 127))),
}


@pytest.mark.parametrize(("image", "seen"), TRANSPARENT.values(), ids=TRANSPARENT.keys())
def test_what_is_transparent_is_white(image, seen):
    shown = appearance.rgb(image)
    if seen:
        assert distance(shown, seen.convert("RGB")) <= 1
    else:
        assert shown.crop((32, 0, 64, 64)).getcolors() == [(32 * 64, (255, 255, 255))]


def halves(left: int, right: int) -> np.ndarray:
    return np.where(np.arange(64) < 32, left, right) * np.ones((64, 1), np.uint16)


WHITE_RIGHT = {
    "an entry of a palette": stored(PALETTE, transparency=255),
    "entries of a palette, each its own": stored(PALETTE, transparency=bytes([255] * 254 + [254, 0])),
    "a colour": stored(KEYED, transparency=(1, 2, 3)),
    "a grey of 8 bits": png(halves(5, 6), 8, 0, chunk(b"tRNS", b"\0\6")),
    "a grey of 4 bits": png(halves(3, 9), 4, 0, chunk(b"tRNS", b"\0\11")),
    "a grey of 2 bits": png(halves(1, 2), 2, 0, chunk(b"tRNS", b"\0\2")),
    "black of 1 bit": png(halves(1, 0), 1, 0, chunk(b"tRNS", b"\0\0")),
    "a grey of 16 bits": png(halves(0x0707, 0x0708), 16, 0, chunk(b"tRNS", b"\7\10")),
    "a WebP": stored(with_alpha("RGBA"), "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("content", WHITE_RIGHT.values(), ids=WHITE_RIGHT.keys())
def test_files_whose_right_half_is_transparent_show_white_there(content):
    with Image.open(io.BytesIO(content)) as image:
        left, right = image.convert("RGBA").convert("RGB").crop((0, 0, 32, 64)), Image.new("RGB", (32, 64), "white")
    for shown in (read_image(content, CARD), appearance.rgb(Image.open(io.BytesIO(content)))):
        assert distance(shown.crop((32, 0, 64, 64)), right) == 0
        if image.mode != "I;16":  # which Pillow clips
            assert distance(shown.crop((0, 0, 32, 64)), left) <= 1


def turned(kind: str, orientation: int, image: Image.Image = COLOURS, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(image, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 100}), ("WEBP", {"lossless": True})])
def test_a_picture_stands_as_its_exif_data_say(kind, options, orientation):
    wide = COLOURS.crop((0, 0, 48, 32)).resize((48, 32))
    content = turned(kind, orientation, wide, **options)
    with Image.open(io.BytesIO(content)) as image:
        seen = ImageOps.exif_transpose(image).convert("RGB")
        assert distance(appearance.rgb(image), seen) == 0
        assert pictures.size(image) == ((32, 48) if orientation in (5, 6, 7, 8) else (48, 32))
    assert distance(read_image(content, CARD), seen) == 0


@pytest.mark.parametrize("order_of_bytes", ["<", ">"])
@pytest.mark.parametrize("kind", ["H", "I"])
def test_an_orientation_is_found_in_any_order_of_bytes(order_of_bytes, kind):
    mark = b"II*\0" if order_of_bytes == "<" else b"MM\0*"
    entries = [(0x010F, 2, 4, b"Kiln"), (0x0112, 3 if kind == "H" else 4, 1, struct.pack(order_of_bytes + kind, 6))]
    exif = mark + struct.pack(order_of_bytes + "IH", 8, len(entries))
    exif += b"".join(struct.pack(order_of_bytes + "HHI4s", *entry) for entry in entries)
    for data in (exif, b"Exif\0\0" + exif):
        wide = COLOURS.crop((0, 0, 48, 32))
        wide.info["exif"] = data
        assert distance(appearance.rgb(wide), COLOURS.crop((0, 0, 48, 32)).rotate(-90, expand=True)) == 0


def test_an_order_sees_its_pictures_upright():
    on_its_side = Image.open(io.BytesIO(turned("PNG", 6, COLOURS.crop((0, 0, 64, 32)))))
    mask = Image.open(io.BytesIO(turned("PNG", 6, Image.new("L", (64, 32), 255))))
    changes = {"operation": "inpaint", "images": (on_its_side,), "strength": 0.5}
    catalog.validate(order(mask=mask, **changes), CARD)
    catalog.validate(order(mask=Image.new("L", (32, 64), 255), **changes), CARD)
    with pytest.raises(InvalidRequest, match="the size of its image, 32 by 64, not 64 by 32"):
        catalog.validate(order(mask=Image.new("L", (64, 32), 255), **changes), CARD)


def profile(*matrix: tuple[float, float, float], gamma: float = 2.2) -> bytes:
    """Make the profile of a display from its primaries [X, Y, Z], each relative to white."""

    def fixed(number: float) -> bytes:
        return struct.pack(">i", round(number * 65536))

    primaries = [b"XYZ \0\0\0\0" + b"".join(map(fixed, primary)) for primary in matrix]
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    if primaries:
        names = [b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC", b"wtpt"]
        tags = [*primaries, curve, curve, curve, white]
    else:
        names, tags = [b"kTRC", b"wtpt"], [curve, white]
    at, table, data = 132 + 12 * len(names), b"", b""
    for name, tag in zip(names, tags, strict=True):
        table += name + struct.pack(">II", at + len(data), len(tag))
        data += tag
    space = b"RGB " if primaries else b"GRAY"
    header = struct.pack(">I4sI4s4s4s", at + len(data), b"\0" * 4, 0x02400000, b"mntr", space, b"XYZ ")
    header = header.ljust(36, b"\0") + b"acsp"
    header = header.ljust(68, b"\0") + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return header.ljust(128, b"\0") + struct.pack(">I", len(names)) + table + data


DISPLAY_P3 = profile((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_wide_profile_is_converted_to_srgb(kind):
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True}
    content = stored(Image.new("RGB", (64, 64), (200, 100, 50)), kind, icc_profile=DISPLAY_P3, **options)
    red, green, blue = read_image(content, CARD).getpixel((9, 9))
    assert 210 < red < 225
    assert 90 < green < 100
    assert 20 < blue < 45


def test_a_grey_profile_is_converted_to_srgb():
    dark, light = (Image.new("L", (64, 64), 128) for _ in range(2))
    shown = [
        read_image(stored(image, icc_profile=profile(gamma=gamma)), CARD).getpixel((0, 0))[0]
        for image, gamma in ((light, 1.0), (dark, 3.0))
    ]
    assert 186 <= shown[0] <= 190
    assert 90 <= shown[1] <= 100


def ink_profile() -> bytes:
    """Make the profile of a printer whose inks are all grey: each but black takes a quarter of the light."""
    corners = bytearray()
    for inks in np.ndindex(2, 2, 2, 2):
        corners += bytes([0 if inks[3] else 255 - 64 * sum(inks[:3]), 128, 128])
    identity = struct.pack(">9i", *(np.eye(3, dtype=int).ravel() * 65536))
    curve = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + curve * 4 + bytes(corners) + curve * 3
    header = struct.pack(">I4sI4s4s4s", 144 + len(table), b"\0" * 4, 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header = header.ljust(36, b"\0") + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I4s2I", 1, b"A2B0", 144, len(table)) + table


def test_a_profile_of_inks_is_converted_to_srgb():
    cyan = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    plain, converted = (
        read_image(stored(cyan, "JPEG", quality=100, icc_profile=icc), CARD).getpixel((9, 9))
        for icc in (None, ink_profile())
    )
    assert max(abs(level - seen) for level, seen in zip(plain, (0, 255, 255), strict=True)) <= 3
    assert max(converted) - min(converted) <= 3
    assert 150 <= converted[0] <= 200


@pytest.mark.parametrize(
    ("image", "icc"),
    [
        (COLOURS, SRGB),
        (COLOURS, b"no profile"),
        (COLOURS, DISPLAY_P3[:200]),
        (COLOURS, profile(gamma=1.0)),
        (GREY, DISPLAY_P3),
        (GREY.convert("RGB"), SRGB),
    ],
    ids=["sRGB", "damaged", "cut off", "a grey one", "a coloured one for greys", "sRGB of greys"],
)
def test_a_profile_that_says_nothing_changes_no_pixel(image, icc):
    assert distance(read_image(stored(image, icc_profile=icc), CARD), image.convert("RGB")) == 0


def moving(kind: str) -> bytes:
    return stored(COLOURS, kind, save_all=True, append_images=[GREY.convert("RGB")])


def decoded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


TRANSPARENT_16 = png(sixteen(np.asarray(COLOURS)), 16, 2, chunk(b"tRNS", b"\1\2" * 3))
NO_PLAIN_MEANING = {
    "32 bits": (Image.fromarray(RAMP.astype(np.int32)), "32 bits"),
    "real numbers to 255": (Image.fromarray(RAMP.astype(np.float32)), "between 0, black, and 1, white"),
    "negative real numbers": (Image.fromarray(RAMP / np.float32(255) - np.float32(0.1)), "between 0, black"),
    "no numbers": (Image.fromarray(np.full((64, 64), np.nan, np.float32)), "between 0, black"),
    "a moving GIF": (Image.open(io.BytesIO(moving("GIF"))), "more than one frame"),
    "a moving PNG": (Image.open(io.BytesIO(moving("PNG"))), "more than one frame"),
    "a moving WebP": (Image.open(io.BytesIO(moving("WEBP"))), "more than one frame"),
    "pages": (Image.open(io.BytesIO(moving("TIFF"))), "more than one frame"),
    "a transparent colour of 16 bits": (Image.open(io.BytesIO(TRANSPARENT_16)), "16 bits a channel"),
    "a transparent colour of 16 bits, decoded before": (decoded(TRANSPARENT_16), "16 bits a channel"),
}


@pytest.mark.parametrize(("image", "says"), NO_PLAIN_MEANING.values(), ids=NO_PLAIN_MEANING.keys())
def test_what_has_no_plain_meaning_is_refused_by_name(image, says):
    with pytest.raises(InvalidPicture, match=says):
        appearance.rgb(image)
    with pytest.raises(InvalidRequest, match=f"images has a picture that cannot be read: it.*{says}") as refusal:
        catalog.validate(order(operation="img2img", images=(image,), strength=0.5), CARD)
    assert refusal.value.param == "images"


BRUSH = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
BRUSH.putalpha(HALF)
SEE_THROUGH = {
    "a brush on a transparent layer": BRUSH,
    "the picture, transparent where to paint": with_alpha("RGBA"),
    "a palette": Image.open(io.BytesIO(stored(PALETTE, transparency=255))),
    "a transparent colour": Image.open(io.BytesIO(stored(KEYED, transparency=(1, 2, 3)))),
    "greys": with_alpha("LA"),
    "premultiplied": with_alpha("La"),
    "all but opaque": Image.new("RGBA", (64, 64), (255, 255, 255, 254)),
    "one pixel": Image.merge("LA", (GREY, Image.fromarray(np.where(RAMP == 9, 0, 255).astype(np.uint8)))),
}


@pytest.mark.parametrize("mask", SEE_THROUGH.values(), ids=SEE_THROUGH.keys())
def test_a_mask_that_is_transparent_anywhere_is_refused(mask):
    request = order(operation="inpaint", images=(COLOURS,), mask=mask, strength=0.5)
    with pytest.raises(InvalidRequest, match="it is transparent in places") as refusal:
        catalog.validate(request, CARD)
    assert refusal.value.param == "mask"
    if mask.mode in ("RGBA", "LA"):
        with pytest.raises(InvalidPicture, match="it is transparent in places"):
            read_mask(stored(mask), CARD)


def test_a_mask_whose_alpha_is_opaque_is_read_by_its_colours():
    opaque = HALF.convert("RGBA")
    catalog.validate(order(operation="inpaint", images=(COLOURS,), mask=opaque, strength=0.5), CARD)
    assert distance(read_mask(stored(opaque), CARD), HALF) == 0


def test_a_mask_of_16_bits_is_white_from_half_on():
    levels = halves(20_000, 65_535).astype(np.uint16)
    for mask in (Image.fromarray(levels), read_mask(stored(Image.fromarray(levels)), CARD)):
        assert pictures.cells(mask, (64, 64)).mean() == 0.5
