"""What a forward of a model is made of: what it is called with, where its blocks begin, and what it may keep.

Letters: ``B`` batch, ``C`` latent channels, ``T H W`` latent frames, height and width, ``S`` video tokens, ``L`` text
tokens, ``D`` width, ``K`` width of the condition, ``N`` heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from videodit.reference_tokens import ReferenceTokens, without

if TYPE_CHECKING:
    from videodit.attention import KeysValues
    from videodit.blocks import BlockContext, Modulation


class ModelInputs(NamedTuple):
    """What a model is called with; :meth:`videodit.VideoDiT.forward` describes each.

    Attributes:
        latents: ``hidden_states``, ``[B, C, T, H, W]``.
        timestep: ``[B]``, ``[B, t]`` or ``[B, S]``.
        text: ``encoder_hidden_states``, ``[B, L, text_dim]``.
        text_mask: ``encoder_attention_mask``, ``[B, L]``.
        pooled: ``pooled_projections``, ``[B, pooled_dim]``.
        guidance: ``[B]``.
        image: ``encoder_hidden_states_image``, ``[B, I, image_dim]``.
        fps: frames per second.
        causal_frames: latent frames of tokens that see one another.
        references: what stands behind the clip's tokens.
        patch_control: ``[1 or B, C', T, H, W]``.
        target: ``timestep_r``, ``[B]``.
    """

    latents: Tensor
    timestep: Tensor
    text: Tensor
    text_mask: Tensor | None = None
    pooled: Tensor | None = None
    guidance: Tensor | None = None
    image: Tensor | None = None
    fps: float = 24.0
    causal_frames: int = 1
    references: Sequence[ReferenceTokens] = ()
    patch_control: Tensor | None = None
    target: Tensor | None = None


class Entered(NamedTuple):
    """A forward in front of its first block.

    Attributes:
        x: video tokens ``[B, S, D]``, those of references behind them.
        text: ``[B, L, D]``.
        context: of the blocks.
        condition: of the video's timesteps, as the final layer takes it.
        keys_values: of each block's cross-attention, where they are kept; else ``None``.
    """

    x: Tensor
    text: Tensor
    context: BlockContext
    condition: Modulation
    keys_values: list[list[KeysValues]] | None

    def without_references(self) -> Entered:
        """The same for the clip's tokens alone."""
        context, count = self.context, self.context.references
        if count == 0:
            return self
        own = self.x.shape[1] - count
        mask = context.text_mask
        if mask is not None and mask.shape[-1] > self.text.shape[1]:  # of video and text in one sequence
            mask = without(mask, own, count, dim=3)
        context = context._replace(
            modulation=None if context.modulation is None else context.modulation.first(own),
            condition=None if context.condition is None else context.condition.first(own),
            rotary=without(context.rotary, own, count),
            text_mask=mask,
            references=0,
        )
        return self._replace(x=self.x[:, :own], context=context)


@dataclass
class Prepared:
    """What blocks that keep the text see beside the video, and what is added to its tokens: no step of a generation
    changes it.

    Hand one object to all forwards with the same text, mask, image, ``patch_control`` and weights. The first fills it:
    inside the forward, hooks have put offloaded weights in place.

    Attributes:
        text: ``[B, L, D]``; ``None`` until it is filled, which text that knows the timestep never is.
        image: ``[B, I, D]``, or ``None``.
        keys_values: of each block's cross-attention; ``None`` where the blocks make their own.
        pooled: what the text adds to the condition, ``[B, K]``, or ``None``.
        mask: see :class:`videodit.blocks.EmbeddedText`.
        patch_control: what is added to the clip's tokens, ``[1 or B, S, D]``; ``None`` until it is filled.
        branches: the same of control branches, by their ``id``.
    """

    text: Tensor | None = None
    image: Tensor | None = None
    keys_values: list[list[KeysValues]] | None = None
    pooled: Tensor | None = None
    mask: Tensor | None = None
    patch_control: Tensor | None = None
    branches: dict[int, Prepared] = field(default_factory=dict)
