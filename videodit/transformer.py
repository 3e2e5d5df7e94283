"""VideoDiT: a diffusion transformer over the spacetime patches of a clip's latents.

One class for the published families: its options name what differs between them, and `videodit/families/` says which
options a family has. The classes that options name (`videodit/blocks/`, `videodit/rotary.py`,
`videodit/positions.py`) say themselves what they need; `videodit/options.py` checks the options.

Letters: ``B`` batch, ``C`` latent channels, ``T H W`` latent frames, height and width, ``t h w`` the same
in tokens, ``S = t·h·w`` tokens, ``L`` text tokens, ``D`` width, ``K`` width of the condition, ``G`` groups of
tokens that share a timestep: 1, ``T`` or ``S``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from diffusers import CacheMixin, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from einops import rearrange
from torch import Tensor, nn

from videodit._diffusers import AttentionMixin, hook_names, offloading_hook
from videodit.adapters.network import AdaptedNetwork
from videodit.adapters.state import scaled_adapters
from videodit.attention import QKNorm
from videodit.blocks import (
    BLOCKS,
    FINAL_LAYERS,
    LAYERS,
    MODULATION,
    TEXT_EMBEDDERS,
    BlockContext,
    BlockKind,
    BlockNorm,
    EmbeddedText,
    FinalLayerKind,
    FP32LayerNorm,
    ImageEmbedder,
    PatchControl,
    PictureFill,
    ReferencePatch,
    TextEmbeddingKind,
    modulate,
)
from videodit.condition import ConditionModel
from videodit.context_parallel import ContextParallelModel, Tokens
from videodit.control.hints import ControlHint, add_up
from videodit.diffusers_overrides import DiffusersOverrides
from videodit.errors import InputError
from videodit.families.loading import FamilyLoading
from videodit.forwards import Entered, ModelInputs, Prepared
from videodit.initialization import initialize
from videodit.json_types import JsonObject
from videodit.options import AttentionKind, check_options, names_in_fp32
from videodit.positions import POSITIONS, PositionEmbedding
from videodit.reference_tokens import ReferenceTokens, join_references, references_beside
from videodit.rotary import ROTARY, RotaryKind
from videodit.shapes import Size3D, VideoGeometry


class VideoDiT(
    FamilyLoading,
    ContextParallelModel,
    ConditionModel,
    DiffusersOverrides,
    ModelMixin,
    ConfigMixin,
    AdaptedNetwork,
    CacheMixin,
    AttentionMixin,
):
    """A video diffusion transformer.

    Args:
        patch_size: **Sizes.** Latents a token along time, height and width.
        num_attention_heads: heads ``N``.
        attention_head_dim: channels of a head; ``D = N · head_dim``.
        in_channels: channels of the latents that come in.
        out_channels: channels of the prediction; ``None`` for ``in_channels``.
        text_dim: width of the text encoder's tokens.
        freq_dim: channels of the sinusoids that the timestep is first written in.
        ffn_dim: hidden width of the MLPs.
        num_layers: number of cross or joint blocks; of ``"tied_sandwich"`` ones, of those that see the video alone.
        num_single_layers: blocks with attention and MLP side by side, after joint ones; ``"tied_sandwich"`` ones that
            see all.

        block: **Blocks.** ``"cross"``: self-attention, then cross-attention to the text. ``"joint"``: video and text
            attend together, each with its own weights. ``"tied_joint"``: with one set of weights for both.
            ``"sandwich"``: each with its own, text of its own width, and norms around each sublayer.
            ``"shared_joint"``: each with its own, without biases, and with one modulation for all blocks.
            ``"tied_sandwich"``: with one set of weights, and learned norms around each sublayer; the first blocks see
            the video alone.
        attention: ``"full"`` lets every token see every other; ``"factorized"`` sees within frames, then along
            time, in two halves of each layer (cross blocks only).
        frame_embedding: sinusoids of the frame's number before the first temporal block (factorized attention).
        block_norm: kind of the norms in the blocks.
        norm_affine: learned scale and shift in them and in the final norm.
        eps: of all norms but those of queries and keys.
        cross_attn_norm: an affine norm before the cross-attention.
        qk_norm: norm of queries and keys: root mean square over all heads together, over each head, layer norm over
            each head, or none.
        qk_norm_eps: of the norm of queries and keys; ``None`` for ``eps``.
        block_options: whatever else the classes take that the options name (``settings`` of
            :class:`videodit.schema.Part`); ``None`` for their defaults.

        text_embedding: **Text and image.** ``"mlp"`` of two layers, one ``"linear"`` layer, a ``"refiner"``, a small
            transformer that knows the timestep and the mask, ``"pooling"`` for the condition beside a linear layer, or
            a ``"normed_linear"`` one; such a one, learned tokens that fill the text up, and a small transformer
            (``"filled"``); or ``"sources"``: a refiner for tokens of one encoder, an MLP for those of another, and a
            picture's beside them.
        num_refiner_layers: its blocks.
        image_dim: width of an image encoder's tokens that the model sees beside the text's; ``None`` for none.
        image_tokens: how many of them, where their positions are learned.

        time_embed_dim: **Condition.** Its width ``K``; ``None`` for ``D``, which tables need.
        pooled_dim: width of a pooled text embedding that is added to the condition; ``None`` for none.
        guidance_embeds: the guidance scale is part of the condition.
        size_condition_stride: pixels a latent, for models that are told height, width and their ratio; ``None`` for
            others.

        rope: **Positions.** ``"grid"``: each axis turns its share of every head. ``"fractional"``: LTX-Video's, over
            the whole width and in seconds. ``"learned"``: by learned frequencies. ``"centred"``: from the middle of a
            picture, its text behind it. ``"text_axis"``: the text has an axis of its own, the fourth. ``"plane"``: the
            text lies in a plane of its own, before the picture's. ``"text_first"``: text and frames follow one another
            along time. ``None``: none.
        rope_theta: base of the rotary frequencies.
        rope_axes: channels of a head for time, height and width, and the text's axis; ``None`` for an even split.
        rope_lag: how far tokens after the first frame are behind along time, as a share of a token, with
            ``"fractional"`` positions.
        position_embedding: added to the tokens: ``"sincos_2d"``, ``"sincos_3d"``, ``"learned"`` or ``None``.
        position_scale: what a token is long along time, height and width.
        position_base: height and width that positions are fitted to; ``None`` leaves them as they are.
        learned_grid: tokens along time, height and width that learned positions were trained for.
        learned_text: text tokens that they cover, too.

        final_layer: **Output.** Shift and scale at the end from a learned ``"table"`` plus the condition, or from a
            ``"linear"`` layer of it, or the ``"scale"`` alone from one; ``None`` for nothing, which the trunk of a
            control branch has.
        final_layer_norm: one more affine layer norm before that.

        family: **Origin.** Whose weights these are, where they came from elsewhere; see :mod:`videodit.families`.
        family_config: their config there.

    Raises:
        InputError: an unknown choice, a size below 1, options that contradict each other, or a head that rotary
            positions cannot split.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = [block.__name__ for block in LAYERS]
    _repeated_blocks = [block.__name__ for block in LAYERS if block.compiled]
    _skip_layerwise_casting_patterns = [
        "patch_embed",
        "control_embedder",
        "reference_embedder",
        "time_embedder",
        "text_embedder",
        "norm",
    ]
    _keep_in_fp32_modules = names_in_fp32()

    # Long, since the options are the stored config and each is a parameter; what new classes take is in block_options.
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
        final_layer: FinalLayerKind | None = "table",
        final_layer_norm: bool = False,
        time_embed_dim: int | None = None,
        pooled_dim: int | None = None,
        guidance_embeds: bool = False,
        size_condition_stride: int | None = None,
        image_dim: int | None = None,
        image_tokens: int | None = None,
        rope: RotaryKind | None = "grid",
        rope_axes: tuple[int, ...] | None = None,
        position_embedding: PositionEmbedding | None = None,
        position_scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
        position_base: tuple[float, float] | None = None,
        rope_lag: float = 0.0,
        learned_grid: tuple[int, int, int] | None = None,
        learned_text: int = 0,
        frame_embedding: bool = False,
        family: str | None = None,
        family_config: JsonObject | None = None,
        block_options: JsonObject | None = None,
    ) -> None:
        super().__init__()
        check_options(self.config)
        dim = num_attention_heads * attention_head_dim
        self.geometry = VideoGeometry(Size3D(1, 1, 1), patch_size)  # type: ignore[arg-type]  # it converts
        patch = self.geometry.patch
        # What tells the classes apart they say themselves: from here on nothing asks for a kind.
        self.block_class = BLOCKS[block]
        self.modulation_class, self.final_class = (
            MODULATION[self.block_class.modulation_kind],
            FINAL_LAYERS[final_layer],
        )
        self.positions_class, rotary = POSITIONS[position_embedding], ROTARY[rope]

        # What comes in: latents and their positions
        self.rotary = None if rotary is None else rotary.of(self.config)
        self.patch_embed = nn.Linear(in_channels * patch.numel, dim, bias=self.block_class.biases)
        self.control_embedder = PatchControl.of(self.config, dim)
        self.reference_embedder = ReferencePatch.of(self.config, dim)
        if (learned := self.positions_class.new_parameter(self.config)) is not None:
            self.learned_positions = learned

        # the condition
        self._build_condition()
        self.time_proj = self.modulation_class.shared_layer(dim, time_embed_dim or dim)

        # the text, and an image
        text_width, biases = self.block_class.text_width(self.config), self.block_class.biases
        self.text_embedder = TEXT_EMBEDDERS[text_embedding].of(self.config, text_width, bias=biases)
        self.image_embedder = None if image_dim is None else ImageEmbedder(image_dim, dim, image_tokens)
        self.fill = PictureFill.of(self.config, dim)

        self.split_tokens = nn.Identity()  # where context parallel takes hold

        # Blocks, one list: caches and offloading find one list alone
        count = num_layers + num_single_layers
        self.blocks = nn.ModuleList(self.block_class.build(self.config, index) for index in range(count))
        # Of this model alone: FSDP looks for every class that is named.
        self._no_split_modules = sorted({type(block).__name__ for block in self.blocks})

        # What goes out
        self.proj_out = None
        if final_layer is not None:
            self.norm_final = FP32LayerNorm(dim, eps) if final_layer_norm else nn.Identity()
            self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=norm_affine)
            self.final_class.build(self, self.config, dim)
            self.proj_out = nn.Linear(dim, (out_channels or in_channels) * patch.numel, bias=self.block_class.biases)
        self.gradient_checkpointing = False
        self.init_weights()

    def init_weights(self) -> None:
        """Set every parameter. Blocks and embedders do it themselves, in their ``init_weights``.

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
        initialize(self, zero=(*self.final_class.layers(self), self.time_proj, self.proj_out))
        self.final_class.init_weights(self)
        if (learned := getattr(self, "learned_positions", None)) is not None:
            nn.init.normal_(learned, std=0.02)

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
        attention_kwargs: dict[str, object] | None = None,
        return_dict: bool = True,
        *,
        prepared: Prepared | None = None,
        causal_frames: int = 1,
        control: Sequence[ControlHint] = (),
        references: Sequence[ReferenceTokens] = (),
        patch_control: Tensor | None = None,
        timestep_r: Tensor | None = None,
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
            fps: frames per second, for fractional rotary positions and models that are told.
            attention_kwargs: ``{"scale": s}`` scales loaded LoRA layers.
            return_dict: an output object instead of a tuple.
            prepared: the same object for all steps of a generation; see :class:`Prepared`.
            causal_frames: latent frames of tokens that see one another and those before them, but none behind; with 1
                all see all.
            control: branches that control the prediction, each with what it controls it by and how strongly.
            references: what the clip's tokens attend to beside one another, at places and timesteps of its own; see
                :class:`~videodit.reference_tokens.ReferenceTokens`. Nothing is predicted of it.
            patch_control: what steers the clip ``[1 or B, C', T, H, W]``, for models that add it to their tokens;
                ``None`` adds nothing.
            timestep_r: the timestep ``[B]`` that a step leads to, for models that are told.

        Returns:
            ``sample``: ``[B, out_channels, T, H, W]``.

        Raises:
            InputError: latents, timesteps, text, a mask, a control or a reference whose shape does not fit, a condition
                that is missing or that the model does not have, a branch of another model, or references of a model
                that knows no place for them.
        """
        if self.proj_out is None:
            raise InputError("this VideoDiT has final_layer=None and predicts nothing: it is the trunk of a branch")
        inputs = ModelInputs(
            hidden_states,
            timestep,
            encoder_hidden_states,
            encoder_attention_mask,
            pooled_projections,
            guidance,
            encoder_hidden_states_image,
            fps,
            causal_frames,
            references,
            patch_control,
            timestep_r,
        )
        entered = self.enter(inputs, prepared)
        hints = add_up(control, inputs, entered, prepared, self.division) if control else {}  # [B, S, D] by block
        x, text, context, condition, keys_values = entered  # [B, S, D], [B, L, D]
        del entered  # or the first block's tokens would be held until the last one is done

        for i, block in enumerate(self.blocks):
            if keys_values is not None:
                context = context._replace(keys_values=keys_values[i])  # [B, L, N, D/N] twice
            if control:
                context = context._replace(hint=hints.pop(i, None))
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x, text = self._gradient_checkpointing_func(block, x, text, context)  # [B, S, D], [B, L, D]
            else:
                x, text = block(x, text, context)  # [B, S, D], [B, L, D]

        t, h, w = context.grid
        pt, ph, pw = self.geometry.patch
        x = x[:, : x.shape[1] - context.references]  # [B, S, D]: the clip's tokens alone
        shift, scale = self.final_class.rows(self, condition)  # [B, G, D] or [U, D]
        x = modulate(self.norm_out(self.norm_final(x)), shift, scale, condition.token_row).to(hidden_states.dtype)
        x = self.proj_out(x)  # [B, S, patch·C], S whole again
        sample = rearrange(x, "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    # Long, since the way of a clip reads from top to bottom, with a shape on each line.
    def enter(
        self,
        inputs: ModelInputs,
        prepared: Prepared | None = None,
        *,
        added: Tensor | None = None,
        lead: Tensor | None = None,
        own_share: Callable[[Tokens], Tokens] | None = None,
    ) -> Entered:
        """The way of a clip and its text up to the first block.

        Args:
            inputs: of a forward.
            prepared: see :meth:`forward`.
            added: ``[B, S, D]``, added to the embedded latents.
            lead: embedded text tokens ``[B, n, D]`` that go before the text.
            own_share: what of the tokens this process computes; ``None`` for this model's own division of them.

        Raises:
            InputError: see :meth:`forward`.
        """
        latents, timestep = inputs.latents, inputs.timestep
        grid = self._check_shapes(latents, timestep, inputs.text, inputs.text_mask)  # t, h, w
        if prepared is not None and prepared.text is not None:
            found, given = list(prepared.text.shape[:2]), list(inputs.text.shape[:2])
            if found != given:
                raise InputError(f"prepared is for text {found}, got encoder_hidden_states {given}")
        self._check_extras(inputs.pooled, inputs.guidance, inputs.target)
        pt, ph, pw = self.geometry.patch
        dtype = latents.dtype

        # [B, C, T, H, W] → [B, S, C·patch] → [B, S, D]
        x = rearrange(latents, "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)
        x = self.patch_embed(x)
        if inputs.patch_control is not None:
            x = x + self._embed_control(inputs.patch_control, latents, prepared)
        if added is not None:
            x = x + added
        noisiest = timestep.flatten(1).amax(dim=1) if timestep.ndim > 1 else timestep  # [B]
        mask = None if inputs.text_mask is None else inputs.text_mask.bool()  # [B, L]
        seen = self._see(inputs.text, inputs.image, noisiest, mask, prepared)
        assert seen.text is not None
        # [B, K] or None
        extra = self._embed_extras(inputs.pooled, inputs.guidance, inputs.target, seen.pooled, latents)
        x, text = self.positions_class.add(self, x, seen.text, grid)  # [B, S, D], [B, L, D]
        mask = mask if seen.mask is None else seen.mask
        if lead is not None:
            text = torch.cat([lead.to(text.dtype).expand(len(text), -1, -1), text], dim=1)
            mask = None if mask is None else F.pad(mask, (lead.shape[1], 0), value=True)

        if self.fill is not None:
            text, mask = self.fill(text, mask, grid.numel)

        joined = text.shape[1] if self.block_class.joined else 0  # text tokens in one sequence with the video's
        beside = references_beside(self, inputs.references, grid, len(x))
        # [1 or B, S or S + L, 1 or N, head_dim / 2, 2]
        rotary = None if self.rotary is None else self.rotary(grid, x.device, inputs.fps, joined, mask, beside)
        if beside:  # from here on they count among the video's S tokens, the clip's first
            # [B, S, D], [B] or [B, S]
            x, timestep = join_references(self, inputs.references, beside, grid, x, timestep)
        references = x.shape[1] - grid.numel
        condition = self._embed_timestep(timestep, extra, x.shape[1], dtype)  # [B, G, K], or [U, K] and [B, S]
        if own_share is None and self.division is not None:
            own_share = self.division.share
        if (own_share is not None or references) and (causal := inputs.causal_frames) > 1:
            raise InputError(
                f"causal_frames is {causal}; it must be 1 with references, and where processes share the tokens"
            )
        if own_share is not None:  # from here on S and L are this process's share
            x, text, rotary, mask, condition, references = own_share(
                Tokens(x, text, rotary, mask, condition, references)
            )
        context = BlockContext(
            grid=grid,
            rotary=rotary,
            text_mask=self.block_class.text_mask(mask, x.shape[1]),  # [B, 1, 1, L or S + L] or None
            image=seen.image,  # [B, I, D] or None
            # [1, 1, S, S] or None
            self_mask=self.block_class.self_mask(self.config, grid, inputs.causal_frames, x.device),
            **self.modulation_class.told(
                self._projection(inputs.fps), condition, lambda: self._embed_timestep(noisiest, extra, 1, dtype)
            ),
            references=references,
            **self.block_class.more_context(self.config, grid, x),
        )

        condition = condition.first(x.shape[1] - references)
        condition = self._embed_last(condition, noisiest, extra, dtype)  # [B, G, K] or [U, K]
        return Entered(x, text, context, condition, seen.keys_values)

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

    def _embed_control(self, control: Tensor, latents: Tensor, prepared: Prepared | None) -> Tensor:
        """What steers a clip as tokens ``[1 or B, S, D]``, kept in ``prepared``."""
        if self.control_embedder is None:
            raise InputError("this model takes no patch_control")
        if prepared is not None and prepared.patch_control is not None:
            return prepared.patch_control
        channels = PatchControl.setting(self.config, "patch_control")
        size = [channels, *latents.shape[2:]]
        if list(control.shape) not in ([1, *size], [len(latents), *size]):
            raise InputError(f"patch_control must be {[f'1 or {len(latents)}', *size]}, got {list(control.shape)}")
        tokens: Tensor = self.control_embedder(control.to(latents.dtype))
        if prepared is not None and not torch.compiler.is_compiling():  # see _see
            prepared.patch_control = tokens
        return tokens

    def _see(
        self, text: Tensor, image: Tensor | None, noisiest: Tensor, mask: Tensor | None, prepared: Prepared | None
    ) -> Prepared:
        """What the blocks see beside the video: taken from ``prepared``, or made and, where it stays so, kept there."""
        if prepared is not None and prepared.text is not None:
            return prepared
        embedder = TEXT_EMBEDDERS[self.config.text_embedding]
        # [B, I, D] or None
        image = None if image is None and "image" in embedder.sees else self._embed_image(image)
        beside = {"timestep": noisiest, "mask": mask, "image": image}
        embedded = self.text_embedder(text, **{name: beside[name] for name in embedder.sees})  # [B, L, D]
        embedded = embedded if isinstance(embedded, EmbeddedText) else EmbeddedText(embedded)
        made = Prepared(embedded.tokens, image, pooled=embedded.pooled, mask=embedded.mask)
        stays = (
            self.block_class.keeps_text and "timestep" not in embedder.sees and not self.positions_class.changes_text
        )
        # What a compiled graph returns may be overwritten by its next run.
        if prepared is None or not stays or torch.compiler.is_compiling():
            return made
        prepared.text, prepared.image, prepared.pooled, prepared.mask = made.text, made.image, made.pooled, made.mask
        if not any(map(is_hooked, self.blocks.modules())):
            prepared.keys_values = [block.keys_values(made.text, made.image) for block in self.blocks]  # type: ignore[operator]
        return prepared

    def _embed_image(self, image: Tensor | None) -> Tensor | None:
        if (image is None) != (self.image_embedder is None):
            name = "encoder_hidden_states_image"
            raise InputError(f"{name} is missing" if image is None else f"this model takes no {name}")
        return None if self.image_embedder is None else self.image_embedder(image)


def is_hooked(module: nn.Module) -> bool:
    """Whether something happens before a module's forward: only there are offloaded or sharded weights in place."""
    return bool(module._forward_pre_hooks) or offloading_hook(module) is not None or hook_names(module) is not None
