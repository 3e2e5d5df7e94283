"""VideoDiT: a diffusion transformer over the spacetime patches of a clip's latents.

One class for the published families: its options name what differs between them, and `videodit/families/` says which
options a family has.

Letters: ``B`` batch, ``C`` latent channels, ``T H W`` latent frames, height and width, ``t h w`` the same
in tokens, ``S = t·h·w`` tokens, ``L`` text tokens, ``D`` width, ``K`` width of the condition, ``G`` groups of
tokens that share a timestep: 1, ``T`` or ``S``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from videodit.adapters.network import AdaptedNetwork
from videodit.adapters.state import present, scaled_adapters
from videodit.attention import KeysValues, QKNorm
from videodit.blocks import (
    BlockContext,
    BlockNorm,
    CrossBlock,
    FactorizedBlock,
    FP32LayerNorm,
    ImageEmbedder,
    JointBlock,
    Modulation,
    SingleBlock,
    TextRefiner,
    modulate,
)
from videodit.context_parallel import ContextParallelModel, Tokens
from videodit.errors import InputError
from videodit.families.loading import FamilyLoading
from videodit.positions import PositionEmbedding, RotaryKind, RotaryTables, sincos_2d, sincos_3d, sincos_frames
from videodit.shapes import Size3D, VideoGeometry

AttentionKind = Literal["full", "factorized"]
BlockKind = Literal["cross", "joint", "tied_joint"]
TextEmbeddingKind = Literal["mlp", "linear", "refiner"]
FinalLayerKind = Literal["table", "linear"]
_CHOICES = {
    "attention": AttentionKind,
    "block": BlockKind,
    "text_embedding": TextEmbeddingKind,
    "final_layer": FinalLayerKind,
}


@dataclass
class Prepared:
    """What cross blocks make of text and image: no step of a generation changes it.

    Hand one object to all forwards with the same text, mask, image and weights. The first fills it: inside the
    forward, hooks have put offloaded weights in place.

    Attributes:
        text: ``[B, L, D]``; ``None`` until it is filled, which text that knows the timestep never is.
        image: ``[B, I, D]``, or ``None``.
        keys_values: of each block's cross-attention; ``None`` where the blocks make their own.
    """

    text: Tensor | None = None
    image: Tensor | None = None
    keys_values: list[list[KeysValues]] | None = None


class VideoDiT(
    FamilyLoading, ContextParallelModel, ModelMixin, ConfigMixin, AdaptedNetwork, CacheMixin, AttentionMixin
):
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
        num_layers: number of cross or joint blocks.
        attention: ``"full"`` lets every token see every other; ``"factorized"`` sees within frames, then along
            time, in two halves of each layer (cross blocks only).
        cross_attn_norm: an affine norm before the cross-attention.
        qk_norm: norm of queries and keys: root mean square over all heads together, over each head, layer norm over
            each head, or none.
        eps: of all norms but those of queries and keys.
        rope_theta: base of the rotary frequencies.
        block: ``"cross"``: self-attention, then cross-attention to the text. ``"joint"``: video and text attend
            together, each with its own weights. ``"tied_joint"``: with one set of weights for both.
        num_single_layers: blocks with attention and MLP side by side, after joint ones.
        block_norm: kind of the norms in the blocks.
        norm_affine: learned scale and shift in them and in the final norm.
        qk_norm_eps: of the norm of queries and keys; ``None`` for ``eps``.
        text_embedding: ``"mlp"`` of two layers, one ``"linear"`` layer, or a ``"refiner"``, a small transformer that
            knows the timestep and the mask.
        num_refiner_layers: its blocks.
        final_layer: shift and scale at the end from a learned ``"table"`` plus the condition, or from a ``"linear"``
            layer of it.
        final_layer_norm: one more affine layer norm before that.
        time_embed_dim: width ``K`` of the condition; ``None`` for ``D``, which tables need.
        pooled_dim: width of a pooled text embedding that is added to the condition; ``None`` for none.
        guidance_embeds: the guidance scale is part of the condition.
        size_condition_stride: pixels a latent, for models that are told height, width and their ratio; ``None`` for
            others.
        image_dim: width of an image encoder's tokens that the cross-attention sees, too; ``None`` for none.
        image_tokens: how many of them, where their positions are learned.
        rope: ``"grid"``: each axis turns its share of every head. ``"fractional"``: LTX-Video's, over the whole
            width and in seconds. ``None``: none.
        rope_axes: channels of a head for time, height and width; ``None`` for an even split.
        position_embedding: added to the tokens: ``"sincos_2d"``, ``"sincos_3d"``, ``"learned"`` or ``None``.
        position_scale: what a token is long along time, height and width.
        position_base: height and width that positions are fitted to; ``None`` leaves them as they are.
        rope_lag: how far tokens after the first frame are behind along time, as a share of a token, with
            ``"fractional"`` positions.
        learned_grid: tokens along time, height and width that learned positions were trained for.
        learned_text: text tokens that they cover, too.
        frame_embedding: sinusoids of the frame's number before the first temporal block (factorized attention).
        family: whose weights these are, where they came from elsewhere; see :mod:`videodit.families`.
        family_config: their config there.

    Raises:
        ValueError: an unknown choice, a size below 1, options that contradict each other, or a head that rotary
            positions cannot split.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["CrossBlock", "FactorizedBlock", "JointBlock", "SingleBlock"]
    _repeated_blocks = ["CrossBlock", "JointBlock", "SingleBlock"]
    _skip_layerwise_casting_patterns = ["patch_embed", "time_embedder", "text_embedder", "norm"]
    _keep_in_fp32_modules = [
        "time_embedder",
        "guidance_embedder",
        "resolution_embedder",
        "aspect_ratio_embedder",
        "scale_shift_table",
        "norm1",
        "norm2",
        "norm3",
    ]

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
        block: BlockKind = "cross",
        num_single_layers: int = 0,
        block_norm: BlockNorm = "layer_norm",
        norm_affine: bool = False,
        qk_norm_eps: float | None = None,
        text_embedding: TextEmbeddingKind = "mlp",
        num_refiner_layers: int = 2,
        final_layer: FinalLayerKind = "table",
        final_layer_norm: bool = False,
        time_embed_dim: int | None = None,
        pooled_dim: int | None = None,
        guidance_embeds: bool = False,
        size_condition_stride: int | None = None,
        image_dim: int | None = None,
        image_tokens: int | None = None,
        rope: RotaryKind | None = "grid",
        rope_axes: tuple[int, int, int] | None = None,
        position_embedding: PositionEmbedding | None = None,
        position_scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
        position_base: tuple[float, float] | None = None,
        rope_lag: float = 0.0,
        learned_grid: tuple[int, int, int] | None = None,
        learned_text: int = 0,
        frame_embedding: bool = False,
        family: str | None = None,
        family_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._check_options()
        heads, dim = num_attention_heads, num_attention_heads * attention_head_dim
        cond_dim = time_embed_dim or dim
        self.geometry = VideoGeometry(Size3D(1, 1, 1), patch_size)  # type: ignore[arg-type]  # it converts
        patch = self.geometry.patch

        # What comes in: latents and their positions
        self.rotary = None
        if rope is not None:
            scale, base = position_scale, position_base
            self.rotary = RotaryTables(
                rope, heads, attention_head_dim, axes=rope_axes, theta=rope_theta, scale=scale, base=base, lag=rope_lag
            )
        self.patch_embed = nn.Linear(in_channels * patch.numel, dim)
        if learned_grid is not None:
            self.learned_positions = nn.Parameter(torch.empty(1, learned_text + Size3D(*learned_grid).numel, dim))

        # the condition
        self.timesteps = Timesteps(freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(freq_dim, cond_dim)
        self.pooled_embedder, self.guidance_embedder = None, None
        if pooled_dim is not None:
            self.pooled_embedder = PixArtAlphaTextProjection(pooled_dim, cond_dim, act_fn="silu")
        if guidance_embeds:
            self.guidance_embedder = TimestepEmbedding(freq_dim, cond_dim)
        if size_condition_stride is not None:
            self.resolution_embedder = TimestepEmbedding(freq_dim, cond_dim // 3)
            self.aspect_ratio_embedder = TimestepEmbedding(freq_dim, cond_dim // 3)
        self.time_proj = nn.Linear(dim, 6 * dim) if block == "cross" else None

        # the text, and an image
        self.text_embedder: nn.Module
        if text_embedding == "mlp":
            self.text_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")
        elif text_embedding == "linear":
            self.text_embedder = nn.Linear(text_dim, dim)
        else:
            self.text_embedder = TextRefiner(text_dim, dim, heads, num_refiner_layers, freq_dim)
        self.image_embedder = None if image_dim is None else ImageEmbedder(image_dim, dim, image_tokens)

        self.split_tokens = nn.Identity()  # where context parallel takes hold

        # Blocks, one list: caches and offloading find one list alone
        shared: dict[str, Any] = {
            "qk_norm": qk_norm,
            "qk_norm_eps": eps if qk_norm_eps is None else qk_norm_eps,
            "eps": eps,
            "norm": block_norm,
            "norm_affine": norm_affine,
        }
        if block == "cross":
            shared |= {"cross_attn_norm": cross_attn_norm, "image": image_dim is not None}
        else:
            shared["cond_dim"] = cond_dim

        def make(index: int) -> nn.Module:
            if index >= num_layers:
                return SingleBlock(dim, ffn_dim, heads, **shared)
            if block != "cross":
                return JointBlock(dim, ffn_dim, heads, tied=block == "tied_joint", **shared)
            if attention == "factorized":
                return FactorizedBlock(dim, ffn_dim, heads, embed_frames=frame_embedding and index == 0, **shared)
            return CrossBlock(dim, ffn_dim, heads, **shared)

        self.blocks = nn.ModuleList(make(index) for index in range(num_layers + num_single_layers))
        # Of this model alone: FSDP looks for every class that is named.
        self._no_split_modules = sorted({type(block).__name__ for block in self.blocks})

        # What goes out
        self.norm_final = FP32LayerNorm(dim, eps) if final_layer_norm else nn.Identity()
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=norm_affine)
        if final_layer == "table":
            self.scale_shift_table = nn.Parameter(torch.empty(2, dim))
        else:
            self.final_modulation = nn.Linear(cond_dim, 2 * dim)
        self.proj_out = nn.Linear(dim, (out_channels or in_channels) * patch.numel)
        self.gradient_checkpointing = False
        self.init_weights()

    def _check_options(self) -> None:
        config = self.config
        for name, kind in _CHOICES.items():
            if config[name] not in get_args(kind):
                raise InputError(f"{name} must be one of {get_args(kind)}, got {config[name]!r}")
        if config.position_embedding not in (None, *get_args(PositionEmbedding)):
            legal = get_args(PositionEmbedding)
            raise InputError(f"position_embedding must be None or one of {legal}, got {config.position_embedding!r}")
        sizes = ("num_attention_heads", "in_channels", "out_channels", "text_dim", "freq_dim", "ffn_dim", "num_layers")
        for name in sizes:
            if config[name] is not None and config[name] < 1:
                raise InputError(f"{name} must be at least 1, got {config[name]}")
        cross = config.block == "cross"
        contradictions = {
            f"attention={config.attention!r} needs block='cross'": config.attention == "factorized" and not cross,
            "num_single_layers needs joint blocks": config.num_single_layers > 0 and cross,
            "image_dim needs block='cross'": config.image_dim is not None and not cross,
            "time_embed_dim needs joint blocks and final_layer='linear'": config.time_embed_dim is not None
            and (cross or config.final_layer == "table"),
            "position_embedding='learned' and learned_grid need each other": (config.position_embedding == "learned")
            != (config.learned_grid is not None),
            "position_embedding='sincos_2d' needs position_base": config.position_embedding == "sincos_2d"
            and config.position_base is None,
        }
        for message, found in contradictions.items():
            if found:
                raise InputError(f"{message}; got block={config.block!r}")

    def init_weights(self) -> None:
        """Set every parameter.

        | parameter | value |
        |---|---|
        | weights of linear layers | Xavier uniform |
        | biases | 0 |
        | output projections of attention and MLP | 0: each block starts as the identity |
        | shared time projection | 0: modulation starts as the blocks' tables alone |
        | blocks' own modulation | weight 0, bias 0 for shift and scale, 1 for gates |
        | tables | shift and scale 0, gates 1: gradients reach the output projections at once |
        | final modulation and projection | 0: the first prediction is 0 |
        | learned positions | normal, deviation 0.02 |
        | norm weights | 1 |
        """
        ends = (".to_out.0", ".to_add_out", ".ffn.net.2", ".text_ffn.net.2", ".proj_out", ".modulation")
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                zero = name in ("time_proj", "proj_out", "final_modulation") or f".{name}".endswith(ends)
                zero = zero or name.endswith("text_modulation")
                nn.init.zeros_(module.weight) if zero else nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
                if name.endswith("modulation") and name != "final_modulation":
                    with torch.no_grad():  # (shift, scale, gate) once or twice; a refiner's are gates alone
                        parts = module.bias.unflatten(0, (-1, self.patch_embed.out_features))
                        parts[2::3] = 1.0
                        if len(parts) == 2:
                            parts[:] = 1.0
            elif isinstance(module, CrossBlock):
                gates = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0], device=module.scale_shift_table.device)
                with torch.no_grad():
                    module.scale_shift_table.copy_(gates[:, None].expand_as(module.scale_shift_table))
        if self.config.final_layer == "table":
            nn.init.zeros_(self.scale_shift_table)
        if self.config.learned_grid is not None:
            nn.init.normal_(self.learned_positions, std=0.02)

    def save_pretrained(  # pipelines pass on what the signature names
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        save_function: Callable[..., Any] | None = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As diffusers' ``ModelMixin.save_pretrained``.

        Raises:
            InputError: adapters are in the layers, whose folder could not be read again.
        """
        if names := present(self):
            raise InputError(
                f"a model's folder holds no adapters, and {', '.join(names)} is there; call save_lora and "
                "unload_lora() first, which keeps what is fused"
            )
        super().save_pretrained(
            save_directory,
            is_main_process=is_main_process,
            save_function=save_function,
            safe_serialization=safe_serialization,
            variant=variant,
            max_shard_size=max_shard_size,
            push_to_hub=push_to_hub,
            **kwargs,
        )

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """As torch's ``Module.load_state_dict``.

        Raises:
            InputError: a parameter that a loaded LoRA changes, whose new value would not outlast the LoRA.
        """
        if (changes := getattr(self, "weight_differences", None)) is not None:
            changes.check_free(state_dict)
        return super().load_state_dict(state_dict, *args, **kwargs)

    @scaled_adapters
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        pooled_projections: Tensor | None = None,
        guidance: Tensor | None = None,
        encoder_hidden_states_image: Tensor | None = None,
        fps: float = 24.0,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        *,
        prepared: Prepared | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity (or what the objective names) of noisy latents.

        Args:
            hidden_states: noisy latents ``[B, C, T, H, W]``.
            timestep: 0 (clean) to 1000 (noise): ``[B]`` for the clip, ``[B, t]`` for each latent frame of tokens,
                or ``[B, S]`` for each token. (With one token a frame, ``[B, t]`` and ``[B, S]`` are the same.) Text
                that has a timestep of its own takes the clip's largest.
            encoder_hidden_states: text tokens ``[B, L, text_dim]``.
            encoder_attention_mask: ``[B, L]``, nonzero where a text token counts; ``None`` for all.
            pooled_projections: pooled text ``[B, pooled_dim]``, for models that have it.
            guidance: guidance scales ``[B]``, for models that embed them.
            encoder_hidden_states_image: tokens of an image encoder ``[B, I, image_dim]``, for models that see one.
            fps: frames per second, for fractional rotary positions.
            attention_kwargs: ``{"scale": s}`` scales loaded LoRA layers.
            return_dict: an output object instead of a tuple.
            prepared: the same object for all steps of a generation; see :class:`Prepared`.

        Returns:
            ``sample``: ``[B, out_channels, T, H, W]``.

        Raises:
            ValueError: latents, timesteps, text or a mask whose shape does not fit, or a condition that is missing
                or that the model does not have.
        """
        grid = self._check_shapes(hidden_states, timestep, encoder_hidden_states, encoder_attention_mask)  # t, h, w
        if prepared is not None and prepared.text is not None:
            found, given = list(prepared.text.shape[:2]), list(encoder_hidden_states.shape[:2])
            if found != given:
                raise InputError(f"prepared is for text {found}, got encoder_hidden_states {given}")
        pt, ph, pw = self.geometry.patch
        dtype = hidden_states.dtype

        # [B, C, T, H, W] → [B, S, C·patch] → [B, S, D]
        x = rearrange(hidden_states, "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)
        x = self.patch_embed(x)
        extra = self._embed_extras(pooled_projections, guidance, hidden_states)  # [B, K] or None
        condition = self._embed_timestep(timestep, extra, grid, dtype)  # [B, G, K], or [U, K] and [B, S]
        noisiest = timestep.flatten(1).amax(dim=1) if timestep.ndim > 1 else timestep  # [B]
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()  # [B, L]
        seen = self._see(encoder_hidden_states, encoder_hidden_states_image, noisiest, mask, prepared)
        assert seen.text is not None
        x, text = self._add_positions(x, seen.text, grid)

        joined = 0 if self.config.block == "cross" else text.shape[1]  # text tokens in one sequence with the video's
        # [1, S or S + L, 1 or N, head_dim / 2, 2]
        rotary = None if self.rotary is None else self.rotary(grid, x.device, fps, joined)
        if self.context_parallel is not None:  # from here on S and L are this process's share
            x, text, rotary, mask, condition = self._own_share(Tokens(x, text, rotary, mask, condition))
        context = BlockContext(
            grid=grid,
            rotary=rotary,
            image=seen.image,  # [B, I, D] or None
        )
        if self.time_proj is not None:
            context = context._replace(
                modulation=condition._replace(values=self.time_proj(F.silu(condition.values))),  # [..., 6·D]
                text_mask=None if mask is None else mask[:, None, None],  # [B, 1, 1, L]
            )
        else:
            text_condition = self._embed_timestep(noisiest, extra, grid, dtype)  # [B, 1, K]
            context = context._replace(
                condition=condition._replace(values=F.silu(condition.values)),
                text_condition=text_condition._replace(values=F.silu(text_condition.values)),
                text_mask=None if mask is None else F.pad(mask, (x.shape[1], 0), value=True)[:, None, None],
            )
        if self.config.frame_embedding and grid.t > 1:
            context = context._replace(frame_embedding=sincos_frames(grid, x.shape[2], x.device))  # [1, S, D]

        for i, block in enumerate(self.blocks):
            if seen.keys_values is not None:
                context = context._replace(keys_values=seen.keys_values[i])  # [B, L, N, D/N] twice
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x, text = self._gradient_checkpointing_func(block, x, text, context)  # [B, S, D], [B, L, D]
            else:
                x, text = block(x, text, context)  # [B, S, D], [B, L, D]

        if self.config.final_layer == "table":  # it adds to the condition itself, the same for shift and scale
            twice = torch.cat([condition.values, condition.values], dim=-1)
            shift, scale = condition._replace(values=twice).chunks(self.scale_shift_table)
        else:
            shift, scale = condition._replace(values=F.silu(condition.values)).projected(self.final_modulation, 2)
        x = modulate(self.norm_out(self.norm_final(x)), shift, scale, condition.token_row).to(dtype)
        x = self.proj_out(x)  # [B, S, patch·C], S whole again
        t, h, w = grid
        sample = rearrange(x, "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def fuse_qkv_projections(self) -> None:
        """Refused: queries, keys and values have layers of their own here, where LoRAs find them.

        Raises:
            InputError: always.
        """
        raise InputError("VideoDiT does not fuse its projections of queries, keys and values")

    def unfuse_qkv_projections(self) -> None:
        """Refused, as :meth:`fuse_qkv_projections`.

        Raises:
            InputError: always.
        """
        self.fuse_qkv_projections()

    def set_attn_processor(self, processor: Any) -> None:
        """As diffusers' ``AttentionMixin.set_attn_processor``; a dict of processors is not changed.

        Args:
            processor: one for all attentions, or one for each name of ``attn_processors``.

        Raises:
            InputError: what cannot be called, or a dict with other names.
        """
        names = list(self.attn_processors)
        if isinstance(processor, dict) and processor.keys() != set(names):
            unknown, missing = (
                ", ".join(sorted(map(str, one)))
                for one in (processor.keys() - set(names), set(names) - processor.keys())
            )
            raise InputError(
                f"the number of processors must be {len(names)}, one for each name of attn_processors, got "
                f"{len(processor)}; missing: {missing or 'none'}; unknown: {unknown or 'none'}"
            )
        for one in processor.values() if isinstance(processor, dict) else [processor]:
            if isinstance(one, type) or not callable(one):
                raise InputError(f"an attention processor must be an object that can be called, got {one!r}")
        super().set_attn_processor(dict(processor) if isinstance(processor, dict) else processor)

    def enable_cache(self, config: Any) -> None:
        """As diffusers' ``CacheMixin.enable_cache``.

        Raises:
            InputError: ranges of pyramid attention broadcast for a kind of attention that this model has not got.
        """
        super().enable_cache(self._with_own_names(config))

    def _with_own_names(self, config: Any) -> Any:
        """A config whose identifiers find this model's spatial and temporal attention, which go by other names."""
        if type(config).__name__ != "PyramidAttentionBroadcastConfig":
            return config
        factorized, cross = self.config.attention == "factorized", self.config.block == "cross"
        for kind, there in (("temporal", factorized), ("cross", cross)):
            if getattr(config, f"{kind}_attention_block_skip_range") is not None and not there:
                raise InputError(f"{kind}_attention_block_skip_range is set, but this model has no {kind} attention")
        if not factorized:
            return config
        return replace(
            config,
            spatial_attention_block_identifiers=(r"^blocks\.\d+\.spatial\.",),
            temporal_attention_block_identifiers=(r"^blocks\.\d+\.temporal\.",),
        )

    def _check_shapes(self, latents: Tensor, timestep: Tensor, text: Tensor, mask: Tensor | None) -> Size3D:
        """The grid of tokens."""
        if latents.ndim != 5 or latents.shape[1] != self.config.in_channels:
            raise InputError(f"expected latents [B, {self.config.in_channels}, T, H, W], got {list(latents.shape)}")
        batch, dim = latents.shape[0], self.config.text_dim
        if text.ndim != 3 or text.shape[0] != batch or text.shape[2] != dim:
            raise InputError(f"encoder_hidden_states must be [{batch}, L, {dim}], got {list(text.shape)}")
        if mask is not None and mask.shape != text.shape[:2]:
            raise InputError(f"encoder_attention_mask must be {list(text.shape[:2])}, got {list(mask.shape)}")
        grid = self.geometry.token_size(Size3D(*latents.shape[2:]))
        shapes = ([batch], [batch, grid.t], [batch, grid.numel])
        if list(timestep.shape) not in shapes:
            raise InputError(
                f"timestep must be {shapes[0]}, {shapes[1]} (frames) or {shapes[2]} (tokens), "
                f"got {list(timestep.shape)}"
            )
        return grid

    def _see(
        self, text: Tensor, image: Tensor | None, noisiest: Tensor, mask: Tensor | None, prepared: Prepared | None
    ) -> Prepared:
        """What the blocks see beside the video: taken from ``prepared``, or made and, where it stays so, kept there."""
        if prepared is not None and prepared.text is not None:
            return prepared
        refined = (noisiest, mask) if isinstance(self.text_embedder, TextRefiner) else ()
        made = Prepared(self.text_embedder(text, *refined), self._embed_image(image))  # [B, L, D], [B, I, D]
        stays = self.config.block == "cross" and not refined and self.config.position_embedding != "learned"
        # What a compiled graph returns may be overwritten by its next run.
        if prepared is None or not stays or torch.compiler.is_compiling():
            return made
        prepared.text, prepared.image = made.text, made.image
        if not any(map(_is_hooked, self.blocks.modules())):
            prepared.keys_values = [block.keys_values(made.text, made.image) for block in self.blocks]  # type: ignore[operator]
        return prepared

    def _sinusoids(self, numbers: Tensor) -> Tensor:
        """Any numbers ``[...]`` as sinusoids ``[..., freq_dim]`` in the dtype of the embedders."""
        values = self.timesteps(numbers.flatten()).unflatten(0, numbers.shape)  # fp32
        return values.to(self.time_embedder.linear_1.weight.dtype)

    def _embed_extras(self, pooled: Tensor | None, guidance: Tensor | None, latents: Tensor) -> Tensor | None:
        """What is added to the timestep's embedding, ``[B, K]``, or ``None``."""
        for name, value, embedder in (
            ("pooled_projections", pooled, self.pooled_embedder),
            ("guidance", guidance, self.guidance_embedder),
        ):
            if (value is None) != (embedder is None):
                raise InputError(f"{name} is missing" if value is None else f"this model takes no {name}")
        parts = []
        if guidance is not None and self.guidance_embedder is not None:
            parts.append(self.guidance_embedder(self._sinusoids(1000 * guidance.float())))
        if pooled is not None and self.pooled_embedder is not None:
            parts.append(self.pooled_embedder(pooled))
        if stride := self.config.size_condition_stride:
            height, width = (float(stride * side) for side in latents.shape[3:])
            size = torch.tensor([[height, width]], device=latents.device)
            resolution = self.resolution_embedder(self._sinusoids(size)).flatten(1)  # [1, 2·K/3]
            ratio = self.aspect_ratio_embedder(self._sinusoids(size[:, 0] / size[:, 1]))  # [1, K/3]
            parts.append(torch.cat([resolution, ratio], dim=1).expand(latents.shape[0], -1))
        return sum(parts[1:], parts[0]).to(latents.dtype) if parts else None

    def _embed_timestep(self, timestep: Tensor, extra: Tensor | None, grid: Size3D, dtype: torch.dtype) -> Modulation:
        """The condition of the distinct timesteps and, for one timestep a token, the row of each token."""
        token_row = None
        if timestep.ndim == 1:
            timestep = timestep[:, None]  # [B, 1]
        elif timestep.shape[1] == grid.numel:
            # Rows of different samples differ where something is added to them.
            sample = torch.arange(len(timestep), device=timestep.device)[:, None]
            keys = timestep.double() + (0 if extra is None else 10_000 * sample)  # timesteps end at 1000
            keys, token_row = torch.unique(keys, return_inverse=True)  # [U], [B, S]
            owner = (keys / 10_000).floor().long()
            timestep = keys - 10_000 * owner if extra is not None else keys
            extra = None if extra is None else extra[owner]  # [U, K]
        values = self.time_embedder(self._sinusoids(timestep)).to(dtype)  # [B, G, K] or [U, K]
        if extra is not None:
            values = values + (extra if token_row is not None else extra[:, None])
        return Modulation(values, token_row)

    def _add_positions(self, x: Tensor, text: Tensor, grid: Size3D) -> tuple[Tensor, Tensor]:
        """Add the position embedding, if there is one, to video ``[B, S, D]`` and text ``[B, L, D]`` tokens."""
        config = self.config
        if config.position_embedding == "sincos_2d":
            x = x + sincos_2d(grid, x.shape[2], x.device, tuple(config.position_base)).to(x.dtype)
        elif config.position_embedding == "sincos_3d":
            x = x + sincos_3d(grid, x.shape[2], x.device, tuple(config.position_scale)).to(x.dtype)
        elif config.position_embedding == "learned":
            if tuple(grid) != tuple(config.learned_grid) or text.shape[1] != config.learned_text:
                trained = Size3D(*config.learned_grid)
                raise InputError(
                    f"this model has learned positions for {trained} tokens and {config.learned_text} of text, "
                    f"got {grid} and {text.shape[1]}"
                )
            positions = self.learned_positions.to(x.dtype)
            text, x = text + positions[:, : config.learned_text], x + positions[:, config.learned_text :]
        return x, text

    def _embed_image(self, image: Tensor | None) -> Tensor | None:
        if (image is None) != (self.image_embedder is None):
            name = "encoder_hidden_states_image"
            raise InputError(f"{name} is missing" if image is None else f"this model takes no {name}")
        return None if self.image_embedder is None else self.image_embedder(image)


def _is_hooked(module: nn.Module) -> bool:
    """Whether something happens before a module's forward: only there are offloaded or sharded weights in place."""
    return bool(module._forward_pre_hooks) or hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook")


for _block in (CrossBlock, FactorizedBlock, JointBlock, SingleBlock):
    TransformerBlockRegistry.register(
        _block, TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=1)
    )
