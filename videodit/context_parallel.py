"""Context parallel: the tokens of a clip are split among processes, by diffusers' hooks.

Every process runs all layers on its share of the tokens; self-attention alone sees all of them. Around it, *Ulysses*
(Jacobs et al., "DeepSpeed Ulysses", 2023) gives heads away for tokens; *ring* attention (Liu et al., "Ring Attention
with Blockwise Transformers", 2023) goes through the keys and values of one process after the other and weighs the
results by their log-sum-exp.

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``G`` groups of tokens that share a timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import ContextParallelConfig
from torch import Tensor, nn

from videodit._diffusers import ContextParallelInput, ContextParallelOutput, ParallelConfig
from videodit.blocks import BLOCKS, Block, Modulation
from videodit.errors import InputError
from videodit.transformer_config import Configured, TransformerConfig

if TYPE_CHECKING:
    from diffusers import ModelMixin as Base
else:
    Base = object


class Tokens(NamedTuple):
    """What a forward knows token by token.

    Attributes:
        video: ``[B, S, D]``.
        text: ``[B, L, D]``.
        rotary: ``[1, S, …]``, for joint blocks ``[1, S + L, …]``, or ``None``.
        text_mask: boolean ``[B, L]``, or ``None`` for all.
        condition: of the video's timesteps.
        references: how many of the video's tokens, the last ones, are those of references.
    """

    video: Tensor
    text: Tensor
    rotary: Tensor | None
    text_mask: Tensor | None
    condition: Modulation
    references: int = 0


@dataclass(frozen=True)
class Division:
    """How a model's tokens are divided among processes, for what computes beside it.

    Attributes:
        share: what of all tokens this process computes.
        split: the same of video tokens ``[B, S, D]`` alone.
        config: of its attention.
    """

    share: Callable[[Tokens], Tokens]
    split: Callable[[Tensor], Tensor]
    config: ParallelConfig


class ContextParallelModel(Base):
    """Goes before diffusers' ``ModelMixin``: ``model.enable_parallelism(config=ContextParallelConfig(…))``.

    One hook splits whatever passes through ``split_tokens``, another gathers what leaves ``proj_out``. Cross blocks see
    the whole text on every process. For joint and single blocks, text is split like the video: a process's sequence is
    its share of the video, then its share of the text, and attention does not care for the order. A refiner runs on the
    whole text everywhere.
    """

    config: TransformerConfig
    text_embedder: nn.Module
    split_tokens: nn.Module
    block_class: type[Block]

    _cp_plan = {
        "split_tokens": {"input": ContextParallelInput(split_dim=1)},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @property
    def context_parallel(self) -> ContextParallelConfig | None:
        """How tokens are split; ``None`` if they are not."""
        return None if self._parallel_config is None else self._parallel_config.context_parallel_config

    @property
    def division(self) -> Division | None:
        """How tokens are divided; ``None`` if they are not."""
        if self.context_parallel is None:
            return None
        return Division(self._own_share, self.split_tokens.forward, self._parallel_config)

    def enable_parallelism(
        self, *, config: ParallelConfig | ContextParallelConfig, cp_plan: Mapping[str, object] | None = None
    ) -> None:
        """See diffusers' ``ModelMixin``; processes without a GPU may talk by gloo.

        Raises:
            InputError: a model that cannot be split so, or degrees that are not the number of processes.
            RuntimeError: torch.distributed is not initialized, or the model is split already.
        """
        own = isinstance(config, ContextParallelConfig)
        context = config if own else getattr(config, "context_parallel_config", None)
        if context is not None and dist.is_initialized():
            check_splittable(self, ulysses=1 if context.ulysses_anything else context.ulysses_degree)
            ring, ulysses, processes = context.ring_degree, context.ulysses_degree, dist.get_world_size()
            if context.mesh is None and ring * ulysses != processes:
                raise InputError(
                    f"ring_degree {ring} times ulysses_degree {ulysses} must be the number of processes, {processes}"
                )
        super().enable_parallelism(config=config, cp_plan=cp_plan)
        for module in self.text_embedder.modules():  # it sees the whole text on every process
            if (processor := getattr(module, "processor", None)) is not None:
                processor._parallel_config = None

    def _resolve_parallel_config(self, config: ParallelConfig | ContextParallelConfig) -> ParallelConfig:
        """diffusers' own asks for an accelerator, which processes that talk by gloo need not have."""
        if isinstance(config, ContextParallelConfig):
            config = ParallelConfig(context_parallel_config=config)
        context = getattr(config, "context_parallel_config", None)
        if context is None or not dist.is_initialized() or meeting_device().type != "cpu":
            return super()._resolve_parallel_config(config)
        mesh = context.mesh or dist.init_device_mesh("cpu", context.mesh_shape, mesh_dim_names=context.mesh_dim_names)
        config.setup(dist.get_rank(), dist.get_world_size(), self.device, mesh=mesh)
        self._parallel_config = config
        return config

    def _own_share(self, tokens: Tokens) -> Tokens:
        """What this process computes, out of everything: of the clip, of references and of joined text a share each.

        Joint blocks get text that is padded to a multiple of the processes, and a mask that hides the padding.

        Raises:
            InputError: video tokens that are no multiple of the processes, or a mask that ring attention cannot have.
        """
        x, text, rotary, mask, condition, references = tokens
        context = self.context_parallel
        assert context is not None
        processes = context.ring_degree * context.ulysses_degree
        counts = [x.shape[1] - references, references] if references else [x.shape[1]]
        if not (context.ulysses_anything or context.ring_anything):
            for count, what in zip(counts, ("video", "references"), strict=False):
                check_count(count, processes, what)
        split, length, missing = self.split_tokens, text.shape[1], 0

        def split_video(values: Tensor) -> list[Tensor]:
            return [split(part) for part in values.split(counts, dim=1)]

        parts = [] if rotary is None else split_video(rotary[:, : x.shape[1]])
        if self.block_class.joined:
            missing = -length % processes
            if missing and mask is None:
                mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
            if mask is not None and context.ring_degree > 1:
                raise InputError(
                    f"ring attention takes no mask, but {length} text tokens of {text.shape[0]} prompts need one: "
                    f"they must be as many in each prompt, and a multiple of the {processes} processes"
                )
            if rotary is not None:
                parts.append(split(_padded(rotary[:, x.shape[1] :], missing)))
            text = split(_padded(text, missing))
            mask = None if mask is None else split(F.pad(mask, (0, missing)))
        if condition.values.ndim == 3 and condition.values.shape[1] > 1:  # one timestep a frame
            batch, groups = condition.values.shape[:2]
            rows = torch.arange(batch * groups, device=x.device).view(batch, groups)
            rows = rows.repeat_interleave(x.shape[1] // groups, dim=1)  # [B, S]
            condition = Modulation(condition.values.flatten(0, 1), rows)
        if condition.token_row is not None:
            condition = condition._replace(token_row=torch.cat(split_video(condition.token_row), dim=1))
        shares = split_video(x)
        own = sum(share.shape[1] for share in shares[1:])
        return Tokens(torch.cat(shares, dim=1), text, torch.cat(parts, dim=1) if parts else None, mask, condition, own)


def meeting_device() -> torch.device:
    """Where tensors must be for all processes to exchange them: a CPU for gloo, else the process's accelerator."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if accelerator is None or dist.get_backend() == "gloo" else accelerator


def check_splittable(model: Configured, *, ulysses: int) -> None:
    """See whether a model's tokens can be split among processes.

    Args:
        model: a :class:`~videodit.VideoDiT`.
        ulysses: processes that share the heads among them; 1 for none.

    Raises:
        InputError: naming what is in the way.
    """
    if model.config.attention != "full":
        raise InputError(
            f"tokens of attention={model.config.attention!r} cannot be split among processes: it sees whole frames and "
            "whole lines of time; 'full' can"
        )
    if (why := BLOCKS[model.config.block].undivided) is not None:
        raise InputError(f"tokens of block={model.config.block!r} cannot be split among processes: {why}")
    heads = model.config.num_attention_heads
    if heads % ulysses:
        legal = [n for n in range(2, heads + 1) if heads % n == 0]
        raise InputError(f"{heads} heads cannot be shared by {ulysses} processes; legal numbers are {legal}")


def check_count(tokens: int, processes: int, what: str = "video") -> None:
    """See whether tokens can be split evenly.

    Args:
        tokens: how many.
        processes: that share them.
        what: they are of.

    Raises:
        InputError: naming both numbers.
    """
    if tokens % processes:
        raise InputError(
            f"{tokens} tokens of {what} cannot be split among {processes} processes: choose a size or a number of "
            f"frames that gives a multiple of {processes}"
        )


def _padded(tokens: Tensor, missing: int) -> Tensor:
    """``[B, L, …] → [B, L + missing, …]``; the mask hides what comes last."""
    return F.pad(tokens, [0, 0] * (tokens.ndim - 2) + [0, missing])
