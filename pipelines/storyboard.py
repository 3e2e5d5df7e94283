"""Prompts with times: what a clip shows from when on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from videodit.arguments import check_iterable, check_path
from videodit.errors import InputError
from videodit.path_kinds import check_no_address
from videodit.prompts import check_text, is_blank
from videodit.ranges import short
from videodit.shapes import VideoGeometry

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_FILE = 10_000_000  # bytes

_SCENES = 'a list of scenes, seconds and a prompt each, such as [(0, "a red ball")]'


def _scenes(scenes: object) -> Iterator[tuple[float, str]]:
    """Seconds and prompt of each scene.

    Raises:
        InputError: something else than a list of these.
    """
    check_iterable(scenes, _SCENES, "scenes")
    for scene in cast("Iterable[tuple[float, str]]", scenes):
        try:
            at, prompt = scene
            yield float(at), prompt
        except (TypeError, ValueError):
            raise InputError(f"scenes must be {_SCENES}, got {short(scene)}") from None


@dataclass(frozen=True)
class Storyboard:
    """Prompts, and from when on each of them counts.

    Each scene is predicted by itself, from the frames in which it counts; around a change two count, and their
    predictions are blended frame by frame, so that one hands over to the other.

    Attributes:
        scenes: seconds and prompt of each, the first at 0, in order.
        handover: seconds that a change takes.

    Raises:
        InputError: no scenes, times that do not rise from 0, an empty prompt, or a negative hand-over.
    """

    scenes: tuple[tuple[float, str], ...]
    handover: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "scenes", tuple(_scenes(self.scenes)))
        times = [at for at, _ in self.scenes]
        if not times or times[0] != 0:
            raise InputError(f"a storyboard must begin with a scene at 0 seconds, got {times[:1] or 'none'}")
        for before, after in itertools.pairwise(times):
            if not before < after < math.inf:  # false for NaN, too
                raise InputError(f"the times of a storyboard must rise, got {after:g} after {before:g} seconds")
        for at, prompt in self.scenes:
            if not isinstance(prompt, str) or is_blank(prompt):
                raise InputError(f"the scene at {at:g} seconds has no prompt, got {prompt!r}")
            check_text(prompt, f"the prompt of the scene at {at:g} seconds")
        if not 0 <= self.handover < math.inf:
            raise InputError(f"handover must be at least 0 seconds, got {self.handover!r}")

    @classmethod
    def from_file(cls, path: str | Path, *, handover: float = 0.5) -> Storyboard:
        """Read a text file with a scene a line: seconds, a comma, the prompt. Blank lines do not count.

        Raises:
            InputError: a file that cannot be read, or a line of another form, by its number.
        """
        path = check_path(path, "the storyboard")
        check_no_address(path)
        try:
            if (size := path.stat().st_size) > _LARGEST_FILE:
                raise InputError(f"the storyboard {str(path)!r} has {size:,} bytes; at most {_LARGEST_FILE:,} are read")
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot read the storyboard {str(path)!r}: {reason}") from error
        scenes = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            at, comma, prompt = line.partition(",")
            try:
                scenes.append((float(at), prompt.strip()))
            except ValueError:
                comma = ""
            if not comma:
                raise InputError(f'{path.name}, line {number}: {line!r} is not like "2.5, a red ball bounces"')
        try:
            return cls(tuple(scenes), handover)
        except ValueError as error:
            raise InputError(f"{path.name}: {error}") from error

    @property
    def prompts(self) -> list[str]:
        """Of the scenes, in order."""
        return [prompt for _, prompt in self.scenes]

    @property
    def seconds(self) -> float:
        """How long it lasts: the last scene takes as long as the one before it; 0 if there is one scene alone."""
        if len(self.scenes) < 2:
            return 0.0
        (before, _), (last, _) = self.scenes[-2:]
        return last + (last - before)

    def check(self, seconds: float) -> None:
        """See that every scene begins within a clip.

        Raises:
            InputError: one does not.
        """
        if self.scenes[-1][0] >= seconds:
            raise InputError(
                f"a scene begins at {self.scenes[-1][0]:g} seconds, but the clip lasts {seconds:.4g} seconds"
            )

    def weights(self, geometry: VideoGeometry, latent_frames: int, fps: float) -> Tensor:
        """How much each scene counts in each latent frame, ``[scenes, T]``; sums over scenes are 1."""
        import torch

        centers = [geometry.frames_of(k) for k in range(latent_frames)]
        time = torch.tensor([(frames[0] + frames[-1] + 1) / 2 / fps for frames in centers])
        begun = torch.stack(  # the share of each scene's beginning that is over
            [
                torch.ones_like(time) if at == 0 else ((time - at) / max(self.handover, 1e-6) + 0.5).clamp(0, 1)
                for at, _ in self.scenes
            ]
        )
        # A scene that begins before the one before it is whole takes over from both.
        rest = torch.cat([begun[1:], torch.zeros(1, latent_frames)])
        return begun * torch.flip(torch.cumprod(torch.flip(1 - rest, [0]), 0), [0])
