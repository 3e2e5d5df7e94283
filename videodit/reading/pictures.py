"""Pictures as 8-bit sRGB, upright: their formats, colour profiles, orientation, and what is refused."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image

from videodit.errors import InputError
from videodit.limits import current_limits
from videodit.reading.files import Media, Unreadable, check_file

__all__ = [
    "Picture",
    "check_opaque",
    "frames_of",
    "is_picture",
    "open_picture",
    "picture_kind",
    "read_picture",
    "to_rgb",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
# What a file begins with, and the only Pillow plugin that may then open it. Others (EPS runs a program) never do.
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_DEGREES = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}
_SRGB_GAMMA = 0.45455
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_HEAD = 2**16  # bytes of an AVIF that tell its colours
_GLOBALS = threading.Lock()  # around what changes a setting of Pillow or Python, which all threads share


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was read.

    Attributes:
        pixels: uint8 sRGB ``[H, W, 3]``, upright.
        kind: Pillow's name of the format.
        mode: Pillow's name of the stored pixels' kind.
        rotation: by how many degrees clockwise the stored picture was turned.
        notices: what a user should know.
    """

    pixels: np.ndarray
    kind: str
    mode: str
    rotation: int
    notices: tuple[str, ...]


def is_picture(media: Media) -> bool:
    """Whether the file begins like a picture, whatever its name.

    Raises:
        Unreadable: it is not a regular file, or empty.
        OSError: it cannot be opened.
    """
    return picture_kind(media) is not None


def picture_kind(media: Media) -> str | None:
    """Pillow's name of a picture's format by how the file begins, or None; see :func:`is_picture`."""
    check_file(media)
    with media.open() as file:
        return _kind_of(file)


def read_picture(media: Media) -> Picture:
    """A picture file as 8-bit sRGB.

    Raises:
        Unreadable: another format, damage, an animation, transparency, more than 8 bits or HDR.
        InputError: more pixels or bytes than the limits allow.
        OSError: the file cannot be opened.
    """
    check_file(media)
    with media.open() as file:
        kind = _kind_of(file)
        if kind is None:
            kinds = ", ".join(sorted({*_MAGIC.values(), "WEBP", "AVIF"}))
            raise Unreadable(f"it is not a picture of a kind that is read here ({kinds})")
        file.seek(0)
        try:
            told: list[warnings.WarningMessage] = []
            with _open(file, kind, told) as image:
                size = f"{image.width}x{image.height}"
                current_limits().check("picture_pixels", image.width * image.height, f"it has {size} pixels")
                if image.format != "MPO" and getattr(image, "is_animated", False):
                    raise Unreadable("it is an animated image; make a video of it")
                if kind == "PNG":
                    _check_png(file)
                if kind == "AVIF":
                    _check_avif(file)
                image.load()
                turned, damage = _orientation(image, told)
                rgb, notices = to_rgb(image)
                mode, pixels = image.mode, np.asarray(rgb.transpose(_TURNS[turned]) if turned in _TURNS else rgb)
        except (Unreadable, InputError, MemoryError):
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything for damaged files
            if "MAX_TEXT" in str(error):
                raise Unreadable(
                    "its texts or its colour profile unpack to over 1 MB each or 64 MB in all; save it without them"
                ) from error
            raise Unreadable(f"the image does not decode: {str(error) or type(error).__name__}") from error
    return Picture(pixels, kind, mode, _DEGREES.get(turned, 0), (*damage, *notices))


