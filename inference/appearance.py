"""What a viewer shows of a picture: upright, in 8 bits of sRGB, on white where it is transparent.

Pictures come with 1 to 16 bits or real numbers, with palettes, colour profiles, alpha, and an orientation beside their
pixels. Everything that looks at an input picture looks at it through this module, so that the model sees what its
sender sees. What has no plain meaning is refused by name. Loads no torch.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageCms
from PIL.Image import Transpose

from inference.errors import InvalidPicture

if TYPE_CHECKING:
    import numpy.typing as npt

# the orientations of EXIF, but for 1, which is upright
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
# how a PNG's samples of fewer than 8 bits become 8 bits
_SPREAD = {"L;2": 85, "L;4": 17}
_OF_16_BITS = "16 bits"
_SRGB = ImageCms.createProfile("sRGB")
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# a profile that moves no colour by more than this, of 255, is sRGB, whose pixels are kept as they are
_ROUNDING = 2


def rgb(image: Image.Image) -> Image.Image:
    """Return a picture as RGB. Raises InvalidPicture if it cannot be decoded, or has no plain meaning.

    A plain RGB picture is returned as it is.
    """
    shown, alpha = _shown(image)
    if alpha is not None:
        white = Image.new("RGB", shown.size, "white")
        white.paste(shown, mask=alpha)
        shown = white
    return shown if shown is image else _upright(shown, image)


def grey(mask: Image.Image) -> Image.Image:
    """Return a mask as greys, "L". Raises InvalidPicture as `rgb` does, and if any of it is transparent."""
    shown, alpha = _shown(mask)
    if alpha is not None and alpha.getextrema()[0] != 255:
        raise InvalidPicture("it is transparent in places, and white alone says where a mask repaints")
    return _upright(shown.convert("L"), mask)


def holes(mask: Image.Image) -> Image.Image | None:
    """Return a mask as greys, white where it is transparent; None if it is opaque. Raises InvalidPicture."""
    _, alpha = _shown(mask)
    if alpha is None or alpha.getextrema()[0] == 255:
        return None
    return _upright(ImageChops.invert(alpha), mask)


def _shown(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return a picture's colours, RGB, and its alpha, "L", None if it has none; both not turned upright yet."""
    try:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # whose other frames are not for viewers
            raise InvalidPicture("it has more than one frame, so it is not clear which is meant")
        _settle_transparent_colour(image)
        image.load()
        if image.mode == "RGB" and not {"transparency", "icc_profile", "exif"} & image.info.keys():
            return image, None
        colours, alpha = _layers(image)
        return _in_srgb(colours, image.info.get("icc_profile")), alpha
    except InvalidPicture:
        raise
    except Exception as error:  # decoders raise whatever they stumble over
        raise InvalidPicture("it is damaged, cut off or of a rare kind, and cannot be decoded") from error


def _settle_transparent_colour(image: Image.Image) -> None:
    """Say the transparent colour of a PNG, as long as that is not decoded, in the numbers that its pixels will have.

    Pillow makes 8 bits of samples of 2, 4 and 16, and leaves the transparent one as it is stored.
    """
    tiles = getattr(image, "tile", None)
    if "transparency" in image.info and tiles and tiles[0].codec_name == "zip":
        if tiles[0].args in _SPREAD:
            image.info["transparency"] *= _SPREAD[tiles[0].args]
        if tiles[0].args == "RGB;16B":
            image.info["transparency"] = _OF_16_BITS


def _layers(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours, as L, RGB or CMYK of 8 bits, and the alpha."""
    key = image.info.get("transparency")
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    elif image.mode == "PA" or (image.mode == "P" and image.has_transparency_data):
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        *bands, alpha = image.split()
        return Image.merge(image.mode[:-1], bands), alpha
    has_key = key is not None and image.mode in ("1", "L", "I;16", "RGB")
    return _eight_bits(image), _but(image, key) if has_key else None


def _but(image: Image.Image, key: Any) -> Image.Image:
    """Return the alpha of a picture of which one colour, `key`, is transparent."""
    # one that was decoded before it came here still has its number of 16 bits
    if key == _OF_16_BITS or (image.mode == "RGB" and max(key) > 255):
        raise InvalidPicture("its transparent colour has 16 bits a channel; save it with an alpha channel")
    same = np.asarray(image.convert("L") if image.mode == "1" else image) == np.asarray(key)
    opaque = ~(same.all(axis=-1) if same.ndim == 3 else same)
    return Image.fromarray(opaque.astype(np.uint8) * 255)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I;16"):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(np.rint(_shares(np.asarray(image)) * 255).astype(np.uint8))
    if image.mode == "I":
        raise InvalidPicture("its numbers have 32 bits, which do not say how large white is; save it with 8 or 16")
    return image.convert("RGB")


def _shares(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return real numbers if all of them are shares of white."""
    if not ((numbers >= 0) & (numbers <= 1)).all():
        raise InvalidPicture("its real numbers do not all lie between 0, black, and 1, white")
    return numbers


def _in_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """Convert colours to sRGB; a profile that is damaged or of other colours is ignored, as viewers do."""
    if not isinstance(profile, bytes):
        return image.convert("RGB")
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if given.profile.xcolor_space.strip() != _SPACES[image.mode]:
            return image.convert("RGB")
        transform = ImageCms.buildTransform(given, _SRGB, image.mode, "RGB")
    except (OSError, ImageCms.PyCMSError):
        return image.convert("RGB")
    return image.convert("RGB") if _is_srgb(transform) else transform.apply(image)


def _is_srgb(transform: ImageCms.ImageCmsTransform) -> bool:
    if transform.input_mode == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * 3), axis=-1).reshape(1, -1, 3)
    colours = Image.fromarray(grid if transform.input_mode == "RGB" else grid[..., 0])
    before, after = (np.asarray(each, dtype=int) for each in (colours.convert("RGB"), transform.apply(colours)))
    return bool(np.abs(after - before).max() <= _ROUNDING)


def _upright(shown: Image.Image, image: Image.Image) -> Image.Image:
    """Turn colours as the picture's EXIF data say, and leave nothing beside its pixels."""
    turn = _TURNS.get(_orientation(image.info.get("exif")))
    turned = shown if turn is None else shown.transpose(turn)
    turned.info = {}
    return turned


def _orientation(exif: Any) -> int:
    """Return the orientation in EXIF data, 1 if there is none.

    Read here, since Pillow parses all fields, and warns of each that is odd.
    """
    tiff = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, short = struct.unpack_from(f"{order}HHIH", tiff, at)
            if tag == _ORIENTATION:
                (value,) = (short,) if kind == 3 else struct.unpack_from(f"{order}I", tiff, at + 8)
                return int(value)
    except struct.error:  # cut off
        pass
    return 1
