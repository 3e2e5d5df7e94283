"""Pictures that are large inside, animated, damaged, or of rare kinds: the same answer for commands and data tools."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from clips_made import numbered_frames
from PIL import Image

from videodit.datasets.clips.reading.readers import open_clip
from videodit.datasets.clips.reading.records import Media
from videodit.datasets.clips.scanning.worker import answer
from videodit.errors import InputError
from videodit.pipelines.pixels import open_picture, read_frames

PICTURE = Image.fromarray(numbered_frames(1)[0])


def png(**options: object) -> bytes:
    stream = io.BytesIO()
    PICTURE.save(stream, "PNG", **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(*chunks: bytes, at_end: bool = False) -> bytes:
    content = png()
    at = content.index(b"IEND") - 4 if at_end else 33  # behind the header
    return content[:at] + b"".join(chunks) + content[at:]


def seen(path: Path) -> np.ndarray:
    """The pixels of a picture, about which all that reads pictures must agree."""
    frames, _ = read_frames(path)
    with open_clip(Media(path)) as clip:
        assert (clip.frames([0]) == frames).all()
    assert (np.asarray(open_picture(path)) == frames[0]).all()
    return frames[0]


def refused(path: Path) -> str:
    """Why a picture is refused, which must be the same everywhere."""
    request = {"task": "look", "reader": "pyav", "path": str(path), "offset": 0, "size": None, "fps": None}
    reasons = [answer({**request, "ranges": [(0.0, None)]}, lambda: None)["reason"]]
    for read in (read_frames, open_picture):
        with pytest.raises(InputError) as caught:
            read(path)
        reasons.append(str(caught.value).partition("': ")[2])
    assert len(set(reasons)) == 1, reasons
    return reasons[0]


# ---- what unpacks to more than it looks ------------------------------------------------------------


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("name", ["zTXt", "iTXt", "iCCP"])
def test_a_chunk_that_unpacks_to_a_lot_is_refused(tmp_path: Path, name: str, at_end: bool) -> None:
    head = {"zTXt": b"a\0\0", "iTXt": b"a\0\1\0\0\0", "iCCP": b"a\0\0"}[name]
    bomb = chunk(name.encode(), head + zlib.compress(bytes(50_000_000), 9))
    (tmp_path / "bomb.png").write_bytes(with_chunks(bomb, at_end=at_end))
    assert refused(tmp_path / "bomb.png").startswith("its texts or its colour profile unpack to over 1 MB")


def test_many_chunks_that_unpack_to_a_lot_are_refused(tmp_path: Path) -> None:
    chunks = [chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(900_000), 9)) for i in range(80)]
    (tmp_path / "bomb.png").write_bytes(with_chunks(*chunks))
    assert "or 64 MB in all" in refused(tmp_path / "bomb.png")


def test_damaged_and_huge_exif_is_told_and_changes_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "huge.png").write_bytes(with_chunks(chunk(b"eXIf", b"MM\0*" + b"x" * 5_000_000)))
    assert (seen(tmp_path / "huge.png") == np.asarray(PICTURE)).all()
    assert read_frames(tmp_path / "huge.png")[1] == [
        "huge.png: its EXIF data is damaged, so that it is taken as it is stored"
    ]
    stream = io.BytesIO()
    PICTURE.save(stream, "JPEG", quality=95)
    part = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(65000)
    segments = (b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part) * 30
    (tmp_path / "huge.jpg").write_bytes(stream.getvalue()[:2] + segments + stream.getvalue()[2:])
    assert np.abs(seen(tmp_path / "huge.jpg").astype(int) - np.asarray(PICTURE)).mean() < 5
    assert not recwarn.list


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_every_turn_of_a_camera_is_undone(tmp_path: Path, suffix: str, orientation: int) -> None:
    """By the definition of EXIF: where the stored picture's first row and first column are to be seen."""
    flat = np.zeros((32, 48, 3), np.uint8)
    flat[:16, :24], flat[:16, 24:], flat[16:, :24] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    stored = {
        1: flat, 2: flat[:, ::-1], 3: flat[::-1, ::-1], 4: flat[::-1],
        5: flat.swapaxes(0, 1), 6: np.rot90(flat), 7: np.rot90(flat, 2).swapaxes(0, 1), 8: np.rot90(flat, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {"lossless": True}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a{suffix}", exif=exif, **options)
    pixels = seen(tmp_path / f"a{suffix}")
    assert pixels.shape == flat.shape
    assert np.abs(pixels.astype(int) - flat)[4:-4:8, 4:-4:8].max() < 8


# ---- kinds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".avif"])
def test_animations_are_no_pictures(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif":
        from PIL import features

        if not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
    images = [Image.fromarray(frame) for frame in numbered_frames(3)]
    images[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=images[1:])
    assert refused(tmp_path / f"a{suffix}") == "it is an animated image; make a video of it"


def test_an_animation_of_one_frame_is_a_picture(tmp_path: Path) -> None:
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 48, 0, 0, 1, 25, 0, 0))
    (tmp_path / "a.png").write_bytes(with_chunks(chunk(b"acTL", struct.pack(">II", 1, 0)), control))
    assert (seen(tmp_path / "a.png") == np.asarray(PICTURE)).all()


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_rare_kinds_of_pixels_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".tif" if mode in ("CMYK", "YCbCr", "LAB") else ".png"
    picture = PICTURE.quantize(256) if mode == "P" else PICTURE.convert(mode)
    picture.save(tmp_path / f"a{suffix}")
    right = PICTURE.convert("L" if mode in ("LA", "L", "1") else "RGB").convert("RGB")
    limit = {"1": 140, "P": 8, "LAB": 6, "YCbCr": 2}.get(mode, 0)
    assert np.abs(seen(tmp_path / f"a{suffix}").astype(int) - np.asarray(right)).mean() <= limit


@pytest.mark.parametrize("colour", [2, 6], ids=["rgb", "rgba"])
def test_colours_of_16_bits_become_8(tmp_path: Path, colour: int) -> None:
    pixels = numbered_frames(1)[0]
    stored = pixels if colour == 2 else np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in stored)
    head = struct.pack(">IIBBBBB", 64, 48, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    assert (seen(tmp_path / "a.png") == pixels).all()


@pytest.mark.parametrize("name", ["grey16.png", "floats.tif", "grey32.tif"])
def test_what_8_bits_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    grey = numbered_frames(1)[0, ..., 0]
    dtype = {"grey16.png": np.uint16, "floats.tif": np.float32, "grey32.tif": np.int32}[name]
    Image.fromarray(grey.astype(dtype)).save(tmp_path / name)
    assert "bring them to 8 bits first" in refused(tmp_path / name)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_pictures_are_refused(tmp_path: Path, transfer: int, name: str) -> None:
    (tmp_path / "a.png").write_bytes(with_chunks(chunk(b"cICP", bytes([9, transfer, 0, 1]))))
    assert refused(tmp_path / "a.png") == f"its colours are HDR ({name}); map its tones to SDR first"


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_avif_is_refused(tmp_path: Path, transfer: int, name: str) -> None:
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    PICTURE.save(tmp_path / "a.avif")
    content = (tmp_path / "a.avif").read_bytes()
    at = content.index(b"colrnclx") + 10
    (tmp_path / "b.avif").write_bytes(content[:at] + struct.pack(">H", transfer) + content[at + 2 :])
    seen(tmp_path / "a.avif")
    assert refused(tmp_path / "b.avif") == f"its colours are HDR ({name}); map its tones to SDR first"