def frames_of(path: Path, kind: str, choose: Callable[[int], Sequence[int]]) -> list[np.ndarray]:
    """Frames of a picture or an animation that videodit has just written, uint8 ``[H, W, 3]``.

    Args:
        path: of the file.
        kind: Pillow's name of its format.
        choose: gives the numbers of the frames that are wanted, for how many there are.
    """
    frames = []
    with PIL.Image.open(path, formats=[kind]) as image:
        for index in choose(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
    return frames


def to_rgb(image: PIL.Image.Image) -> tuple[PIL.Image.Image, list[str]]:
    """A picture as 8-bit sRGB, and what should be announced.

    An embedded colour profile, or else a PNG's gamma, is applied; a damaged profile is announced and left out.

    Raises:
        Unreadable: transparency, or pixels of more than 8 bits.
    """
    if image.mode.startswith(("I", "F")):
        raise Unreadable(f"it has pixels of mode {image.mode}; bring them to 8 bits first")
    check_opaque(image)
    profile = image.info.get("icc_profile")
    if profile:
        return _managed(image, profile)
    rgb = image.convert("RGB")
    gamma = image.info.get("gamma")
    if gamma and "srgb" not in image.info and 0.01 < gamma < 10 and abs(gamma - _SRGB_GAMMA) > 0.01:
        curve = [round(255 * (value / 255) ** (_SRGB_GAMMA / gamma)) for value in range(256)]
        return rgb.point(curve * 3), [f"its gamma of {gamma:g} is brought to sRGB's"]
    return rgb, []


def check_opaque(image: PIL.Image.Image) -> None:
    """Raises Unreadable for a picture that lets anything shine through."""
    see_through = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    if see_through and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise Unreadable("it is transparent in places: flatten its alpha channel onto a background first")


def _managed(image: PIL.Image.Image, profile: bytes) -> tuple[PIL.Image.Image, list[str]]:
    from PIL import ImageCms

    if image.mode in ("P", "1", "PA", "RGBA", "RGBX", "RGBa"):
        image = image.convert("RGB")
    elif image.mode in ("LA", "La"):
        image = image.convert("L")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if {"RGB": ("RGB",), "GRAY": ("L",), "CMYK": ("CMYK",), "Lab": ("LAB",)}.get(space, ()) != (image.mode,):
            return image.convert("RGB"), [f"its colour profile is for {space}, not for its pixels, and is left out"]
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB", renderingIntent=ImageCms.Intent.PERCEPTUAL
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return image.convert("RGB"), [f"its colour profile cannot be used and is left out: {error}"]
    assert converted is not None
    return converted, []


def _kind_of(file: BinaryIO) -> str | None:
    file.seek(0)
    head = file.read(32)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and (b"avif" in head[8:] or b"avis" in head[8:]):
        return "AVIF"
    return None


def open_picture(file: BinaryIO, kind: str, name: str = "the image") -> PIL.Image.Image:
    """A picture or an animation, before its pixels are decoded.

    Args:
        file: its bytes.
        kind: Pillow's name of the format, the only one that may open it.
        name: for messages.

    Raises:
        Unreadable: it is damaged.
    """
    try:
        return _open(file, kind, [])
    except Exception as error:  # Pillow's plugins raise nearly anything for damaged files
        raise Unreadable(f"{name} does not decode: {str(error) or type(error).__name__}") from error


def _open(file: BinaryIO, kind: str, told: list[warnings.WarningMessage]) -> PIL.Image.Image:
    """The picture, before its pixels are decoded. Its size is checked by our own limit in place of Pillow's."""
    with warnings_to(told):
        most, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            return PIL.Image.open(file, formats=[kind])
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = most


@contextlib.contextmanager
def warnings_to(told: list[warnings.WarningMessage]) -> Iterator[None]:
    with _GLOBALS, warnings.catch_warnings(record=True) as new:
        warnings.simplefilter("always")
        yield
    told.extend(new)


def _orientation(image: PIL.Image.Image, told: list[warnings.WarningMessage]) -> tuple[int, list[str]]:
    """How a picture is to be turned, as EXIF numbers it, and what should be announced.

    Args:
        image: decoded.
        told: Pillow's warnings so far.
    """
    with warnings_to(told):
        try:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1)
        except Exception:  # of nearly any kind, for damaged data
            turned = None
    damaged = any(word in str(one.message).lower() for one in told for word in ("exif", "tag "))
    if turned is None or (damaged and turned == 1):
        return 1, ["its EXIF data is damaged, so that it is taken as it is stored"]
    return turned, []


def _check_avif(file: BinaryIO) -> None:
    """Refuse HDR, which the box ``colr`` tells and Pillow does not look at."""
    place = file.tell()
    file.seek(0)
    _, found, rest = file.read(_HEAD).partition(b"colrnclx")
    transfer = int.from_bytes(rest[2:4], "big")
    if found and transfer in _HDR_TRANSFERS:
        raise Unreadable(f"its colours are HDR ({_HDR_TRANSFERS[transfer]}); map its tones to SDR first")
    file.seek(place)


def _check_png(file: BinaryIO) -> None:
    """Refuse HDR, which the chunk ``cICP`` tells and Pillow does not look at."""
    place = file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"cICP":
            transfer = file.read(4)[1:2]
            if transfer and transfer[0] in _HDR_TRANSFERS:
                raise Unreadable(f"its colours are HDR ({_HDR_TRANSFERS[transfer[0]]}); map its tones to SDR first")
            break
        file.seek(size + 4, 1)
    file.seek(place)
