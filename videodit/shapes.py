"""Pixel, latent and token shapes: the only home of strides, frame rules and size snapping.

A clip of ``num_frames × height × width`` pixels becomes ``T × H × W`` latents, which become
``t × h × w`` tokens. A causal video VAE keeps the first frame apart, so legal frame counts are
``stride_t · k + 1``: 1, 5, 9, … for a temporal stride of 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from videodit.errors import InputError


class Size3D(NamedTuple):
    """Extents along time, height and width."""

    t: int
    h: int
    w: int

    @property
    def numel(self) -> int:
        """The number of cells."""
        return self.t * self.h * self.w

    def __str__(self) -> str:
        return f"{self.t}×{self.h}×{self.w}"


_UNIT = Size3D(1, 1, 1)


@dataclass(frozen=True)
class VideoGeometry:
    """How pixels, latents and tokens of one model relate.

    Args:
        vae_stride: pixels per latent along time, height and width, e.g. ``(4, 8, 8)``.
        patch: latents per token along the same axes, e.g. ``(1, 2, 2)``.
        causal: the first frame is a latent of its own: ``stride·k + 1`` frames; else there are ``stride·k``.
        padded: what a clip's latents lack of whole patches along time stands in front of them, so that any number of
            latents is legal.

    Raises:
        InputError: a stride or patch that is not a positive integer.
    """

    vae_stride: Size3D
    patch: Size3D = _UNIT
    causal: bool = True
    padded: bool = False

    def __post_init__(self) -> None:
        for name in ("vae_stride", "patch"):
            value = getattr(self, name)
            if len(value) != 3 or any(int(v) != v or v < 1 for v in value):
                raise InputError(f"{name} must be three positive integers (time, height, width), got {value!r}")
            object.__setattr__(self, name, Size3D(*map(int, value)))

    # ---- pixels → latents → tokens -------------------------------------------------------------

    def latent_size(self, num_frames: int, height: int, width: int) -> Size3D:
        """Latent extents of a clip in pixels; the clip must be legal for the VAE (not for the patch).

        Raises:
            InputError: a frame count that breaks :attr:`frame_rule` or a side that is no multiple of the stride.
        """
        st, sh, sw = self.vae_stride
        if num_frames < 1 or (num_frames - self._lead) % st:
            below, above = self._frame_neighbours(num_frames)
            raise InputError(
                f"num_frames must be {self.frame_rule} for this VAE, got {num_frames}; "
                f"the nearest are {below} and {above}"
                if below != above
                else f"num_frames must be {self.frame_rule} and at least {below}, got {num_frames}"
            )
        for name, value, stride in (("height", height, sh), ("width", width, sw)):
            if value < stride or value % stride:
                raise InputError(f"{name} must be a positive multiple of {stride}, got {value}")
        return Size3D((num_frames - self._lead) // st + self._lead, height // sh, width // sw)

    def token_size(self, latent: Size3D) -> Size3D:
        """Token extents of a latent grid.

        Raises:
            InputError: a latent extent that is no multiple of the patch.
        """
        latent = latent._replace(t=latent.t + self.padding(latent.t))
        for name, value, patch in zip(("frames", "height", "width"), latent, self.patch, strict=True):
            if value < patch or value % patch:
                raise InputError(f"latent {name} must be a positive multiple of the patch {patch}, got {value}")
        return Size3D(*(value // patch for value, patch in zip(latent, self.patch, strict=True)))

    def padding(self, latent_frames: int) -> int:
        """How many latents stand in front of a clip's own."""
        return -latent_frames % self.patch.t if self.padded else 0

    def num_tokens(self, num_frames: int, height: int, width: int) -> int:
        """Sequence length that the transformer sees for a clip in pixels."""
        return self.token_size(self.latent_size(num_frames, height, width)).numel

    # ---- latents → pixels ----------------------------------------------------------------------

    def pixel_size(self, latent: Size3D) -> Size3D:
        """Frames, height and width that a latent grid decodes to."""
        st, sh, sw = self.vae_stride
        return Size3D((latent.t - self._lead) * st + self._lead, latent.h * sh, latent.w * sw)

    def frames_of(self, latent: int) -> range:
        """The frames that one latent frame stands for."""
        stride, lead = self.vae_stride.t, self._lead
        if latent < lead:
            return range(1)
        first = (latent - lead) * stride + lead
        return range(first, first + stride)

    # ---- snapping to what is legal -------------------------------------------------------------

    @property
    def _lead(self) -> int:
        return 1 if self.causal else 0

    @property
    def frame_rule(self) -> str:
        """What frame counts are: ``"4k+1"`` or ``"4k"`` for a stride of 4."""
        return f"{self.vae_stride.t}k" + ("+1" if self.causal else "")

    @property
    def size_multiple(self) -> tuple[int, int]:
        """Height and width must be multiples of these, in pixels."""
        return self.vae_stride.h * self.patch.h, self.vae_stride.w * self.patch.w

    def snap_frames(self, num_frames: int) -> int:
        """The nearest legal frame count, ties upwards. Callers announce a change.

        Raises:
            InputError: fewer than one frame.
        """
        if num_frames < 1:
            raise InputError(f"num_frames must be at least 1, got {num_frames}")
        below, above = self._frame_neighbours(num_frames)
        return below if num_frames - below < above - num_frames else above

    def snap_size(self, height: int, width: int) -> tuple[int, int]:
        """The nearest legal height and width, ties upwards, never below one multiple. Callers announce a change.

        Raises:
            InputError: a side below one pixel.
        """
        for name, value in (("height", height), ("width", width)):
            if value < 1:
                raise InputError(f"{name} must be at least 1 pixel, got {value}")
        mh, mw = self.size_multiple
        return max(mh, (height + mh // 2) // mh * mh), max(mw, (width + mw // 2) // mw * mw)

    def _frame_neighbours(self, num_frames: int) -> tuple[int, int]:
        # A temporal patch p groups p latent frames: their number must be a multiple of p.
        st, pt, lead = self.vae_stride.t, 1 if self.padded else self.patch.t, self._lead
        rest = max(0, num_frames - lead)
        below = max(pt, (rest // st + lead) // pt * pt)
        above = max(pt, -(-(-(-rest // st) + lead) // pt) * pt)  # -(-a // b) rounds up
        return (below - lead) * st + lead, (above - lead) * st + lead
