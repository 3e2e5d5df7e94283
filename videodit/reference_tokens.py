"""References as a model takes them: tokens behind the clip's, with positions and a timestep of their own.

They go through all blocks with the tokens of the clip, which attend to them, and are dropped before the final layer.

Letters: ``B`` batch, ``C`` latent channels, ``T H W`` latent frames, height and width, ``S`` tokens of the clip, ``R``
tokens of all references, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from videodit.blocks.reference_patch import ReferencePatch
from videodit.control.references import obstacle_to_references
from videodit.errors import InputError
from videodit.rotary import Beside, Place, RotaryTables
from videodit.shapes import Size3D, VideoGeometry
from videodit.transformer_config import TransformerConfig

Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class ReferenceTokens:
    """One reference of a forward.

    Attributes:
        latents: ``[1 or B, C, T, H, W]``, of any size in whole tokens.
        start: where its first token stands along time, height and width, counted in tokens.
        spacing: how far its tokens are from one another, likewise.
        behind: ``start`` counts along time from the first token behind the clip.
        timestep: of its tokens, 0 for clean ones; ``None``: that of the clip, the largest where there are several.
        own_patch: the model's own layer for such pictures embeds it, not that of the clip's patches.
    """

    latents: Tensor
    start: Triple = (0.0, 0.0, 0.0)
    spacing: Triple = (1.0, 1.0, 1.0)
    behind: bool = False
    timestep: float | None = None
    own_patch: bool = False

    def window(self, frames: slice | list[int]) -> ReferenceTokens:
        """The same for some latent frames of the clip: of what goes along with all of it, these alone."""
        if self.behind or self.latents.shape[2] == 1:
            return self
        return replace(self, latents=self.latents[:, :, frames])

    def place(self, clip: Size3D) -> Place:
        """Where its tokens stand beside a clip of these tokens."""
        time, row, column = self.start
        return Place((time + clip.t if self.behind else time, row, column), self.spacing)


APART = 10
"""Steps along time from one picture to the next in the layout ``apart`` (diffusers: Flux2Pipeline)."""


def tokens_in_layout(
    layout: str, latents: Tensor, *, number: int = 0, at: float = 0.0, timestep: float | None = None
) -> ReferenceTokens:
    """Latents of a reference where a layout has its tokens; see :data:`videodit.control.reference_layouts.LAYOUTS`.

    Args:
        layout: ``"edit"``, ``"apart"``, ``"guide"``, ``"behind"`` or ``"lead"``.
        latents: ``[1 or B, C, T, H, W]``.
        number: of references that go before.
        at: where a guide begins along time, in tokens.
        timestep: of its tokens, where the model was trained with one of their own; a guide's is 0.
    """
    if layout == "edit":
        return ReferenceTokens(latents, start=(1.0 + number, 0.0, 0.0), timestep=timestep)
    if layout == "apart":
        return ReferenceTokens(latents, start=(float(APART * (1 + number)), 0.0, 0.0), timestep=timestep)
    if layout == "lead":
        return ReferenceTokens(latents, start=(-1.0, 0.0, 0.0), own_patch=True)
    if layout == "behind":
        return ReferenceTokens(latents, start=(float(number), 0.0, 0.0), behind=True, timestep=timestep)
    return ReferenceTokens(latents, start=(at, 0.0, 0.0), timestep=0.0)


class ReferableModel(Protocol):
    """What references need of a :class:`~videodit.VideoDiT`."""

    config: TransformerConfig
    geometry: VideoGeometry
    patch_embed: nn.Linear
    reference_embedder: nn.Module | None
    rotary: RotaryTables | None


def references_beside(
    model: ReferableModel, references: Sequence[ReferenceTokens], clip: Size3D, batch: int
) -> tuple[Beside, ...]:
    """Where the tokens of references stand beside a clip's.

    Args:
        model: whose tokens they are.
        references: in the order in which they follow the clip.
        clip: tokens of it.
        batch: clips.

    Raises:
        InputError: a model that cannot have references, or latents of another shape.
    """
    if references:
        check_referable(model)
    found = []
    for number, one in enumerate(references, start=1):
        channels = _channels(model, own_patch=one.own_patch)
        own = _own_grid(one.latents, f"reference {number}", batch, channels, model.geometry.patch)
        found.append(Beside(own, one.place(clip)))
    return tuple(found)


def join_references(
    model: ReferableModel,
    references: Sequence[ReferenceTokens],
    beside: Sequence[Beside],
    grid: Size3D,
    tokens: Tensor,
    timestep: Tensor,
) -> tuple[Tensor, Tensor]:
    """Put references behind the tokens of a clip, in front of the first block.

    Args:
        model: embeds their patches as those of the clip.
        references: in the order in which they follow the clip.
        beside: where they stand; see :func:`references_beside`.
        grid: tokens of the clip.
        tokens: of it, ``[B, S, D]``.
        timestep: of it, ``[B]``, ``[B, T]`` or ``[B, S]``.

    Returns:
        Tokens ``[B, S + R, D]``, and their timesteps ``[B, S + R]``, or ``[B]`` where there is one for all.
    """
    pt, ph, pw = model.geometry.patch
    embedded: list[Tensor] = []
    for one in references:
        latents = one.latents.to(tokens.dtype)
        if one.own_patch:
            assert model.reference_embedder is not None  # see _channels
            made = model.reference_embedder(latents)
        else:
            values = rearrange(latents, "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)
            made = model.patch_embed(values)
        embedded.append(made.expand(len(tokens), -1, -1))  # [B, r, D]
    levels, counts = [one.timestep for one in references], [one.grid.numel for one in beside]
    return torch.cat([tokens, *embedded], dim=1), _timesteps(timestep, grid, levels, counts)


def _channels(model: ReferableModel, *, own_patch: bool) -> int:
    """Of the latents of a reference.

    Raises:
        InputError: a picture in front of a clip, for a model that has no layer for it.
    """
    if not own_patch:
        return model.config.in_channels
    if model.reference_embedder is None:
        raise InputError("this model has no layer for a picture in front of a clip")
    return ReferencePatch.setting(model.config, "reference_patch")


def check_referable(model: ReferableModel) -> None:
    """See whether tokens can follow those of a clip in a model.

    Raises:
        InputError: naming the option that is in the way.
    """
    config = model.config
    if (why := obstacle_to_references(config.attention, config.position_embedding, config.rope)) is not None:
        raise InputError(f"this model takes no references: {why}")


def _own_grid(latents: Tensor, what: str, batch: int, channels: int, patch: Size3D) -> Size3D:
    if latents.ndim != 5 or latents.shape[1] != channels or len(latents) not in (1, batch):
        raise InputError(f"{what} must be latents [1 or {batch}, {channels}, T, H, W], got {list(latents.shape)}")
    size = Size3D(*latents.shape[2:])
    if any(n % p for n, p in zip(size, patch, strict=True)):
        raise InputError(f"{what} has latents {list(size)}; each must be a multiple of the patch {list(patch)}")
    return Size3D(*(n // p for n, p in zip(size, patch, strict=True)))


def _timesteps(timestep: Tensor, grid: Size3D, levels: Sequence[float | None], counts: Sequence[int]) -> Tensor:
    if timestep.ndim == 1 and all(level is None for level in levels):
        return timestep  # one for all tokens
    timestep = timestep.float()
    noisiest = timestep if timestep.ndim == 1 else timestep.amax(dim=1)  # [B]
    own = timestep[:, None] if timestep.ndim == 1 else timestep
    parts = [own.repeat_interleave(grid.numel // own.shape[1], dim=1)]  # [B, S]
    for level, count in zip(levels, counts, strict=True):
        values = noisiest if level is None else torch.full_like(noisiest, level)
        parts.append(values[:, None].expand(-1, count))
    return torch.cat(parts, dim=1)


def without(tensor: Tensor | None, first: int, count: int, dim: int = 1) -> Tensor | None:
    """A tensor without ``count`` entries from ``first`` on."""
    if tensor is None:
        return None
    behind = tensor.shape[dim] - first - count
    return torch.cat([tensor.narrow(dim, 0, first), tensor.narrow(dim, first + count, behind)], dim=dim)
