"""ControlBranch: blocks beside a model that see a control and tell the model's own blocks of it.

Two kinds, by where they begin:

- ``"hidden"``: at the model's tokens before its first block, with its text and its timestep; the control is added to
  them. Jiang et al., "VACE" (2025).
- ``"trunk"``: a :class:`~videodit.VideoDiT` of its own, without a final layer, that embeds everything by itself. Zhang
  et al., "Adding Conditional Control to Text-to-Image Diffusion Models" (2023).

Letters: ``B`` batch, ``C`` control channels, ``T H W`` latent frames, height and width, ``S`` video tokens, ``L`` text
tokens, ``D`` width of the branch, ``E`` width of the base.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_args

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import Self

from videodit._diffusers import AttentionMixin, apply_forward_hook
from videodit.adapters.network import AdaptedNetwork
from videodit.arguments import check_choice, check_path
from videodit.blocks import BLOCKS
from videodit.blocks.base import Block
from videodit.checkpoints import HUB_OPTIONS, CheckedLoading, HubOptions, fetch_weights, find_folder, weight_files
from videodit.configs import check_config, read_json
from videodit.context_parallel import Division
from videodit.control.branch_config import (
    ControlConfig,
    EncoderName,
    Join,
    KindEmbedding,
    Layout,
    Start,
    check_base,
    describe_base,
)
from videodit.control.encoders import ENCODERS, PixelEncoder
from videodit.control.layouts import PUBLISHED, read_branch_config
from videodit.control.published import load_published
from videodit.diffusers_overrides import DiffusersOverrides
from videodit.errors import InputError
from videodit.files import add_blocks
from videodit.forwards import Entered, ModelInputs, Prepared
from videodit.initialization import initialize
from videodit.json_types import JsonObject
from videodit.options import names_in_fp32
from videodit.schema import choose
from videodit.transformer import VideoDiT, is_hooked
from videodit.transformer_config import TransformerConfig, full_options
from videodit.weights import is_plain

_CHOICES: dict[str, tuple[object, ...]] = {
    "start": get_args(Start),
    "join": get_args(Join),
    "layout": (None, *get_args(Layout)),
    "kind_embedding": (None, *get_args(KindEmbedding)),
}


class ControlBranch(CheckedLoading, DiffusersOverrides, ModelMixin, ConfigMixin, AdaptedNetwork, AttentionMixin):
    """Blocks that turn a control into hints, one for each of some blocks of a base model.

    :meth:`from_base` makes one that changes nothing yet. ``dit(…, control=[ControlHint(branch, control)])`` adds its
    hints; in a pipeline, ``pipe.add_control("depth", branch)``.

    Args:
        network: options of the :class:`~videodit.VideoDiT` that its blocks are of; of a trunk, all of them.
        layers: for each hint the numbers of the base's blocks that it is added after.
        control_channels: channels of a control on the grid of the latents.
        start: where its blocks begin: at the base's ``"hidden"`` state, or with a ``"trunk"`` of its own.
        join: how a trunk sees the control: embedded by a layer of its own and ``"add"``-ed, or ``"concat"`` with the
            latents' channels.
        encoder: how pixels become a control: a key of :data:`videodit.control.encoders.ENCODERS`; ``None``: by the
            model's autoencoder.
        pixel_channels: channels that the encoder takes.
        pixel_stride: pixels a latent along time, height and width.
        layout: what the channels of a control are, where they are more than latents: ``"vace"``, which is what stays
            and what is generated, and the mask of that.
        kinds: names of the controls that it was trained for.
        kind_embedding: how it tells its kinds apart: an embedding on all tokens of the ``"video"``, or a token before
            the ``"text"``; ``None``: not at all.
        project: each hint goes through a linear layer; else it is what its block makes.
        base: what it was made for: see :func:`videodit.control.branch_config.describe_base`.
        published: the config of the published layout that it came from.

    Raises:
        InputError: options that are unknown or contradict each other.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = VideoDiT._no_split_modules
    _repeated_blocks = VideoDiT._repeated_blocks
    _skip_layerwise_casting_patterns = VideoDiT._skip_layerwise_casting_patterns
    _keep_in_fp32_modules = names_in_fp32()
    config: ControlConfig

    @register_to_config
    def __init__(
        self,
        network: JsonObject,
        layers: list[list[int]],
        control_channels: int,
        start: Start = "hidden",
        join: Join = "add",
        encoder: EncoderName | None = None,
        pixel_channels: int = 3,
        pixel_stride: tuple[int, int, int] = (4, 8, 8),
        layout: Layout | None = None,
        kinds: tuple[str, ...] = (),
        kind_embedding: KindEmbedding | None = None,
        project: bool = True,
        base: JsonObject | None = None,
        published: JsonObject | None = None,
    ) -> None:
        super().__init__()
        _check(self.config)
        options = full_options(network)
        dim = options.num_attention_heads * options.attention_head_dim
        self._patch_size = options.patch_size
        patch = math.prod(options.patch_size)
        made: type[PixelEncoder] | None = choose("encoder", encoder, ENCODERS)
        self.pixel_encoder = None if made is None else made(pixel_channels, pixel_stride, control_channels)
        embedded = start == "hidden" or join == "add"
        self.patch = nn.Linear(control_channels * patch, dim) if embedded else None
        self.kind_embedder = None if kind_embedding is None else nn.Embedding(len(kinds), dim)
        if start == "hidden":
            self.before = nn.Linear(dim, dim)
            self.blocks = nn.ModuleList(_build_blocks(options, len(layers)))
        else:
            self.trunk = VideoDiT(**cast(dict[str, Any], network))
        width = (base or {}).get("width") or dim
        self.after = nn.ModuleList(nn.Linear(dim, width) if project else nn.Identity() for _ in layers)
        self.gradient_checkpointing = False
        self._division: Division | None = None
        self._fingerprint: str | None = None
        self._no_split_modules = sorted({type(block).__name__ for block in self.network.blocks})
        self.init_weights()

    def init_weights(self) -> None:
        """Set every parameter. Hints start at 0, and so does what a control adds to a trunk or a hidden state."""
        ends: list[nn.Module | None] = [*self.after]
        ends.append(self.before if self.config.start == "hidden" else self.patch)
        initialize(self, zero=ends)
        if self.kind_embedder is not None:
            nn.init.normal_(self.kind_embedder.weight, std=0.02)

    # ---- making ----------------------------------------------------------------------------------

    @classmethod
    @torch.no_grad()
    def from_base(
        cls,
        dit: VideoDiT,
        *,
        layers: Sequence[int] | None = None,
        control_channels: int | None = None,
        start: Start = "hidden",
        join: Join = "add",
        encoder: EncoderName | None = None,
        pixel_channels: int = 3,
        pixel_stride: Sequence[int] = (4, 8, 8),
        layout: Layout | None = None,
        kinds: Sequence[str] = (),
        base_hash: str | None = None,
    ) -> Self:
        """A branch of copies of a model's blocks. Until it is trained, it changes nothing.

        Args:
            dit: the model.
            layers: of its blocks, for each of the branch's the one that its hint is added after. A branch that begins
                at the hidden state copies these; a trunk copies as many from the first on. ``None``: about every
                fourth.
            control_channels: ``None``: as many as the latents have, 64 with an encoder.
            start: see :class:`ControlBranch`.
            join: see there.
            encoder: see there.
            pixel_channels: see there.
            pixel_stride: see there.
            layout: see there.
            kinds: see there; several are told apart by an embedding.
            base_hash: the fingerprint of the model's weights, ``pipe.model_hash``, so that the branch is used with no
                other.

        Raises:
            InputError: layers that the model does not have, in another order or twice, or options that are unknown.
        """
        count = len(dit.blocks)
        numbers = list(range(0, count, 4)) if layers is None else list(layers)
        if (
            not numbers
            or any(type(n) is not int or not 0 <= n < count for n in numbers)
            or numbers != sorted({*numbers})
        ):
            raise InputError(
                f"layers is {numbers}; it must hold some of the numbers from 0 to {count - 1}, each once and in order"
            )
        if control_channels is None:
            control_channels = 64 if encoder is not None else (dit.config.out_channels or dit.config.in_channels)
        sources = numbers if start == "hidden" else list(range(len(numbers)))
        network = _network(dit.config, sources)
        if start == "trunk":
            network["num_layers"] = max(1, sum(n < dit.config.num_layers for n in sources))
            network["final_layer"] = None
            if join == "concat":
                network["in_channels"] = dit.config.in_channels + control_channels
        branch = cls(
            network=network,
            layers=[[number] for number in numbers],
            control_channels=control_channels,
            start=start,
            join=join,
            encoder=encoder,
            pixel_channels=pixel_channels,
            pixel_stride=tuple(pixel_stride),  # type: ignore[arg-type]
            layout=layout,
            kinds=tuple(kinds),
            kind_embedding="video" if len(kinds) > 1 else None,
            base=describe_base(dit.config, base_hash),
        )
        branch._copy(dit, sources)
        branch.match(dit)
        return branch.eval()

    def _copy(self, dit: VideoDiT, sources: Sequence[int]) -> None:
        """Take over a model's weights, as far as there are places for them: a last block may have less than others."""
        for block, number in zip(self.network.blocks, sources, strict=True):
            _copy_fitting(dit.blocks[number], block)
        if self.config.start == "trunk":
            for name, part in dit.named_children():
                if name != "blocks" and getattr(self.trunk, name, None) is not None:
                    _copy_fitting(part, getattr(self.trunk, name))
            if (learned := getattr(dit, "learned_positions", None)) is not None:
                self.trunk.learned_positions.copy_(learned)
            if self.config.join == "concat":
                into = self.trunk.patch_embed
                into.weight.zero_()
                into.weight[:, : dit.patch_embed.in_features] = dit.patch_embed.weight
                if into.bias is not None:
                    into.bias.copy_(dit.patch_embed.bias)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        base: VideoDiT | None = None,
        base_hash: str | None = None,
        any_base: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a branch from a folder or a hub id: one that :meth:`save_pretrained` wrote, or a published one.

        Args:
            pretrained_model_name_or_path: the folder or hub id.
            base: the model that it is to control, which is compared with the one that it was made for before weights
                are read. Some published layouts do not say without it which blocks their hints are for.
            base_hash: the fingerprint of its weights, ``pipe.model_hash``.
            any_base: other weights of the same kind and size will do.
            kwargs: ``subfolder``, ``dtype``, and for the hub ``revision``, ``cache_dir``, ``token``,
                ``local_files_only``; for branches of the own layout whatever diffusers'
                ``ModelMixin.from_pretrained`` takes.

        Raises:
            InputError: no name, and no path; or a branch of another base.
            ModelError: a folder without safetensors, with a broken or missing shard, of an unknown class, or with
                tensors that are missing, left over, of another shape or not finite.
        """
        name = str(check_path(pretrained_model_name_or_path, "a control branch"))
        hub = cast(HubOptions, {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs})
        subfolder = kwargs.pop("subfolder", None) or ""
        folder = find_folder(name, subfolder, hub)
        if folder is None:
            raise InputError(f"{name!r} is neither a folder nor a hub id of a control branch")
        config = read_json(folder / "config.json")
        check_config(config, folder / "config.json")
        published = PUBLISHED.get(config.get("_class_name") or "")
        of_base = None if base is None else base.config
        if of_base is not None:
            check_base(read_branch_config(folder, of_base).base, of_base, base_hash, name, any_base=any_base)
        if not Path(name).is_dir():
            folder = fetch_weights(name, subfolder, hub)
        if published is None:
            branch = super().from_pretrained(folder, **kwargs)
        else:
            branch = load_published(cls, published, config, folder, of_base, wide=cls._keep_in_fp32_modules, **kwargs)
        branch._fingerprint = hash_of_files(weight_files(folder, kwargs.get("variant")))
        return branch

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def network(self) -> VideoDiT | Self:
        """Whose ``blocks`` are the branch's."""
        return self if self.config.start == "hidden" else self.trunk

    @property
    def places(self) -> Sequence[Sequence[int]]:
        """For each hint the blocks of the base that it is added after."""
        return self.config.layers

    @property
    def takes_pixels(self) -> bool:
        """Whether :meth:`encode` makes a control of pixels; else the model's autoencoder does."""
        return self.pixel_encoder is not None

    @property
    def fingerprint(self) -> str | None:
        """16 hexadecimal digits of the files that it was loaded from; ``None`` for a branch that was made in memory."""
        return self._fingerprint

    def check_base(self, dit: VideoDiT, base_hash: str | None = None, *, any_base: bool = False) -> None:
        """See that it was made for a model; see :func:`videodit.control.branch_config.check_base`.

        Raises:
            InputError: it was made for another one.
        """
        check_base(self.config.base, dit.config, base_hash, "the control branch", any_base=any_base)

    def match(self, dit: VideoDiT) -> None:
        """Move to a model's device, and take over its dtype but for what stays in fp32; quantized weights stay so."""
        wide = set(self._keep_in_fp32_modules)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                kept = wide.intersection(name.split(".")) or not is_plain(parameter)
                parameter.data = parameter.data.to(dit.device, None if kept else dit.dtype)
        self.to(dit.device)  # buffers

    # ---- computing -------------------------------------------------------------------------------

    @apply_forward_hook
    def encode(self, pixels: Tensor) -> Tensor:
        """Make a control of pixels.

        Args:
            pixels: ``[B, pixel_channels, frames, height, width]`` in [-1, 1].

        Returns:
            ``[B, control_channels, T, H, W]``.

        Raises:
            InputError: a branch without an encoder, or pixels of another shape.
        """
        if self.pixel_encoder is None:
            raise InputError("this branch has no encoder; its controls are encoded by the model's autoencoder")
        self.pixel_encoder.check(pixels)
        weight = next(self.pixel_encoder.parameters())
        control: Tensor = self.pixel_encoder(pixels.to(weight.device, weight.dtype))
        return control

    def forward(
        self,
        inputs: ModelInputs,
        entered: Entered,
        control: Tensor,
        kind: str | None = None,
        prepared: Prepared | None = None,
        division: Division | None = None,
    ) -> list[Tensor]:
        """The hints of a control.

        Args:
            inputs: that the base is called with.
            entered: where the base's first block begins.
            control: ``[1 or B, control_channels, T, H, W]`` on the grid of the latents.
            kind: one of ``kinds``, for a branch that tells them apart.
            prepared: what the base keeps of a generation, or ``None``.
            division: of its tokens among processes, or ``None``.

        Returns:
            ``[B, S, E]`` for each entry of ``layers``, of this process's tokens.

        Raises:
            InputError: a control of another shape, or an unknown or missing kind.
        """
        control = self._check_control(control, inputs.latents)
        if division is not self._division:
            self._divide(division)
        kept = None if prepared is None else prepared.branches.setdefault(id(self), Prepared())
        if self.config.start == "hidden":
            stays = prepared is not None and prepared.text is not None
            entered = self._enter_hidden(entered, control, kind, kept if stays else None)
        else:
            entered = self._enter_trunk(inputs, control, kind, kept)
        x, text, context, _, keys_values = entered
        found = []
        for i, (block, after) in enumerate(zip(self.network.blocks, self.after, strict=True)):
            if keys_values is not None:
                context = context._replace(keys_values=keys_values[i])
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x, text = self._gradient_checkpointing_func(block, x, text, context)  # [B, S, D], [B, L, D]
            else:
                x, text = block(x, text, context)  # [B, S, D], [B, L, D]
            found.append(after(x))  # [B, S, E]
        return found

    def _enter_hidden(self, base: Entered, control: Tensor, kind: str | None, kept: Prepared | None) -> Entered:
        """From the base's tokens, of which the control is added to."""
        assert self.patch is not None
        c = self._embedded(control, self._kind_row(kind))  # [B, S, D]
        if self._division is not None:
            c = self._division.split(c)
        x = self.before(c) + base.x
        context = base.context._replace(hint=None, keys_values=None)
        if kept is not None and kept.text is None:
            kept.text = base.text
            if not any(map(is_hooked, self.modules())):
                blocks = cast(Sequence[Block], self.blocks)
                kept.keys_values = [block.keys_values(base.text, context.image) for block in blocks]
        return Entered(x, base.text, context, base.condition, None if kept is None else kept.keys_values)

    def _enter_trunk(self, inputs: ModelInputs, control: Tensor, kind: str | None, kept: Prepared | None) -> Entered:
        """As a model of its own."""
        row, lead = self._kind_row(kind), None
        if row is not None and self.config.kind_embedding == "text":
            row, lead = None, row
        if self.patch is None:
            inputs = inputs._replace(latents=torch.cat([inputs.latents, control], dim=1))
            added = row
        else:
            added = self._embedded(control, row)  # [B, S, D]
        share = None if self._division is None else self._division.share
        return self.trunk.enter(inputs, kept, added=added, lead=lead, own_share=share)

    def _embedded(self, control: Tensor, row: Tensor | None) -> Tensor:
        """``[B, C, T, H, W] → [B, S, D]``."""
        assert self.patch is not None
        pt, ph, pw = self._patch_size
        c = self.patch(rearrange(control, "b c (t i) (h j) (w k) -> b (t h w) (c i j k)", i=pt, j=ph, k=pw))
        return c if row is None else c + row

    def _kind_row(self, kind: str | None) -> Tensor | None:
        """The embedding of a kind, ``[1, 1, D]``; ``None`` where kinds are not told apart."""
        if self.kind_embedder is None:
            return None
        if kind is None or kind not in self.config.kinds:
            raise InputError(f"kind must be one of {', '.join(self.config.kinds)}, got {kind!r}")
        number = torch.full([1, 1], list(self.config.kinds).index(kind), device=self.device)  # which waits for no GPU
        row: Tensor = self.kind_embedder(number)
        return row

    def _check_control(self, control: Tensor, latents: Tensor) -> Tensor:
        batch, _, *grid = latents.shape
        legal = [[rows, self.config.control_channels, *grid] for rows in sorted({1, batch})]
        if list(control.shape) not in legal:
            shapes = " or ".join(map(str, legal))
            raise InputError(f"a control of this branch must be {shapes}, got {list(control.shape)}")
        return control.to(latents.device, latents.dtype).expand(batch, -1, -1, -1, -1)

    def _divide(self, division: Division | None) -> None:
        """Let the attention of the blocks see the tokens of all processes; see :mod:`videodit.context_parallel`."""
        self._division = division
        for module in self.network.blocks.modules():
            if (processor := getattr(module, "processor", None)) is not None:
                processor._parallel_config = None if division is None else division.config


