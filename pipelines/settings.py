"""The numbers of one generation: defaults filled in, every value checked, sizes snapped and announced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from numbers import Integral, Real
from typing import TypeVar

from videodit.errors import InputError
from videodit.pipelines.conditions import AnyCondition, Frames
from videodit.pipelines.request import Request
from videodit.pipelines.spec import ModelSpec
from videodit.pipelines.storyboard import Storyboard
from videodit.pipelines.windows import latent_window
from videodit.shapes import Size3D, VideoGeometry

Value = TypeVar("Value")

MAX_SIDE = 8192
MAX_TOKENS = 2**20
MAX_STEPS = 1000
MAX_SECONDS = 86_400
_RATES_ALIKE = 0.01  # 23.976 and 24 fps are


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The checked numbers of one generation, every value legal.

    Attributes:
        height: pixels.
        width: pixels.
        num_frames: frames.
        num_inference_steps: steps of the sampler.
        guidance_scale: classifier-free guidance.
        fps: frames per second.
        latent_shape: ``(C, T, H, W)`` of a clip.
        num_tokens: that the transformer sees of a whole clip.
        causal: the first frame is a latent of its own.
        notices: what was adjusted, and where the model was not trained.
        loop: the last frame goes on with the first.
        windows: latent frames that are made at once, and how many of them windows share; ``None``: all at once.
        anchor: of the latent frames that a window shares, the first is the first one of the clip.
        history_noise: the noise level at which a window sees what earlier ones made.
        front: latents in front of the clip's own, among those of ``latent_shape``, which are denoised and no part of
            the clip.
    """

    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    fps: float | Fraction
    latent_shape: tuple[int, int, int, int]
    num_tokens: int
    causal: bool = True
    notices: list[str] = field(default_factory=list)
    loop: bool = False
    windows: tuple[int, int] | None = None
    anchor: bool = False
    history_noise: float = 0.0
    front: int = 0

    @property
    def seconds(self) -> float:
        """How long the clip is."""
        return self.num_frames / float(self.fps)

    @property
    def window_tokens(self) -> int:
        """Tokens that the transformer sees at once."""
        if self.windows is None:
            return self.num_tokens
        return self.num_tokens * self.windows[0] // self.latent_shape[1]

    def divided_tokens(self, *, scenes: bool) -> int:
        """What must be divisible for the tokens of every forward to be.

        A loop has a latent frame more, which comes before its beginning. Scenes of a storyboard see some latent frames,
        any number of them; so each must be divisible.

        Args:
            scenes: the prompt is a storyboard, of a model whose patches are one latent frame long.
        """
        a_frame = self.num_tokens // self.latent_shape[1]
        if scenes and not self.loop:
            return a_frame
        return self.window_tokens + (a_frame if self.loop else 0)


