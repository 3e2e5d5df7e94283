"""The autoencoders of the families, a record for each class. Loads no library.

:mod:`videodit.pipelines.autoencoders` encodes and decodes by what the records say. A family whose autoencoder is not
here yet adds a record.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from videodit.errors import ModelError
from videodit.json_types import Config
from videodit.shapes import Size3D

Statistics = Literal["config", "buffers", "batch_norm"]


def _scale_factors(config: Config) -> Size3D:
    """Of Wan's and ours, whose configs may leave them out."""
    time, space = config.get("scale_factor_temporal", 4), config.get("scale_factor_spatial", 8)
    return Size3D(time, space, space)


def _compression_ratios(config: Config) -> Size3D:
    """Of most; the levels of the network say what the config does not."""
    space = config.get("spatial_compression_ratio") or 2 ** (len(config["block_out_channels"]) - 1)
    return Size3D(config.get("temporal_compression_ratio", 1), space, space)


def _packed_ratios(config: Config) -> Size3D:
    """Of FLUX.2's, whose latents are packed."""
    ratios, (rows, columns) = _compression_ratios(config), config["patch_size"]
    return Size3D(ratios.t, ratios.h * rows, ratios.w * columns)


def _patches_and_halvings(config: Config) -> Size3D:
    """Of LTX-Video's, which cuts clips into patches first; its config may tell it, too.

    Raises:
        ModelError: the config tells other strides than its layers make.
    """
    kinds = config.get("downsample_type") or ["conv"] * len(config["spatio_temporal_scaling"])
    halving = [kind for kind, halves in zip(kinds, config["spatio_temporal_scaling"], strict=False) if halves]
    space = config["patch_size"] * 2 ** sum(kind != "temporal" for kind in halving)
    time = config["patch_size_t"] * 2 ** sum(kind != "spatial" for kind in halving)
    for name, stride in (("spatial_compression_ratio", space), ("temporal_compression_ratio", time)):
        if config.get(name) not in (None, stride):
            raise ModelError(f"the autoencoder's config has {name} {config[name]}, but its layers make {stride}")
    return Size3D(time, space, space)


def _expansions(config: Config) -> Size3D:
    """Of Mochi's."""
    space = math.prod(config["spatial_expansions"])
    return Size3D(math.prod(config["temporal_expansions"]), space, space)


@dataclass(frozen=True)
class Tiles:
    """Tiles that an autoencoder cannot do without.

    Attributes:
        sizes: the attribute that holds a tile's frames, height and width.
        steps: the attribute that holds how far it is from one tile to the next, along the same.
    """

    sizes: str
    steps: str


@dataclass(frozen=True)
class Autoencoder:
    """What tells one autoencoder from another.

    Attributes:
        class_name: diffusers' or ours.
        strides: pixels a latent along time, height and width, from the config. It raises ``KeyError`` for an entry
            that the config lacks.
        statistics: where the mean and the deviation of each channel are that its latents are normalised by: in the
            config, as far as it has them, in buffers, or in those of a batch norm. ``None``: one shift for all channels
            in the config, if any.
        scaled: the config has a scaling factor, too.
        packed: latents are cut into patches of the config's ``patch_size``, whose places become channels; the
            statistics are of these.
        images: it knows images alone: a clip's frames go through it one by one.
        frames_before_channels: it decodes to ``[B, T, C, H, W]``.
        clips_alone: it takes one clip at a time.
        tiles: see :class:`Tiles`; ``None``: it works on clips as a whole.
        streams: it decodes chunk by chunk with carried state, which loops need.
        inverts_scale: where the config's ``invert_scale_latents`` is true, latents of a picture that become channels
            beside the clip's are divided by the scaling factor.
        timestep_conditioning: its decoder takes the noise level of the latents where the config's entry of this name
            is true.
        loads_as: our class that takes its weights; ``None``: it is used as it is.
    """

    class_name: str
    strides: Callable[[Config], Size3D] = _compression_ratios
    statistics: Statistics | None = None
    scaled: bool = True
    packed: bool = False
    images: bool = False
    frames_before_channels: bool = False
    clips_alone: bool = False
    tiles: Tiles | None = None
    streams: bool = False
    inverts_scale: bool = False
    timestep_conditioning: bool = False
    loads_as: str | None = None

    @property
    def loaded(self) -> Autoencoder:
        """The record of the class that a pipeline holds."""
        return self if self.loads_as is None else AUTOENCODERS[self.loads_as]


OURS = Autoencoder("CausalVideoVAE", strides=_scale_factors, statistics="config", scaled=False, streams=True)

AUTOENCODERS: dict[str, Autoencoder] = {
    one.class_name: one
    for one in (
        OURS,
        Autoencoder(
            "AutoencoderKLWan", strides=_scale_factors, statistics="config", scaled=False, loads_as=OURS.class_name
        ),
        Autoencoder(
            "AutoencoderKLQwenImage",
            strides=_scale_factors,
            statistics="config",
            scaled=False,
            loads_as=OURS.class_name,
        ),
        Autoencoder(
            "AutoencoderKLLTXVideo", strides=_patches_and_halvings, statistics="buffers", timestep_conditioning=True
        ),
        Autoencoder("AutoencoderKLCogVideoX", inverts_scale=True),
        Autoencoder("AutoencoderKLHunyuanVideo"),
        Autoencoder("AutoencoderKLHunyuanVideo15", clips_alone=True),
        Autoencoder("AutoencoderKLMochi", strides=_expansions, statistics="config"),
        Autoencoder(
            "AutoencoderKLAllegro", frames_before_channels=True, clips_alone=True, tiles=Tiles("kernel", "stride")
        ),
        Autoencoder("AutoencoderKL", images=True),
        Autoencoder(
            "AutoencoderKLFlux2",
            strides=_packed_ratios,
            statistics="batch_norm",
            scaled=False,
            packed=True,
            images=True,
        ),
    )
}


def autoencoder_named(name: object) -> Autoencoder:
    """The record of a class.

    Args:
        name: of the class, as ``_class_name`` in a config has it.

    Raises:
        ModelError: a class that is no family's.
    """
    if isinstance(name, str) and name in AUTOENCODERS:
        return AUTOENCODERS[name]
    legal = ", ".join(AUTOENCODERS)
    raise ModelError(f"the autoencoder is a {name or 'config without a class'}, expected one of {legal}")


def autoencoder_of(vae: object) -> Autoencoder:
    """The record of a model's class, or of the class that it is derived from.

    Raises:
        ModelError: a class that is no family's.
    """
    names = [kind.__name__ for kind in type(vae).__mro__]
    return autoencoder_named(next((name for name in names if name in AUTOENCODERS), names[0]))
