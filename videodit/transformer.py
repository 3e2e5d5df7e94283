"""VideoDiT: a diffusion transformer over the spacetime patches of a clip's latents.

Letters: ``B`` batch, ``C`` latent channels, ``T H W`` latent frames, height and width, ``t h w`` the same
in tokens, ``S = t·h·w`` tokens, ``L`` text tokens, ``D`` width, ``G`` groups of tokens that share a
timestep: 1, ``T`` or ``S``.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import apply_lora_scale
from einops import rearrange
from torch import Tensor, nn

from videodit.attention import QKNorm
from videodit.blocks import BlockContext, CrossBlock, FactorizedBlock, FP32LayerNorm, Modulation, modulate
from videodit.checkpoints import CheckedLoading
from videodit.positions import rotary_3d, split_head_dim
from videodit.shapes import Size3D, VideoGeometry

AttentionKind = Literal["full", "factorized"]


class VideoDiT(CheckedLoading, ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin):
    """A video diffusion transformer.

    Args:
        patch_size: latents a token along time, height and width.
        num_attention_heads: heads ``N``.
        attention_head_dim: channels of a head; ``D = N · head_dim``.
        in_channels: channels of the latents that come in.
        out_channels: channels of the prediction; ``None`` for ``in_channels``.
        text_dim: width of the text encoder's tokens.
        freq_dim: channels of the sinusoids that the timestep is first written in.
        ffn_dim: hidden width of the MLPs.
        num_layers: number of blocks.
        attention: ``"full"`` lets every token see every other; ``"factorized"`` sees within frames, then along
            time, in two halves of each layer.
        cross_attn_norm: an affine norm before the cross-attention.
        qk_norm: root-mean-square norm of queries and keys over all heads together, over each head, or none.
        eps: of all norms.
        rope_theta: base of the rotary frequencies.

    Raises:
        ValueError: an unknown ``attention`` or ``qk_norm``, a size below 1, or a head that 3D rotary positions
            cannot split.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["CrossBlock", "FactorizedBlock"]
    _repeated_blocks = ["CrossBlock"]
    _skip_layerwise_casting_patterns = ["patch_embed", "time_embedder", "text_embedder", "norm"]
    _keep_in_fp32_modules = ["time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"]
    # For one timestep a clip and full attention; rows of single tokens are not split among ranks.
    _cp_plan = {
        "rotary": {i: ContextParallelInput(split_dim=1, expected_dims=4, split_output=True) for i in (0, 1)},
        "blocks.0": {"hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False)},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int | None = None,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        attention: AttentionKind = "full",
        cross_attn_norm: bool = True,
        qk_norm: QKNorm | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        rope_theta: float = 10000.0,
    ) -> None:
        super().__init__()
        if attention not in get_args(AttentionKind):
            raise ValueError(f"attention must be one of {get_args(AttentionKind)}, got {attention!r}")
        sizes = ("num_attention_heads", "in_channels", "out_channels", "text_dim", "freq_dim", "ffn_dim", "num_layers")
        for name in sizes:
            if self.config[name] is not None and self.config[name] < 1:
                raise ValueError(f"{name} must be at least 1, got {self.config[name]}")
        axes = split_head_dim(attention_head_dim)
        dim = num_attention_heads * attention_head_dim
        self.geometry = VideoGeometry(Size3D(1, 1, 1), patch_size)  # type: ignore[arg-type]  # it converts
        patch = self.geometry.patch

        self.patch_embed = nn.Linear(in_channels * patch.numel, dim)
        self.rotary = RotaryTables(axes, rope_theta)
        self.timesteps = Timesteps(freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(freq_dim, dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")

        block = FactorizedBlock if attention == "factorized" else CrossBlock
        self.blocks = nn.ModuleList(
            block(dim, ffn_dim, num_attention_heads, qk_norm=qk_norm, eps=eps, cross_attn_norm=cross_attn_norm)
            for _ in range(num_layers)
        )

        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.empty(2, dim))
        self.proj_out = nn.Linear(dim, (out_channels or in_channels) * patch.numel)
        self.gradient_checkpointing = False
        self.init_weights()

    def init_weights(self) -> None:
        """Set every parameter.

        | parameter | value |
        |---|---|
        | weights of linear layers | Xavier uniform |
        | biases | 0 |
        | output projections of attention and MLP | 0: each block starts as the identity |
        | time projection | 0: modulation starts as the blocks' tables alone |
        | tables | shift and scale 0, gates 1: gradients reach the output projections at once |
        | final projection | 0: the first prediction is 0 |
        | norm weights | 1 |
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                zero = name in ("time_proj", "proj_out") or name.endswith((".to_out.0", ".ffn.net.2"))
                nn.init.zeros_(module.weight) if zero else nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, CrossBlock):
                gates = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0], device=module.scale_shift_table.device)
                with torch.no_grad():
                    module.scale_shift_table.copy_(gates[:, None].expand_as(module.scale_shift_table))
        nn.init.zeros_(self.scale_shift_table)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity (or what the objective names) of noisy latents.

        Args:
            hidden_states: noisy latents ``[B, C, T, H, W]``.
            timestep: 0 (clean) to 1000 (noise): ``[B]`` for the clip, ``[B, t]`` for each latent frame of tokens,
                or ``[B, S]`` for each token. (With one token a frame, ``[B, t]`` and ``[B, S]`` are the same.)
            encoder_hidden_states: text tokens ``[B, L, text_dim]``.
            encoder_attention_mask: ``[B, L]``, nonzero where a text token counts; ``None`` for all.
            attention_kwargs: ``{"scale": s}`` scales loaded LoRA layers.
            return_dict: an output object instead of a tuple.

        Returns:
            ``sample``: ``[B, out_channels, T, H, W]``.

        Raises:
            ValueError: latents, timesteps, text or a mask whose shape does not fit.
        """
        self._check_shapes(hidden_states, encoder_hidden_states, encoder_attention_mask)
        pt, ph, pw = self.geometry.patch
        grid = self.geometry.token_size(Size3D(*hidden_states.shape[2:]))  # t, h, w
        dtype = hidden_states.dtype

        # [B, C, T, H, W] → [B, S, C·patch] → [B, S, D]
        x = rearrange(hidden_states, "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)
        x = self.patch_embed(x)
        text = self.text_embedder(encoder_hidden_states)  # [B, L, D]
        text_mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()[:, None, None]

        time, token_row = self._embed_timestep(
            timestep, x.shape[0], grid, dtype
        )  # [B, 1 or t, D], or [U, D] and [B, S]
        context = BlockContext(
            modulation=Modulation(self.time_proj(nn.functional.silu(time)), token_row),  # [..., 6·D]
            rotary=self.rotary(grid, x.device),  # two [1, S, 1, head_dim / 2]
            grid=grid,
            text_mask=text_mask,  # [B, 1, 1, L]
        )
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, text, context)  # [B, S, D]
            else:
                x = block(x, text, context)  # [B, S, D]

        # The last table adds to the time embedding itself, the same for shift and scale.
        shift, scale = Modulation(torch.cat([time, time], dim=-1), token_row).chunks(self.scale_shift_table)
        x = modulate(self.norm_out(x), shift, scale, token_row).to(dtype)
        x = self.proj_out(x)  # [B, S, patch·C]
        t, h, w = grid
        sample = rearrange(x, "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _check_shapes(self, latents: Tensor, text: Tensor, mask: Tensor | None) -> None:
        if latents.ndim != 5 or latents.shape[1] != self.config.in_channels:
            raise ValueError(f"expected latents [B, {self.config.in_channels}, T, H, W], got {list(latents.shape)}")
        batch, dim = latents.shape[0], self.config.text_dim
        if text.ndim != 3 or text.shape[0] != batch or text.shape[2] != dim:
            raise ValueError(f"encoder_hidden_states must be [{batch}, L, {dim}], got {list(text.shape)}")
        if mask is not None and mask.shape != text.shape[:2]:
            raise ValueError(f"encoder_attention_mask must be {list(text.shape[:2])}, got {list(mask.shape)}")

    def _embed_timestep(
        self, timestep: Tensor, batch: int, grid: Size3D, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings of the distinct timesteps and, for one a token, the row of each token."""
        shapes = ([batch], [batch, grid.t], [batch, grid.numel])
        if list(timestep.shape) not in shapes:
            raise ValueError(
                f"timestep must be {shapes[0]}, {shapes[1]} (frames) or {shapes[2]} (tokens), "
                f"got {list(timestep.shape)}"
            )
        token_row = None
        if timestep.ndim == 1:
            timestep = timestep[:, None]  # [B, 1]
        elif timestep.shape[1] == grid.numel:
            timestep, token_row = torch.unique(timestep, return_inverse=True)  # [U], [B, S]
        frequencies = self.timesteps(timestep.flatten()).unflatten(0, timestep.shape)  # [..., freq_dim] fp32
        wide = self.time_embedder.linear_1.weight.dtype
        return self.time_embedder(frequencies.to(wide)).to(dtype), token_row


class RotaryTables(nn.Module):
    """The rotary tables as a module, so that context parallelism can split what it returns."""

    def __init__(self, dims: Size3D, theta: float) -> None:
        super().__init__()
        self.dims, self.theta = dims, theta

    def forward(self, grid: Size3D, device: torch.device) -> tuple[Tensor, Tensor]:
        """See :func:`videodit.positions.rotary_3d`."""
        return rotary_3d(grid, self.dims, self.theta, device)


TransformerBlockRegistry.register(CrossBlock, TransformerBlockMetadata(return_hidden_states_index=0))
TransformerBlockRegistry.register(FactorizedBlock, TransformerBlockMetadata(return_hidden_states_index=0))