def hash_of_files(files: Sequence[Path]) -> str:
    """A fingerprint of weights, 16 hexadecimal digits; see :func:`videodit.files.add_blocks`."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size};".encode())
        add_blocks(digest, path)
    return digest.hexdigest()[:16]


def _check(config: ControlConfig) -> None:
    """See that options are legal, each by itself and together."""
    for name, legal in _CHOICES.items():
        check_choice(getattr(config, name), legal, name)
    if config.control_channels < 1:
        raise InputError(f"control_channels must be at least 1, got {config.control_channels}")
    if not any(config.layers):
        raise InputError(f"layers is {config.layers!r}; no hint has a block that it is added after")
    numbers = [number for places in config.layers for number in places]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise InputError(f"layers is {config.layers!r}; it must hold lists of the numbers of blocks")
    count = (config.base or {}).get("size_in_blocks")
    if count is not None and max(numbers) >= count:
        raise InputError(f"layers is {config.layers!r}; its base has blocks 0 to {count - 1}")
    if config.start == "hidden" and config.join != "add":
        raise InputError(f"join={config.join!r} needs start='trunk', got 'hidden'")
    if config.kind_embedding is not None and not config.kinds:
        raise InputError(f"kind_embedding={config.kind_embedding!r} needs kinds")
    if config.kind_embedding == "text" and config.start != "trunk":
        raise InputError(f"kind_embedding='text' needs start='trunk', got {config.start!r}")


def _network(config: TransformerConfig, sources: Sequence[int]) -> JsonObject:
    """Options for copies of some of a model's blocks, as far as they are not the defaults."""
    defaults = {one.name: one.default for one in fields(TransformerConfig)}
    found = {name: copy.deepcopy(value) for name, value in cast(Mapping[str, Any], config).items() if name in defaults}
    found["num_single_layers"] = sum(number >= config.num_layers for number in sources)
    # One more than there are: the last block of a model may be of a class of its own.
    found["num_layers"] = len(sources) - found["num_single_layers"] + 1
    found["family_config"] = None
    return {name: _plain(value) for name, value in found.items() if value != defaults[name]}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _build_blocks(options: TransformerConfig, count: int) -> list[Block]:
    """Joint or cross blocks, then single ones."""
    kind, first = BLOCKS[options.block], count - options.num_single_layers
    numbers = [*range(first), *range(options.num_layers, options.num_layers + options.num_single_layers)]
    return [kind.build(options, number) for number in numbers]


def _copy_fitting(source: nn.Module, target: nn.Module) -> None:
    """Copy the tensors that both have in the same shape."""
    theirs = source.state_dict()
    for name, tensor in target.state_dict().items():
        if name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])
