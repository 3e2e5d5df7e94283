"""Published control branches: how their configs and tensors are ours, and back. Loads no library that computes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from videodit.configs import check_class, check_config, read_json
from videodit.control.branch_config import ControlConfig
from videodit.errors import InputError, ModelError
from videodit.families import FAMILIES
from videodit.families.base import CONV3D, Family, Group, Rule
from videodit.families.published_defaults import class_defaults
from videodit.json_types import Config, JsonObject
from videodit.transformer_config import TransformerConfig

OWN_CLASS = "ControlBranch"
_FLUX_BLOCKS = (19, 38)
_UNION_KINDS = ("edges", "tile", "depth", "blur", "pose", "grey", "low_res")
"""Of the Union models for FLUX.1, by number."""


@dataclass(frozen=True)
class PublishedBranch:
    """A layout of published branches.

    Attributes:
        class_name: in their config.
        family: of the base.
        options: from their config, defaults filled in, and the base's, where it is known, to ours.
        defaults: of their class.
        rules: from our tensors to theirs, of those that no model of the family has.
        prefix: of ours that models of the family have, too.
        renamed: from the family's names of such a tensor to theirs.
        others: a regular expression for tensors of other networks in the same files.
    """

    class_name: str
    family: str
    options: Callable[[Config, TransformerConfig | None], JsonObject]
    defaults: Callable[[], JsonObject]
    rules: tuple[Rule, ...]
    prefix: str = "trunk."
    renamed: Callable[[str], str] = lambda name: name
    others: str | None = None

    def native_config(self, config: Config, base: TransformerConfig | None) -> JsonObject:
        """Options of a :class:`~videodit.control.branch.ControlBranch` for a config of theirs.

        Args:
            config: theirs.
            base: of the model that it is to control; ``None`` takes the largest published one.

        Raises:
            ModelError: an entry that is missing, or of another value than is known.
        """
        given = {key: value for key, value in config.items() if not key.startswith("_")}
        try:
            found = self.options(self.defaults() | given, base)
        except KeyError as error:
            raise ModelError(f"{self.class_name}: the config lacks the entry {error}") from None
        except (TypeError, ArithmeticError, AttributeError, IndexError) as error:
            raise ModelError(f"{self.class_name}: the config holds an entry of a wrong type: {error}") from None
        return found | {"published": {"_class_name": self.class_name, **given}}

    def plan(self, our_keys: Iterable[str], network: Config) -> list[Group]:
        """Which of their tensors each of ours is made of.

        Args:
            our_keys: names of a branch's tensors.
            network: full options of the VideoDiT that its blocks are of.

        Raises:
            ModelError: a tensor that no rule names.
        """
        own, shared = [], []
        for key in our_keys:
            if key.startswith(self.prefix) and not any(key.startswith(f"{name}.") for name in _OWN_PARTS):
                shared.append(key.removeprefix(self.prefix))
            else:
                own.append(key)
        rules = Family(self.family, self.class_name, self.class_name, "flow", lambda config: {}, self.rules)
        groups = rules.plan(own, network)
        for group in FAMILIES[self.family].plan(shared, network):
            ours, theirs = (f"{self.prefix}{name}" for name in group.ours), map(self.renamed, group.theirs)
            groups.append(Group(tuple(ours), tuple(theirs), group.transform))
        return groups

    def is_of_branch(self, name: str) -> bool:
        """Whether one of their tensors belongs to the branch."""
        return self.others is None or re.match(self.others, name) is None


_OWN_PARTS = ("patch", "before", "after", "kind_embedder", "pixel_encoder")


def read_branch_config(path: str | os.PathLike[str], base: TransformerConfig | None = None) -> ControlConfig:
    """The options of a branch in a local folder, of the own layout or a published one.

    Args:
        path: the folder.
        base: of the model that it is to control; see :meth:`PublishedBranch.native_config`.

    Raises:
        ModelError: no config there, or one of another class.
    """
    where = Path(path) / "config.json"
    config = read_json(where)
    check_config(config, where)
    name = config.get("_class_name")
    if isinstance(name, str) and name in PUBLISHED:
        return _typed(PUBLISHED[name].native_config(config, base))
    check_class(config, OWN_CLASS, where)
    return _typed({key: value for key, value in config.items() if not key.startswith("_")})


def _typed(config: JsonObject) -> ControlConfig:
    """Entries as attributes."""
    from dataclasses import fields
    from types import SimpleNamespace

    defaults = {one.name: one.default for one in fields(ControlConfig) if one.name not in _REQUIRED}
    lacking = [name for name in _REQUIRED if name not in config]
    if lacking:
        raise ModelError(f"the config of a control branch lacks the entry {lacking[0]!r}")
    return cast(ControlConfig, SimpleNamespace(**(defaults | config)))


_REQUIRED = ("network", "layers", "control_channels")


# ---- the layouts ---------------------------------------------------------------------------------


def _network(family: str, config: Config) -> JsonObject:
    """Options of a VideoDiT, as far as JSON holds them."""
    options: JsonObject = {**FAMILIES[family].options(config), "family": family}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _base(network: Mapping[str, object], family: str, width: int, blocks: int | None) -> JsonObject:
    found: JsonObject = {"family": family, "width": width, "patch_size": network["patch_size"]}
    return found if blocks is None else found | {"size_in_blocks": blocks}


def _vace(config: Config, base: TransformerConfig | None) -> JsonObject:
    network, layers = _network("wan", config), list(config["vace_layers"])
    width, blocks = config["num_attention_heads"] * config["attention_head_dim"], config["num_layers"]
    if layers != sorted(set(layers)) or not layers or not 0 <= layers[0] <= layers[-1] < blocks:
        raise ModelError(f"vace_layers is {layers}; it must hold some of the numbers from 0 to {blocks - 1}, in order")
    return {
        "network": network | {"num_layers": len(layers) + 1},
        "layers": [[number] for number in layers],
        "control_channels": config["vace_in_channels"],
        "layout": "vace",
        "base": _base(network, "wan", width, blocks),
    }


def _flux(config: Config, base: TransformerConfig | None) -> JsonObject:
    if config["conditioning_embedding_channels"] is not None:
        raise ModelError(
            f"FLUX.1: conditioning_embedding_channels is {config['conditioning_embedding_channels']}; it must be None"
        )
    network = _network("flux", {**config, "out_channels": None}) | {"final_layer": None}
    of_base = _FLUX_BLOCKS if base is None else (base.num_layers, base.num_single_layers)
    layers: list[list[int]] = []
    first = 0
    for count, blocks in zip((config["num_layers"], config["num_single_layers"]), of_base, strict=True):
        stride = -(-blocks // count) if count else 1  # the last hints of a branch may be for no block
        layers += [
            [first + n for n in range(number * stride, min((number + 1) * stride, blocks))] for number in range(count)
        ]
        first += blocks
    modes = config["num_mode"] or 0
    kinds = [*_UNION_KINDS[:modes], *(f"mode_{number}" for number in range(len(_UNION_KINDS), modes))]
    return {
        "network": network,
        "layers": layers,
        "control_channels": network["in_channels"],
        "start": "trunk",
        "kinds": kinds,
        "kind_embedding": "text" if modes else None,
        "base": _base(network, "flux", config["num_attention_heads"] * config["attention_head_dim"], sum(of_base)),
    }


def _encoder_channels(config: Config) -> int:
    channels: int = config["in_channels"] * config["downscale_coef"] ** 2 // 4
    return channels


def _with_pixels(config: Config, family: str, layers: list[list[int]], encoder: str, blocks: int | None) -> JsonObject:
    """A trunk that sees latents and encoded pixels."""
    channels, stride = _encoder_channels(config), config["downscale_coef"]
    theirs = {**config, "in_channels": config["vae_channels"] + channels, "out_channels": config["vae_channels"]}
    network = _network(family, theirs) | {"final_layer": None, "final_layer_norm": False}
    width = config["out_proj_dim"] or config["num_attention_heads"] * config["attention_head_dim"]
    return {
        "network": network,
        "layers": layers,
        "control_channels": channels,
        "start": "trunk",
        "join": "concat",
        "encoder": encoder,
        "pixel_channels": config["in_channels"],
        "pixel_stride": [4, stride, stride],
        "project": config["out_proj_dim"] is not None,
        "base": _base(network, family, width, blocks),
    }


def _cogvideox(config: Config, base: TransformerConfig | None) -> JsonObject:
    layers = [[number] for number in range(config["num_layers"])]
    return _with_pixels(config, "cogvideox", layers, "unshuffle_conv", None)


def _cogvideox_defaults() -> JsonObject:
    own: JsonObject = {
        "vae_channels": 16, "in_channels": 3, "downscale_coef": 8, "num_layers": 8, "out_proj_dim": None,
    }  # fmt: skip
    return class_defaults("CogVideoXTransformer3DModel") | own


_WAN_1_3B = 1536
"""Its width: there the authors add a hint after every third block, in the larger model after every fourth."""


def _wan(config: Config, base: TransformerConfig | None) -> JsonObject:
    stride = 3 if config["out_proj_dim"] == _WAN_1_3B else 4
    if base is not None:
        stride = min(stride, base.num_layers // config["num_layers"] or 1)
    layers = [[number * stride] for number in range(config["num_layers"])]
    return _with_pixels(config, "wan", layers, "strided_conv", None)


def _wan_defaults() -> JsonObject:
    own: JsonObject = {
        "vae_channels": 16, "in_channels": 3, "downscale_coef": 8, "num_layers": 20, "out_proj_dim": _WAN_1_3B,
    }  # fmt: skip
    return class_defaults("WanTransformer3DModel") | own


def _flux_defaults() -> JsonObject:
    own: JsonObject = {"num_mode": None, "conditioning_embedding_channels": None}
    return class_defaults("FluxTransformer2DModel") | own


_HINTS = Rule("after.{n}.{rest}", "controlnet_blocks.{n}.{rest}")

_ALL = (
    PublishedBranch(
        "WanVACETransformer3DModel",
        "wan",
        _vace,
        lambda: class_defaults("WanVACETransformer3DModel"),
        rules=(
            Rule("patch.weight", "vace_patch_embedding.weight", CONV3D),
            Rule("patch.bias", "vace_patch_embedding.bias"),
            Rule("before.{rest}", "vace_blocks.0.proj_in.{rest}"),
            Rule("after.{n}.{rest}", "vace_blocks.{n}.proj_out.{rest}"),
        ),
        prefix="",
        renamed=lambda name: f"vace_{name}",
        others=r"(?!vace_)|.*norm_added_q",
    ),
    PublishedBranch(
        "FluxControlNetModel",
        "flux",
        _flux,
        _flux_defaults,
        rules=(
            Rule("patch.{rest}", "controlnet_x_embedder.{rest}"),
            Rule("kind_embedder.{rest}", "controlnet_mode_embedder.{rest}"),
            _HINTS,
            Rule("after.{s}.{rest}", "controlnet_single_blocks.{s}.{rest}"),
        ),
    ),
    PublishedBranch(
        "CogVideoXControlnet",
        "cogvideox",
        _cogvideox,
        _cogvideox_defaults,
        rules=(
            Rule("pixel_encoder.first.{rest}", "controlnet_encode_first.{rest}"),
            Rule("pixel_encoder.second.{rest}", "controlnet_encode_second.{rest}"),
            Rule("after.{n}.{rest}", "out_projectors.{n}.{rest}"),
        ),
    ),
    PublishedBranch(
        "WanControlnet",
        "wan",
        _wan,
        _wan_defaults,
        rules=(Rule("pixel_encoder.layers.{rest}", "control_encoder.{rest}"), _HINTS),
        others=r".*norm_added_q",
    ),
)

PUBLISHED = {one.class_name: one for one in _ALL}
"""Layouts by the class that their configs name."""


def published_of(config: ControlConfig) -> PublishedBranch:
    """The published layout that a branch came from.

    Raises:
        InputError: it came from none.
    """
    name = (config.published or {}).get("_class_name")
    if name not in PUBLISHED:
        raise InputError(f"this branch came from no published layout; known are {', '.join(PUBLISHED)}")
    return PUBLISHED[name]
