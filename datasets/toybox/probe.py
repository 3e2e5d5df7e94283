"""The probe: a small network that reads a toybox clip's pixels and names what they show.

`ToyboxProbe.read` gives a `Reading` of each clip: its objects, each with shape, colour, size and motion, and the
clip's ground, light, camera and interaction. `match` compares a reading with the scene that a prompt described,
`adherence` does so for many clips.

The network finds objects as peaks of a heat map of their centres in the middle frame (Zhou et al., "Objects as
Points", 2019) and reads their attributes there. All its convolutions are two-dimensional; frames exchange information
by channels that are shifted in time (Lin et al., "TSM", 2019), so it takes clips of any length.

Letters: ``B`` clips, ``T`` frames, ``H W`` pixels, ``C`` channels, ``K`` classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import permutations
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from videodit.datasets.toybox.scene import (
    CAMERAS,
    COLORS,
    GROUNDS,
    INTERACTIONS,
    LIGHTS,
    MOTIONS,
    SHAPES,
    SIZES,
    Scene,
)
from videodit.errors import InputError
from videodit.weights import check_model_finite

OBJECT_ATTRIBUTES: dict[str, tuple[str, ...]] = {"shape": SHAPES, "color": COLORS, "size": SIZES, "motion": MOTIONS}
"""The attributes of an object, each with its words in the order of the network's outputs."""
CLIP_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "ground": GROUNDS,
    "light": LIGHTS,
    "camera": CAMERAS,
    "interaction": INTERACTIONS,
}
"""The attributes of a whole clip, in the same form as those of an object."""
IN_TIME = ("motion", "camera", "interaction")
"""Attributes that one frame does not show."""

MATCH_MEASURES = ("count", "bound", "bound_motion", "all")
"""Measures of all objects of a clip together, fields and properties of `Match`."""

AREA = 64 * 64
"""Frames are scaled to about this many pixels before they are read."""
STRIDE = 2
"""Pixels of a scaled frame to one cell of the maps in which objects are found."""
THRESHOLD = 0.4
"""Height of a peak from which it is an object."""
MOST_FOUND = 6
_DEEPEST = 8
_BATCH = 16


# ---- the network -----------------------------------------------------------------------------------


def over_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm over the channels of maps [N,C,H,W]."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def shift_in_time(x: Tensor, frames: int) -> Tensor:
    """Maps [B·T,C,H,W] whose first channels come from the frame before and whose next ones from the frame after.

    Each is a quarter of all; at its ends a clip stands still.
    """
    if frames == 1:
        return x
    quarter = x.shape[1] // 4
    clips = x.unflatten(0, (-1, frames))
    past, future, present = clips[:, :, :quarter], clips[:, :, quarter : 2 * quarter], clips[:, :, 2 * quarter :]
    past = torch.cat([past[:, :1], past[:, :-1]], 1)
    future = torch.cat([future[:, 1:], future[:, -1:]], 1)
    return torch.cat([past, future, present], 2).flatten(0, 1)


def halve_time(x: Tensor, frames: int) -> tuple[Tensor, int]:
    """Every second frame of maps [B·T,C,H,W], beside its neighbours: [B·ceil(T/2),3·C,H,W] and the new T."""
    clips = x.unflatten(0, (-1, frames))
    past = torch.cat([clips[:, :1], clips[:, :-1]], 1)
    future = torch.cat([clips[:, 1:], clips[:, -1:]], 1)
    near = torch.cat([part[:, ::2] for part in (past, clips, future)], 2)
    return near.flatten(0, 1), near.shape[1]


