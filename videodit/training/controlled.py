"""A control branch in training, with the frozen model beside it as one module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from videodit.blocks import TEXT_EMBEDDERS
from videodit.control.branch import ControlBranch
from videodit.control.hints import ControlHint
from videodit.datasets.clips.latents.cached_controls import CachedControls
from videodit.datasets.clips.latents.latent_cache import CachedSample, LatentCache
from videodit.errors import InputError
from videodit.training.config import ControlTraining, TrainingConfig

if TYPE_CHECKING:
    from videodit import VideoDiT


class ControlledTransformer(nn.Module):
    """A frozen transformer and the branch that controls it.

    Args:
        transformer: a :class:`~videodit.VideoDiT`.
        branch: that is trained.
    """

    def __init__(self, transformer: VideoDiT, branch: ControlBranch) -> None:
        super().__init__()
        self.transformer, self.branch = transformer, branch

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        *,
        control: Tensor,
        kind: str | None = None,
        **inputs: object,
    ) -> object:
        """As the transformer's, under a control.

        Args:
            hidden_states: noisy latents ``[B, C, T, H, W]``.
            timestep: see :meth:`videodit.VideoDiT.forward`.
            encoder_hidden_states: see there.
            control: latents ``[B, C', T, H, W]``, or pixels uint8 ``[B, 3, frames, height, width]``.
            kind: of the control.
            inputs: others of the transformer's.
        """
        if control.dtype == torch.uint8:
            control = self.branch.encode(control.float() / 127.5 - 1)
        hint = ControlHint(self.branch, control, 1.0, kind)
        return self.transformer(hidden_states, timestep, encoder_hidden_states, control=[hint], **inputs)


def make_branch(
    transformer: VideoDiT, control: ControlTraining, stride: Sequence[int], *, base_hash: str, seed: int
) -> ControlBranch:
    """A branch that has learned nothing, in fp32, beside a transformer that is frozen.

    Args:
        transformer: the base.
        control: what the branch is to be.
        stride: pixels a latent along time, height and width.
        base_hash: the fingerprint of the base's weights.
        seed: of its first values.

    Raises:
        InputError: layers that the base does not have.
    """
    transformer.requires_grad_(False)
    torch.manual_seed(seed)
    branch: ControlBranch = ControlBranch.from_base(
        transformer,
        layers=control.layers,
        control_channels=None if control.encoder is None else control.channels,
        start=control.start,
        encoder=control.encoder,
        pixel_stride=stride,
        kinds=control.kinds,
        base_hash=base_hash,
    )
    for parameter in branch.parameters():
        parameter.data = parameter.data.float()
    branch.requires_grad_(True)
    last = branch.network.blocks[-1]
    for part in (getattr(last, "text_ffn", None), getattr(getattr(last, "attn", None), "to_add_out", None)):
        if part is not None:  # nothing comes after the text of the last block, so that no gradient reaches it
            part.requires_grad_(False)
    if control.start == "trunk" and "image" in TEXT_EMBEDDERS[transformer.config.text_embedding].sees:
        # A picture is optional there: where clips have none, no gradient reaches what embeds it.
        assert branch.trunk.image_embedder is not None
        branch.trunk.image_embedder.requires_grad_(False)
    return branch


def open_controls(config: TrainingConfig, cache: LatentCache, samples: Sequence[CachedSample]) -> CachedControls | None:
    """The controls of a cache, where a branch is trained.

    Raises:
        InputError: a cache without them, or without some of them, one that holds them in another form than the branch
            takes, or prompts of clips, which no control would reach.
    """
    if config.control is None:
        return None
    asked = config.validation
    if (asked.prompts or asked.captions) and not asked.controls:
        raise InputError(
            "validation.prompts need validation.controls, a KIND=FILE for each, and validation.captions have none: "
            "clips without a control would show nothing of the branch"
        )
    for kind, file in map(split_control, asked.controls):
        if kind not in config.control.kinds:
            raise InputError(
                f"validation.controls name {kind!r}; valid values are the branch's kinds, "
                f"{', '.join(config.control.kinds)}"
            )
        if not Path(file).is_file():
            raise InputError(f"validation.controls: there is no file {file!r}")
    found = CachedControls(cache.folder)
    if found.pixels != (config.control.encoder is not None):
        held, fit = ("pixels", "unshuffle") if found.pixels else ("latents", "null")
        raise InputError(
            f"the cache holds controls as {held}, got control.encoder={config.control.encoder}: set "
            f"control.encoder={fit}, or encode them again"
        )
    found.check(config.control.kinds, samples)
    return found


def split_control(text: str) -> tuple[str, str]:
    """The kind and the file of ``KIND=FILE``.

    Raises:
        InputError: it is something else.
    """
    kind, equals, file = text.partition("=")
    if not (kind and equals and file):
        raise InputError(f"validation.controls hold {text!r}; each must be KIND=FILE, such as depth=depth.mp4")
    return kind, file


def export_branch(branch: ControlBranch, trained: dict[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    """Write a trained branch as a folder.

    Args:
        branch: as it was trained.
        trained: its weights by name, on the CPU.
        folder: that does not exist.
        dtype: of the weights, but for those that stay in fp32.
    """
    from videodit.files import replacing

    made = ControlBranch.from_config(dict(branch.config))
    made.load_state_dict({name: tensor.detach().cpu() for name, tensor in branch.state_dict().items()} | trained)
    wide = set(ControlBranch._keep_in_fp32_modules)
    for name, parameter in made.named_parameters():
        if not wide.intersection(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    made.register_to_config(_name_or_path="")  # else a path of this machine would travel along
    with replacing(folder) as partial:
        made.save_pretrained(partial)