def plan_settings(request: Request, spec: ModelSpec, *, steps: int | None = None) -> Settings:
    """Fill in defaults, check every number, and snap size and frame count to what the model can do.

    Args:
        request: what was asked for.
        spec: the model.
        steps: of lists of noise levels, in place of the request's.

    Returns:
        Legal settings; ``notices`` says what differs from what was asked, and where the model was not trained.

    Raises:
        InputError: a value that no snapping can make legal; the message names it.
    """
    d, notices, geometry = spec.defaults, list[str](), spec.geometry
    if request.loop:
        if not spec.loops or spec.images or geometry.patch.t > 1:
            raise InputError("a loop needs a CausalVideoVAE, and a transformer whose patches are one latent frame long")
        geometry = replace(geometry, causal=False)
    asked = (
        whole_number("height", _or(request.height, d.height), 1, MAX_SIDE),
        whole_number("width", _or(request.width, d.width), 1, MAX_SIDE),
    )
    rate = _or(request.fps, d.fps)
    frames = _asked_frames(request, spec, rate)
    if frames is None:
        frames = _own_frames(request, spec, geometry, float(rate), notices)
    count = whole_number(
        "num_inference_steps", _or(steps, _or(request.num_inference_steps, d.num_inference_steps)), 1, MAX_STEPS
    )
    scale = _or(request.guidance_scale, d.guidance_scale)
    check_scale("guidance_scale", scale)

    size = geometry.snap_size(*asked)
    if size != asked and request.height is None and request.width is None:
        notices.append(f"the clip is {size[1]}x{size[0]}: the nearest to the model's own {d.width}x{d.height}")
    elif size != asked:
        mh, mw = geometry.size_multiple
        notices.append(f"size {asked[1]}x{asked[0]} becomes {size[1]}x{size[0]}: sides must be {_multiples(mw, mh)}")
    legal = geometry.snap_frames(frames)
    if legal != frames:
        notices.append(
            f"{_frames(frames)} become{'s' * (frames == 1)} {legal}: the count must be {geometry.frame_rule}"
        )
    latent = geometry.latent_size(legal, *size)
    front = geometry.padding(latent.t) + spec.decoded_front
    latent = latent._replace(t=latent.t + front)
    tokens = _tokens(spec, geometry, latent, legal, size)
    windows = _windows(spec, legal, size, request, notices)
    own_length = windows is not None or legal == d.num_frames or not _says_length(request)
    if size != (d.height, d.width) or not own_length:
        notices.append(
            f"the model is at its best at {d.width}x{d.height}, {_frames(d.num_frames)}; "
            f"{size[1]}x{size[0]}, {_frames(legal)} may look worse"
        )
    notices += _time_notices(request, spec, legal, float(rate))
    return Settings(
        height=size[0],
        width=size[1],
        num_frames=legal,
        num_inference_steps=count,
        guidance_scale=float(scale),
        fps=rate,
        latent_shape=(spec.latent_channels, *latent),
        num_tokens=tokens,
        causal=spec.geometry.causal,
        notices=notices,
        loop=request.loop,
        windows=windows,
        anchor=windows is not None and _anchored(request, spec),
        history_noise=0.0 if windows is None else _history_noise(request, spec),
        front=front,
    )


def _time_notices(request: Request, spec: ModelSpec, frames: int, rate: float) -> list[str]:
    """What a rate does to motion, and what became of the seconds that were asked for."""
    notices, own = list[str](), float(spec.defaults.fps)
    if not spec.images and abs(rate / own - 1) > _RATES_ALIKE:
        looks = "fast" if rate > own else "slow"
        notices.append(f"the model's own rate is {own:g} fps; at {rate:g} fps what moves may look {looks}")
    if request.seconds is not None and not math.isclose(request.seconds, frames / rate):
        notices.append(f"{request.seconds:g} s becomes {frames / rate:.4g} s, {_frames(frames)}")
    return notices


def _plain(value: object) -> object:
    """A number as people write it: 1e9, not 1000000000.0."""
    return f"{value:g}" if isinstance(value, float) else value


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def _multiples(width: int, height: int) -> str:
    """What sides must be, in words."""
    if width == height:
        return f"multiples of {width}"
    return f"multiples of {width} (width) and {height} (height)"


def _frames(count: int) -> str:
    return f"{count} frame{'' if count == 1 else 's'}"


def _says_length(request: Request) -> bool:
    """Whether a request says how long the clip is to be; else the model does, or the storyboard."""
    return request.num_frames is not None or request.seconds is not None


def _asked_frames(request: Request, spec: ModelSpec, rate: float | Fraction) -> int | None:
    """Frames that were asked for, by their number or by seconds; ``None`` where nothing says it."""
    from videodit.frame_rates import frame_rate

    seconds, most = request.seconds, 1 if spec.images else None
    frame_rate(rate)
    if seconds is None:
        return None if request.num_frames is None else whole_number("num_frames", request.num_frames, 1, most)
    if not isinstance(seconds, Real) or isinstance(seconds, bool) or not 0 < seconds <= MAX_SECONDS:  # type: ignore[operator]
        raise InputError(f"seconds is {_plain(seconds)}; it must be above 0 and at most {MAX_SECONDS}")
    if request.num_frames is not None:
        raise InputError(f"give seconds ({float(seconds):g}) or num_frames ({request.num_frames}), not both")
    return whole_number("num_frames", max(1, round(float(seconds) * float(rate))), 1, most)


