"""Pixel, latent and token shapes: what is legal, what is refused, and where snapping leads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from videodit.shapes import Size3D, VideoGeometry

WAN = VideoGeometry(Size3D(4, 8, 8), Size3D(1, 2, 2))
WAN_22 = VideoGeometry(Size3D(4, 16, 16), Size3D(1, 2, 2))
TIME_PATCH = VideoGeometry(Size3D(4, 8, 8), Size3D(2, 2, 2))
ODD = VideoGeometry(Size3D(3, 6, 10), Size3D(2, 3, 1))
PIXELS = VideoGeometry(Size3D(1, 1, 1))
GEOMETRIES = {"wan": WAN, "wan2.2": WAN_22, "time patch": TIME_PATCH, "odd": ODD, "pixels": PIXELS}

every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def is_legal(count: Callable[[int], int], value: int) -> bool:
    try:
        return count(value) > 0
    except ValueError:
        return False


def nearest(legal: list[int], value: int) -> int:
    """The nearest legal value, the larger of two."""
    return min(legal, key=lambda candidate: (abs(candidate - value), -candidate))


def test_size_counts_and_prints_its_cells() -> None:
    assert Size3D(21, 60, 104).numel == 131_040
    assert str(Size3D(21, 60, 104)) == "21×60×104"


# --- pixels, latents, tokens ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("geometry", "pixels", "latent"),
    [
        (WAN, (1, 8, 8), (1, 1, 1)),
        (WAN, (5, 16, 24), (2, 2, 3)),
        (WAN, (81, 480, 832), (21, 60, 104)),
        (WAN_22, (121, 704, 1280), (31, 44, 80)),
        (ODD, (4, 6, 30), (2, 1, 3)),
        (PIXELS, (6, 7, 9), (6, 7, 9)),
    ],
)
def test_pixels_to_latents_and_back(geometry: VideoGeometry, pixels: tuple[int, ...], latent: tuple[int, ...]) -> None:
    assert geometry.latent_size(*pixels) == latent
    assert geometry.pixel_size(Size3D(*latent)) == pixels


@pytest.mark.parametrize(
    ("geometry", "pixels", "tokens"),
    [
        (WAN, (81, 480, 832), 32_760),
        (WAN_22, (121, 704, 1280), 27_280),
        (TIME_PATCH, (5, 32, 16), 2),
        (ODD, (4, 18, 10), 1),
    ],
)
def test_token_count(geometry: VideoGeometry, pixels: tuple[int, int, int], tokens: int) -> None:
    assert geometry.num_tokens(*pixels) == tokens


def test_token_grid_divides_each_axis_by_its_patch() -> None:
    assert VideoGeometry(Size3D(1, 1, 1), Size3D(2, 3, 5)).token_size(Size3D(4, 9, 5)) == (2, 3, 1)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (2, r"4k\+1 .* got 2; the nearest are 1 and 5"),
        (16, r"got 16; the nearest are 13 and 17"),
        (80, r"got 80; the nearest are 77 and 81"),
        (0, r"at least 1, got 0"),
        (-4, r"at least 1, got -4"),
    ],
)
def test_illegal_frame_count_is_named_with_its_neighbours(frames: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WAN.latent_size(frames, 64, 64)


def test_neighbours_of_an_illegal_frame_count_fit_the_patch() -> None:
    with pytest.raises(ValueError, match="got 8; the nearest are 5 and 13"):
        TIME_PATCH.latent_size(8, 64, 64)


@pytest.mark.parametrize("side", [0, -8, 7, 12])
@pytest.mark.parametrize("name", ["height", "width"])
def test_illegal_side_is_named(name: str, side: int) -> None:
    sides = {"height": 64, "width": 64, name: side}
    with pytest.raises(ValueError, match=f"{name} must be a positive multiple of 8, got {side}"):
        WAN.latent_size(1, **sides)


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        ((3, 4, 4), "latent frames must be a positive multiple of the patch 2, got 3"),
        ((2, 5, 4), "latent height must be a positive multiple of the patch 2, got 5"),
        ((2, 4, 0), "latent width must be a positive multiple of the patch 2, got 0"),
    ],
)
def test_latent_that_the_patch_does_not_divide_is_named(latent: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TIME_PATCH.token_size(Size3D(*latent))


@pytest.mark.parametrize("name", ["vae_stride", "patch"])
@pytest.mark.parametrize("value", [(4, 8), (4, 8, 8, 8), (0, 8, 8), (4, -8, 8), (4, 8, 1.5)])
def test_geometry_refuses_what_is_no_triple_of_positive_integers(name: str, value: tuple) -> None:
    arguments = {"vae_stride": (4, 8, 8), name: value}
    with pytest.raises(ValueError) as error:
        VideoGeometry(**arguments)  # type: ignore[arg-type]
    assert str(error.value).startswith(f"{name} must be three positive integers")
    assert str(value) in str(error.value)


def test_geometry_takes_plain_tuples() -> None:
    geometry = VideoGeometry((4, 8, 8), (1, 2, 2))  # type: ignore[arg-type]
    assert geometry == WAN
    assert geometry.vae_stride.t == 4


# --- snapping ------------------------------------------------------------------------------------


@every_geometry
def test_frames_snap_to_the_nearest_legal_count(geometry: VideoGeometry) -> None:
    height, width = geometry.size_multiple
    legal = [n for n in range(1, 120) if is_legal(lambda n: geometry.num_tokens(n, height, width), n)]
    for frames in range(1, 100):
        assert geometry.snap_frames(frames) == nearest(legal, frames)


@every_geometry
def test_sides_snap_to_the_nearest_legal_size(geometry: VideoGeometry) -> None:
    frames = geometry.snap_frames(1)
    height, width = geometry.size_multiple
    legal_heights = [n for n in range(1, 140) if is_legal(lambda n: geometry.num_tokens(frames, n, width), n)]
    legal_widths = [n for n in range(1, 140) if is_legal(lambda n: geometry.num_tokens(frames, height, n), n)]
    for side in range(1, 100):
        assert geometry.snap_size(side, side) == (nearest(legal_heights, side), nearest(legal_widths, side))


@pytest.mark.parametrize(("frames", "snapped"), [(1, 1), (2, 1), (3, 5), (4, 5), (79, 81), (81, 81)])
def test_frames_halfway_between_snap_upwards(frames: int, snapped: int) -> None:
    assert WAN.snap_frames(frames) == snapped


@pytest.mark.parametrize("frames", [0, -1])
def test_fewer_than_one_frame_does_not_snap(frames: int) -> None:
    with pytest.raises(ValueError, match=f"num_frames must be at least 1, got {frames}"):
        WAN.snap_frames(frames)


@pytest.mark.parametrize(("sides", "message"), [((0, 8), "height .* got 0"), ((8, -5), "width .* got -5")])
def test_sides_below_one_pixel_do_not_snap(sides: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WAN.snap_size(*sides)


def test_padded_latents_fill_whole_patches_and_any_number_is_legal() -> None:
    geometry = VideoGeometry(Size3D(4, 8, 8), Size3D(2, 2, 2), padded=True)
    assert [geometry.padding(frames) for frames in (1, 2, 3, 4)] == [1, 0, 1, 0]
    assert geometry.snap_frames(81) == 81
    assert geometry.latent_size(81, 32, 32) == (21, 4, 4)
    assert geometry.token_size(Size3D(21, 4, 4)) == (11, 2, 2)
    assert VideoGeometry(Size3D(4, 8, 8), Size3D(2, 2, 2)).snap_frames(81) == 85