class Block(nn.Module):
    """Two convolutions with a view of the frames beside, and on demand of the clip as a whole."""

    def __init__(self, channels: int, *, wide: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.context = nn.Linear(2 * channels, channels) if wide else None

    def forward(self, x: Tensor, frames: int) -> Tensor:
        y = self.conv1(shift_in_time(over_channels(self.norm, x), frames))
        if self.context is not None:
            y = y + self.context(summary(y, frames)).repeat_interleave(frames, 0)[:, :, None, None]
        return x + self.conv2(shift_in_time(F.relu(y), frames))


def summary(x: Tensor, frames: int) -> Tensor:
    """Mean and maximum [B,2·C] over all places and frames of maps [B·T,C,H,W]."""
    clips = x.unflatten(0, (-1, frames))
    return torch.cat([clips.mean((1, 3, 4)), clips.amax((1, 3, 4))], 1)


@dataclass
class ProbeOutput:
    """The network's output, before it is decoded into words.

    Attributes:
        heat: [B,H,W] in cells of `STRIDE` pixels: the logit that the centre of an object is there in the middle
            frame.
        objects: For each of `OBJECT_ATTRIBUTES` the logits [B,K,H,W] of an object whose centre is there.
        clip: For each of `CLIP_ATTRIBUTES` the logits [B,K].
    """

    heat: Tensor
    objects: dict[str, Tensor]
    clip: dict[str, Tensor]


class ToyboxProbe(ModelMixin, ConfigMixin):
    """Reads clips of the toybox world.

    Args:
        width: Channels where a cell is 4 pixels wide; twice as many where it is 8.
        early: Blocks at 4 pixels and half of the frames.
        late: Blocks at 8 pixels and a quarter of the frames.
        words: The words of each attribute that the weights were trained with, in order; by default the world's.

    Raises:
        InputError: The words are not the world's: weights from before the world changed.
    """

    @register_to_config
    def __init__(
        self, width: int = 64, early: int = 1, late: int = 3, words: dict[str, list[str]] | None = None
    ) -> None:
        super().__init__()
        legal = {name: list(values) for name, values in (OBJECT_ATTRIBUTES | CLIP_ATTRIBUTES).items()}
        if words is not None and words != legal:
            changed = [name for name in legal if words.get(name) != legal[name]] or ["other attributes"]
            raise InputError(f"the probe was trained on another world: it has other words for {', '.join(changed)}")
        self.register_to_config(words=legal)
        self.conv_in = nn.Conv2d(6, 24, 5, stride=2, padding=2)
        self.conv_in2 = nn.Conv2d(24, 48, 3, stride=2, padding=1)
        self.down1 = nn.Conv2d(3 * 48, width, 1)
        self.early_blocks = nn.ModuleList(Block(width) for _ in range(early))
        self.norm_early = nn.LayerNorm(width)
        self.down2 = nn.Conv2d(3 * width, 2 * width, 3, stride=2, padding=1)
        self.late_blocks = nn.ModuleList(Block(2 * width, wide=True) for _ in range(late))
        self.norm_late = nn.LayerNorm(2 * width)
        self.up1 = nn.Conv2d(3 * width, width, 3, padding=1)
        self.up2 = nn.Conv2d(width + 24, width, 3, padding=1)
        self.proj_out = nn.Conv2d(width, 1 + sum(map(len, OBJECT_ATTRIBUTES.values())), 1)
        self.clip_in = nn.Linear(4 * width, 2 * width)
        self.clip_proj_out = nn.Linear(2 * width, sum(map(len, CLIP_ATTRIBUTES.values())))
        assert self.proj_out.bias is not None
        nn.init.constant_(self.proj_out.bias[:1], -3.0)  # most places are no object's centre

    def forward(self, video: Tensor) -> ProbeOutput:
        """Read clips [B,3,T,H,W] in [-1, 1], H and W multiples of 8, best of about `AREA` pixels."""
        frames = video.shape[2]
        middle = frames // 2
        x = video.transpose(1, 2)  # [B,T,3,H,W]
        change = F.pad(x.diff(dim=1), (0, 0, 0, 0, 0, 0, 1, 0))
        x = torch.cat([x, 4 * change], 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        fine = F.relu(self.conv_in(x))
        x, half = halve_time(F.relu(self.conv_in2(fine)), frames)
        x = self.down1(x)
        for block in self.early_blocks:
            x = block(x, half)
        early = over_channels(self.norm_early, x)
        x, quarter = halve_time(early, half)
        x = self.down2(x)
        for block in self.late_blocks:
            x = block(x, quarter)
        late = over_channels(self.norm_late, x)

        y = F.interpolate(late.unflatten(0, (-1, quarter))[:, middle // 4], scale_factor=2.0)
        y = F.relu(self.up1(torch.cat([y, early.unflatten(0, (-1, half))[:, middle // 2]], 1)))
        y = F.interpolate(y, scale_factor=2.0)
        y = F.relu(self.up2(torch.cat([y, fine.unflatten(0, (-1, frames))[:, middle]], 1)))
        heat, *objects = self.proj_out(y).float().split([1, *map(len, OBJECT_ATTRIBUTES.values())], 1)
        clip = self.clip_proj_out(F.relu(self.clip_in(summary(late, quarter)))).float()
        parts = clip.split([len(values) for values in CLIP_ATTRIBUTES.values()], 1)
        return ProbeOutput(
            heat[:, 0],
            dict(zip(OBJECT_ATTRIBUTES, objects, strict=True)),
            dict(zip(CLIP_ATTRIBUTES, parts, strict=True)),
        )

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str] | None = None, **options: Any) -> ToyboxProbe:
        """Load the bundled weights, or those of a folder, for reading.

        Raises:
            InputError: There are no weights in the folder, they are not whole, or they are of another world.
        """
        where = Path(str(resources.files("videodit"))) / "presets" / "probe" if folder is None else Path(folder)
        if not (where / "config.json").is_file():
            raise InputError(f"no probe in {where}: it holds no config.json")
        probe, info = super().from_pretrained(where, output_loading_info=True, **options)
        if wrong := sorted({*info["missing_keys"], *info["unexpected_keys"]}):
            raise InputError(
                f"the weights in {where} are not this network's: {len(wrong)} missing or too many, as {wrong[0]}"
            )
        check_model_finite(probe, where)
        return probe

    @torch.no_grad()
    def read(self, clips: Tensor | np.ndarray | Sequence[np.ndarray]) -> list[Reading]:
        """Name what clips show.

        Args:
            clips: uint8, [B,T,H,W,3] or as the renderer's [B,3,T,H,W], or a list of clips [T,H,W,3] of any sizes.

        Raises:
            InputError: Clips of another type or shape.
        """
        if not isinstance(clips, (Tensor, np.ndarray)):
            return [reading for clip in clips for reading in self.read(np.asarray(clip)[None])]
        readings = []
        for first in range(0, len(clips), _BATCH):
            video = preprocess(torch.as_tensor(clips[first : first + _BATCH]).to(self.device)).to(self.dtype)
            readings += decode_output(self(video), still=video.shape[2] == 1)
        return readings


def preprocess(clips: Tensor | np.ndarray) -> Tensor:
    """Clips as the network takes them: float32 [B,3,T,H,W] in [-1, 1], of about `AREA` pixels.

    Args:
        clips: uint8, [B,T,H,W,3] or [B,3,T,H,W].

    Raises:
        InputError: Clips of another type or shape.
    """
    x = torch.as_tensor(clips)
    if x.ndim == 5 and x.shape[4] == 3:
        x = x.permute(0, 4, 1, 2, 3)
    if x.dtype != torch.uint8 or x.ndim != 5 or x.shape[1] != 3 or not x.numel():
        raise InputError(
            f"clips must be uint8 [B,T,H,W,3] or [B,3,T,H,W]; got {str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
        )
    scale = (AREA / (x.shape[3] * x.shape[4])) ** 0.5
    size = tuple(max(1, round(side * scale / _DEEPEST)) * _DEEPEST for side in x.shape[3:])
    x = x.float() / 127.5 - 1
    if tuple(x.shape[3:]) == size:
        return x
    frames = x.transpose(1, 2).flatten(0, 1)
    frames = F.interpolate(frames, size, mode="bilinear", antialias=True, align_corners=False)
    return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


def through_mp4(clip: np.ndarray | Tensor, *, fps: float, crf: int = 16) -> np.ndarray:
    """A clip uint8 [T,H,W,3] written to an MP4 by `videodit.media` and decoded again."""
    from videodit.media import read_video, write_video  # reading clips that never were files takes no PyAV

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, clip, fps=fps, crf=crf)
        return read_video(path).frames


# ---- words -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundObject:
    """One object that was found.

    Attributes:
        shape: One of `SHAPES`.
        color: One of `COLORS`.
        size: One of `SIZES`.
        motion: One of `MOTIONS`; None where there is one frame.
        score: How sure it is that there is an object, 0 to 1.
        center: Where its centre is in the middle frame, from the left and from the top, in parts of the frame.
    """

    shape: str
    color: str
    size: str
    motion: str | None
    score: float
    center: tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """What a clip shows: its objects, the surest first; camera and interaction are None where there is one frame."""

    objects: tuple[FoundObject, ...]
    ground: str
    light: str
    camera: str | None
    interaction: str | None


def decode_output(output: ProbeOutput, *, still: bool) -> list[Reading]:
    """The network's output for B clips as B readings; of still ones, nothing that takes time."""
    heat = output.heat.sigmoid()
    height, width = heat.shape[1:]
    peaks = torch.where(heat == F.max_pool2d(heat, 3, 1, 1), heat, 0).flatten(1)
    scores, cells = peaks.topk(min(MOST_FOUND, peaks.shape[1]))  # [B,N]
    words: dict[str, list[Any]] = {}
    for name, legal in OBJECT_ATTRIBUTES.items():
        best = output.objects[name].argmax(1).flatten(1).gather(1, cells)
        words[name] = [[legal[k] for k in row] for row in best.tolist()]
    for name, legal in CLIP_ATTRIBUTES.items():
        words[name] = [legal[k] for k in output.clip[name].argmax(1).tolist()]
    if still:
        words["motion"] = [[None] * cells.shape[1]] * len(cells)
        words["camera"] = words["interaction"] = [None] * len(cells)
    readings = []
    for b, (row, places) in enumerate(zip(scores.tolist(), cells.tolist(), strict=True)):
        objects = tuple(
            FoundObject(
                **{name: words[name][b][n] for name in OBJECT_ATTRIBUTES},
                score=score,
                center=((place % width + 0.5) / width, (place // width + 0.5) / height),
            )
            for n, (score, place) in enumerate(zip(row, places, strict=True))
            if score >= THRESHOLD
        )
        readings.append(Reading(objects, *(words[name][b] for name in CLIP_ATTRIBUTES)))
    return readings


# ---- what was asked for ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """What a reading has of what a scene asks for; None is what was not judged.

    Attributes:
        objects: For each object of the scene, by the names of `OBJECT_ATTRIBUTES`, whether the found object that
            stands for it has the same. An object that none stands for has nothing. Motion is not judged in one
            frame, nor of a pair that collides, whose motion changes on the way.
        found: For each object of the scene the index of the found object that stands for it, or None.
        clip: By the names of `CLIP_ATTRIBUTES`, whether it is the same. The interaction is judged where there are two
            objects or more.
        count: Whether as many objects were found as the scene has.
    """

    objects: tuple[dict[str, bool | None], ...]
    found: tuple[int | None, ...]
    clip: dict[str, bool | None]
    count: bool

    @property
    def bound(self) -> bool:
        """Whether each object of the scene has a found one of its own with its colour and its shape."""
        return all(o["color"] and o["shape"] for o in self.objects)

    @property
    def bound_motion(self) -> bool | None:
        """Whether each has, besides, its motion; None where no motion was judged."""
        judged = [o["motion"] for o in self.objects if o["motion"] is not None]
        return self.bound and all(judged) if judged else None

    @property
    def all(self) -> bool:
        """Whether everything is right that was judged."""
        verdicts = [value for o in self.objects for value in o.values()] + list(self.clip.values())
        return self.count and all(value for value in verdicts if value is not None)


def match(scene: Scene, reading: Reading) -> Match:
    """Compare a reading with the scene that was asked for.

    The surest found objects, as many as the scene has, stand for its objects so that as many as possible have both
    their colour and their shape, then so that as many attributes as possible are right: a clip full of objects does
    not have a better chance than one with few.
    """
    one_frame = reading.camera is None
    asked = scene.objects
    unmoved = 2 if scene.interaction == "collide" else 0

    def verdict(n: int, found: int | None) -> dict[str, bool | None]:
        judged: dict[str, bool | None] = {
            name: found is not None and getattr(asked[n], name) == getattr(reading.objects[found], name)
            for name in OBJECT_ATTRIBUTES
        }
        return judged | ({"motion": None} if one_frame or n < unmoved else {})

    def worth(way: tuple[int | None, ...]) -> tuple[int, int]:
        rows = [verdict(n, found) for n, found in enumerate(way)]
        return sum(bool(r["color"] and r["shape"]) for r in rows), sum(
            value is True for r in rows for value in r.values()
        )

    there: list[int | None] = [n if n < len(reading.objects) else None for n in range(len(asked))]
    best = max(permutations(there), key=worth)
    clip: dict[str, bool | None] = {name: getattr(scene, name) == getattr(reading, name) for name in CLIP_ATTRIBUTES}
    if one_frame:
        clip |= {"camera": None, "interaction": None}
    elif len(asked) == 1:
        clip["interaction"] = None
    rows = tuple(verdict(n, found) for n, found in enumerate(best))
    return Match(rows, best, clip, len(reading.objects) == len(asked))


def tally(matches: Iterable[Match]) -> dict[str, tuple[int, int]]:
    """How many verdicts were right, and of how many; what was never judged is left out.

    Keys: those of `OBJECT_ATTRIBUTES`, counted by object; those of `CLIP_ATTRIBUTES`, and ``count``, ``bound``,
    ``bound_motion`` and ``all`` of `Match`, counted by clip.
    """
    verdicts: dict[str, list[bool]] = {name: [] for name in (*OBJECT_ATTRIBUTES, *CLIP_ATTRIBUTES, *MATCH_MEASURES)}
    for one in matches:
        rows = [*one.objects, one.clip, {name: getattr(one, name) for name in MATCH_MEASURES}]
        for name, value in (pair for row in rows for pair in row.items()):
            if value is not None:
                verdicts[name].append(value)
    return {name: (sum(values), len(values)) for name, values in verdicts.items() if values}


def adherence(
    clips: Tensor | np.ndarray | Sequence[np.ndarray], scenes: Sequence[Scene], probe: ToyboxProbe
) -> dict[str, float]:
    """How often clips show what their scenes ask for, 0 to 1, by the keys of `tally`.

    Args:
        clips: As `ToyboxProbe.read` takes them.
        scenes: What each clip should show.
        probe: What reads them.

    Raises:
        InputError: Not as many clips as scenes, or clips of another type or shape.
    """
    if len(clips) != len(scenes):
        raise InputError(f"there must be a scene for each clip; got {len(clips)} clips and {len(scenes)} scenes")
    counts = tally(match(scene, reading) for scene, reading in zip(scenes, probe.read(clips), strict=True))
    return {name: right / n for name, (right, n) in counts.items()}