def _own_frames(request: Request, spec: ModelSpec, geometry: VideoGeometry, rate: float, notices: list[str]) -> int:
    """A legal length for a request that says none: the model's own, or what a storyboard needs; announced.

    The last scene of a storyboard lasts at least as long as the one before it.
    """
    own, board = spec.defaults.num_frames, request.prompt
    if isinstance(board, Storyboard) and not spec.images and spec.learned_grid is None:
        seconds = board.seconds
        if seconds > MAX_SECONDS:
            raise InputError(f"the storyboard lasts {seconds:g} seconds; at most {MAX_SECONDS} are made")
        needed = math.ceil(seconds * rate - 1e-6)
        if needed > own:
            legal = geometry.snap_frames(needed)
            if legal < needed:
                legal = geometry.snap_frames(needed + geometry.vae_stride.t * geometry.patch.t)
            notices.append(
                f"the storyboard makes the clip {legal / rate:.4g} s long, {legal} frames: "
                "its last scene lasts as long as the one before it"
            )
            return legal
    legal = geometry.snap_frames(own)
    if legal != own:
        what = "loop" if request.loop else "clip"
        notices.append(f"the {what} has {_frames(legal)}: the nearest to the model's own {own} that a {what} can have")
    return legal


def _tokens(spec: ModelSpec, geometry: VideoGeometry, latent: Size3D, frames: int, size: tuple[int, int]) -> int:
    """Tokens of a whole clip, at most as many as there are allowed, and of the one size that learned positions have."""
    grid = geometry.token_size(latent)
    if spec.learned_grid is not None and tuple(grid) != tuple(spec.learned_grid):
        st, sh, sw = (a * b for a, b in zip(geometry.vae_stride, geometry.patch, strict=True))
        t, h, w = spec.learned_grid
        raise InputError(
            f"this model has learned positions and makes {w * sw}x{h * sh}, {(t - 1) * st + 1} frames alone, "
            f"not {size[1]}x{size[0]}, {frames}"
        )
    if grid.numel > MAX_TOKENS:
        raise InputError(
            f"{_frames(frames)} of {size[1]}x{size[0]} are {grid.numel} tokens; the limit is {MAX_TOKENS}: "
            "ask for fewer frames or a smaller size"
        )
    return grid.numel


def _windows(
    spec: ModelSpec, frames: int, size: tuple[int, int], request: Request, notices: list[str]
) -> tuple[int, int] | None:
    """Latent frames of a window and of an overlap, announced; ``None`` where the clip is no longer than one."""
    window, overlap = request.window, request.overlap
    if window is None and overlap is not None and spec.window is None:
        raise InputError(f"overlap is {overlap}, but this model makes a clip at once; set window, too")
    at_once = spec.window if window is None else whole_number("window", window, 1, None)
    noise = _history_noise(request, spec)
    if at_once is None or frames <= at_once:
        by_itself = spec.window is None or frames <= spec.window
        without: dict[str, float | None] = {"window": window if by_itself else None, "overlap": overlap}
        without |= {"anchor": request.anchor, "history_noise": request.history_noise and noise}
        notices += [
            f"{name} is {asked}, but the clip is made at once: it changes nothing"
            for name, asked in without.items()
            if asked
        ]
        return None
    if spec.geometry.padded:
        raise InputError("windows need a transformer whose patches are one latent frame long")
    if spec.decoded_front:
        raise InputError("windows need a model that decodes no latents in front of a clip's own")
    if request.loop:
        raise InputError(f"a loop is made at once, of at most {at_once} frames, got {frames}")
    stride = spec.geometry.vae_stride.t
    if overlap is not None:
        whole_number("overlap", overlap, stride, None)
    anchored = _anchored(request, spec)
    shared = _or(overlap, own_overlap(spec, at_once, anchor=anchored))
    latents = latent_window(spec.geometry, at_once, shared, *size)
    if anchored and latents[1] < 2:
        raise InputError(
            f"overlap is {shared}; with an anchor it must be at least {2 * stride}: the first frame of the clip stands "
            "in the place of the first ones that a window shares"
        )
    more = ", the first frame of the clip among them" if anchored else ""
    notices.append(f"{frames} frames are made in windows of {at_once}, which share {shared}{more}")
    return latents


