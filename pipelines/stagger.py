"""Latent frames that are denoised one block after the other (Chen et al., "Diffusion Forcing", 2024): which step each
of them takes when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videodit.errors import InputError
from videodit.pipelines.storyboard import Storyboard

if TYPE_CHECKING:
    from videodit.pipelines.request import Request
    from videodit.pipelines.settings import Settings
    from videodit.pipelines.spec import ModelSpec


@dataclass(frozen=True)
class Stagger:
    """How blocks of latent frames follow one another.

    Attributes:
        lag: steps that each begins behind the one before.
        block: latent frames of one.
    """

    lag: int
    block: int = 1

    def rows(self, steps: int, frames: int, ready: int = 0) -> list[Sequence[int]]:
        """For each forward of the transformer the step that each block takes: from 0, -1 before its first, and
        ``steps`` once it is clean.

        Args:
            steps: of the sampler.
            frames: latent frames, a multiple of ``block``.
            ready: latent frames at the beginning that are clean from the start.
        """
        done, blocks, lag = ready // self.block, frames // self.block, min(self.lag, steps)
        count = steps + max(0, blocks - done - 1) * lag
        return [
            [steps] * done + [max(-1, min(steps, row - i * lag)) for i in range(blocks - done)] for row in range(count)
        ]


def stagger_of(request: Request, spec: ModelSpec, settings: Settings) -> Stagger | None:
    """What a request says of it; ``None`` where all frames are denoised alike.

    Raises:
        InputError: a number out of range, a model that denoises all frames alike, blocks that do not fill the clip, or
            something else that was asked for and does not go with it.
    """
    from videodit.pipelines.settings import whole_number

    lag = whole_number("stagger", request.stagger, 0, 1000)
    block = whole_number("stagger_block", request.stagger_block, 1, 1000)
    if lag == 0 and block == 1:
        return None
    if not spec.keeps_frames:
        raise InputError(f"stagger is {lag}, stagger_block is {block}; this model denoises all frames of a clip alike")
    frames = settings.latent_shape[1]
    if frames % block:
        raise InputError(f"stagger_block is {block}, which does not divide the {frames} latent frames of this clip")
    for name, asked in (
        ("loop", request.loop),
        ("window", settings.windows is not None),
        ("a storyboard", isinstance(request.prompt, Storyboard)),
        ("dynamic_guidance", request.dynamic_guidance),
    ):
        if asked:
            raise InputError(f"stagger is {lag}, stagger_block is {block}; {name} does not go with them")
    return Stagger(lag, block)