def own_overlap(spec: ModelSpec, window: int, *, anchor: bool = False) -> int:
    """Frames that windows share where nothing else is asked for: about a third."""
    stride = spec.geometry.vae_stride.t
    return stride * max(1 + anchor, window // (3 * stride))


def _anchored(request: Request, spec: ModelSpec) -> bool:
    """Whether windows see the first frame of the clip: by itself, a model's do where what it shows stays and they have
    the room for it."""
    if request.anchor is not None:
        return request.anchor
    window, stride = _or(request.window, spec.window or 0), spec.geometry.vae_stride.t
    has_room = window > 3 * stride and (request.overlap is None or request.overlap >= 2 * stride)
    return spec.anchor and has_room and not isinstance(request.prompt, Storyboard)


def _history_noise(request: Request, spec: ModelSpec) -> float:
    """The noise level at which windows see what they share."""
    level = _or(request.history_noise, spec.history_noise)
    if not isinstance(level, Real) or isinstance(level, bool) or not 0 <= level < 1:
        raise InputError(f"history_noise must be a number from 0 to below 1, got {level!r}")
    return float(level)


def check_conditions(
    spec: ModelSpec,
    *,
    image: bool = False,
    last_image: bool = False,
    clip: bool = False,
    negative_prompt: str | None = None,
    guidance_scale_2: float | None = None,
) -> None:
    """Check what a clip starts from and is led away from against what the model can take.

    Raises:
        InputError: an image too many or too few, a negative prompt for a model that takes none, or a second scale for
            a model without a second expert.
    """
    if spec.sees_clip and not clip:
        raise InputError("this model edits a clip; give it one by `videodit edit`, or by Edit among the conditions")
    if not spec.takes_pictures and (image or last_image):
        raise InputError("this model makes clips from text alone and takes no image")
    if spec.needs_picture and not image:
        raise InputError("this model starts from an image; give image")
    if last_image and not (spec.keeps_any or spec.keeps_frames) and (not image or not spec.takes_last):
        raise InputError("last_image needs image, and a model that was trained with both")
    if spec.image_tokens is not None and not last_image:
        raise InputError("this model goes from a first image to a last one; give last_image, too")
    if spec.image_dim is not None and spec.image_tokens is None and last_image:
        raise InputError("this model sees one image; it takes no last_image")
    if negative_prompt and not spec.text.guided:
        raise InputError(f"this model has its guidance built in and takes no negative_prompt, got {negative_prompt!r}")
    if guidance_scale_2 is not None and spec.experts < 2:
        raise InputError(
            f"this model has one transformer: guidance_scale_2 is for models with two, got {guidance_scale_2!r}"
        )
    if guidance_scale_2 is not None:
        check_scale("guidance_scale_2", guidance_scale_2)


def check_frames(spec: ModelSpec, conditions: Sequence[AnyCondition], num_frames: int) -> None:
    """Check the places and strengths of frames against what the model can take, whatever they show.

    Raises:
        InputError: a model that takes no frames, or the first one alone; or a strength that it cannot have.
    """
    for one in conditions:
        if not isinstance(one, Frames) or not isinstance(one.at, Integral):
            continue
        if not spec.takes_pictures:
            raise InputError("this model makes clips from text alone and takes no image and no other frames")
        if spec.keeps_any or spec.keeps_frames:
            continue
        first = one.at + num_frames if one.at < 0 else one.at
        if spec.takes_first_alone and 0 < first < num_frames:
            raise InputError(f"this model takes the first frame alone, not frame {first}")
        if isinstance(one.strength, (int, float)) and 0 < one.strength < 1:
            raise InputError("strength must be 1: this model keeps frames as they are")


def check_scale(name: str, value: object) -> None:
    """See that a guidance scale is one.

    Raises:
        InputError: it is no number from 0 to 100.
    """
    if not isinstance(value, Real) or not 0 <= value <= 100:  # type: ignore[operator]  # NaN is neither
        raise InputError(f"{name} must be a number from 0 to 100, got {value}")


def whole_number(name: str, value: float, low: int, high: int | None) -> int:
    """A whole number in its range.

    Raises:
        InputError: it is none, or out of range.
    """
    is_whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if not is_whole or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    if value < low or (high is not None and value > high):
        legal = f"at least {low}" if high is None else f"{low} to {high}"
        raise InputError(f"{name} must be {legal}, got {value}")
    return int(value)
