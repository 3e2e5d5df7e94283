"""What a family of published models is: how its config and its weights become a VideoDiT's, and back.

A family is data. Its config map names options of :class:`videodit.VideoDiT`; its key map is a list of rules, each
from one or more of our tensors to one or more of theirs, with a transform that can be undone.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from einops import rearrange

from videodit.errors import ModelError
from videodit.families.published_defaults import class_defaults
from videodit.families.sampling import Sampling
from videodit.json_types import Config, JsonObject
from videodit.ranges import short
from videodit.schema import check_types

if TYPE_CHECKING:
    from torch import Tensor

    from videodit.flow import Objective

logger = logging.getLogger(__name__)

Tensors = list["Tensor"]


class Transform(NamedTuple):
    """A change of layout and its inverse. Both take tensors and our config."""

    load: Callable[[Tensors, Config], Tensors]
    save: Callable[[Tensors, Config], Tensors]


class Rule(NamedTuple):
    """Which of their tensors are which of ours.

    Patterns may hold ``{n}``, the number of a cross or joint block, ``{s}``, the number of a single block counted from
    the first of them, and ``{rest}``, any ending.
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    transform: Transform | None = None


class Group(NamedTuple):
    """A rule applied: their tensors, ours, and the transform between them."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transform: Transform | None


APACHE, ITS_CARD = "Apache 2.0", "see its card"
FIRST, FIRST_AND_LAST = "text, a first picture", "text, a first and a last picture"


class Published(NamedTuple):
    """A checkpoint that exists.

    Attributes:
        hub_id: where it is.
        config: what its transformer's config says beyond the class defaults.
        parameters: of the transformer (of each, if there are two).
        companions: parameters of everything else in the pipeline.
        licence: of its weights, as its model card names it; docs/families.md says where that was read.
        takes: what clips are made from.
        makes: clips or pictures.
    """

    hub_id: str
    config: JsonObject
    parameters: int
    companions: int
    licence: str = ITS_CARD
    takes: str = "text"
    makes: str = "clips"


PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "module.")
"""What files put before all names, the longest first."""


@dataclass(frozen=True)
class Original:
    """The layout of the authors' own files.

    Attributes:
        rules: from diffusers' names ("ours" in a rule) to the authors'. One tensor of theirs may hold several of
            diffusers', one under the other; such rules are for adapters alone, as are second names of the same tensor.
            What no rule names is called the same in both.
        mark: part of a tensor's name that only this layout has.
        config: diffusers' config from the shapes of the renamed tensors; ``None`` where whole files are not read.
        dropped: a regular expression for tensors of other networks in the same file.
    """

    rules: tuple[Rule, ...]
    mark: str = ""
    config: Callable[[Mapping[str, list[int]]], JsonObject] | None = None
    dropped: str | None = None

    def rename(self, name: str) -> str | None:
        """diffusers' name of a tensor, or ``None`` for one of another network."""
        if self.dropped is not None and re.match(self.dropped, name):
            return None
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        for rule in self.rules:
            ours, theirs = rule.ours, rule.theirs
            if isinstance(ours, str) and isinstance(theirs, str) and (found := _match(theirs, name)) is not None:
                return ours.format(**found)
        return name

    def names_of(self, name: str) -> Iterator[Group]:
        """For one of diffusers' tensors: each tensor of the authors' that holds it, and all that this one holds."""
        for rule in self.rules:
            ours = rule.ours if isinstance(rule.ours, tuple) else (rule.ours,)
            found = _match(ours[0], name)
            if found is not None and isinstance(rule.theirs, str):
                theirs = (rule.theirs.format(**found),)
                yield Group(tuple(pattern.format(**found) for pattern in ours), theirs, rule.transform)


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """How many blocks there are under a prefix, from the names of their tensors."""
    return 1 + max(int(match[1]) for name in names if (match := re.match(rf"{prefix}\.(\d+)\.", name)))


@dataclass(frozen=True)
class Family:
    """One family of published models.

    Attributes:
        name: as it stands in a VideoDiT's config.
        title: as people write it.
        class_name: diffusers' class of its transformer.
        objective: what the model predicts.
        options: from their config, class defaults filled in, to ours.
        rules: the key map; the first rule that fits a tensor of ours holds.
        required: entries of their config that have to have this value, because we know no other.
        published: checkpoints by name.
        ignored: a regular expression for tensors of theirs that mean nothing.
        original: the layout of the authors' own files, where we know it.
        aliases: other class names in published configs.
        pipeline_aliases: other classes of pipelines whose base samples as one of ``sampling`` does, by name.
        ignored_entries: of their config, of other networks in the same files.
        settled_by_weights: entries of their config that the names of the weights decide, where files leave them out.
        sampling: how diffusers' pipelines of the family make clips, by their class.
    """

    name: str
    title: str
    class_name: str
    objective: Objective
    options: Callable[[Config], JsonObject]
    rules: tuple[Rule, ...]
    required: Mapping[str, object] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)
    ignored: str | None = None
    original: Original | None = None
    aliases: tuple[str, ...] = ()
    pipeline_aliases: Mapping[str, str] = field(default_factory=dict)
    ignored_entries: tuple[str, ...] = ()
    settled_by_weights: Callable[[set[str]], JsonObject] = lambda names: {}
    sampling: Mapping[str, Sampling] = field(default_factory=dict)

    def native_config(self, config: Config, names: Iterable[str] | None = None) -> JsonObject:
        """Our config for one of theirs.

        Args:
            config: theirs.
            names: of their tensors, where they are known: see ``settled_by_weights``.

        Raises:
            ModelError: an entry with a value that the family's published models do not have.
        """
        left_out = self.ignored_entries
        given = {key: value for key, value in config.items() if not key.startswith("_") and key not in left_out}
        full = self.class_defaults() | given
        if names is not None:
            settled = self.settled_by_weights(set(names))
            full |= {key: value for key, value in settled.items() if full.get(key) is None}
        for key, value in self.required.items():
            if full.get(key) != value:
                raise ModelError(f"{self.title}: {key} is {short(full.get(key))}; it must be {value!r}")
        try:
            return self.options(full) | {"family": self.name, "family_config": given}
        except KeyError as error:
            raise ModelError(f"{self.title}: the config lacks the entry {error}") from None
        except (TypeError, ArithmeticError, AttributeError, IndexError) as error:
            raise ModelError(f"{self.title}: the config holds an entry of a wrong type: {error}") from None

    def check_config(self, config: Config, where: object) -> None:
        """See that a config's entries are of the types that diffusers' class takes, and tell of others.

        Raises:
            ModelError: naming the entry.
        """
        import diffusers

        check_types(config, getattr(diffusers, self.class_name), where)
        known = inspect.signature(getattr(diffusers, self.class_name).__init__).parameters
        names = {*known, *self.ignored_entries}
        unknown = sorted(key for key in config if key not in names and not key.startswith("_"))
        if unknown:
            logger.warning(f"{where}: the config holds entries that {self.title} does not know: {', '.join(unknown)}")

    def class_defaults(self) -> JsonObject:
        """What diffusers' class takes for entries that a config leaves out."""
        return class_defaults(self.class_name)

    def plan(self, our_keys: Iterable[str], config: Config) -> list[Group]:
        """Which of their tensors each of ours is made of.

        Args:
            our_keys: names of a VideoDiT's tensors.
            config: its config.

        Raises:
            ModelError: a tensor that no rule names.
        """
        groups: dict[tuple[str, ...], Group] = {}
        for key in our_keys:
            group = self._group_of(key, config["num_layers"])
            groups.setdefault(group.ours, group)
        return list(groups.values())

    def _group_of(self, key: str, num_layers: int) -> Group:
        for rule in self.rules:
            ours, theirs = (p if isinstance(p, tuple) else (p,) for p in (rule.ours, rule.theirs))
            for pattern in ours:
                if (found := _match(pattern, key, num_layers)) is not None:
                    return Group(
                        tuple(_fill(p, found, num_layers) for p in ours),
                        tuple(p.format(**found) for p in theirs),
                        rule.transform,
                    )
        raise ModelError(f"{self.title} has no tensor {key}; check the numbers of layers in the config")


_PARTS = {"n": r"(?P<n>\d+)", "s": r"(?P<s>\d+)", "rest": r"(?P<rest>.+)"}


def _match(pattern: str, key: str, num_layers: int | None = None) -> dict[str, str | int] | None:
    """What stands in a pattern's braces, single blocks counted from the first of them, or ``None``."""
    expression = re.sub(r"\\\{(\w+)\\\}", lambda m: _PARTS[m[1]], re.escape(pattern))
    match = re.fullmatch(expression, key)
    if match is None:
        return None
    found: dict[str, str | int] = dict(match.groupdict())
    if num_layers is None:
        return found
    if "n" in found and int(found["n"]) >= num_layers:
        return None
    if "s" in found:
        found["s"] = single = int(found["s"]) - num_layers
        if single < 0:
            return None
    return found


def _fill(pattern: str, found: dict[str, str | int], num_layers: int) -> str:
    return pattern.format(**(found | ({"s": int(found["s"]) + num_layers} if "s" in found else {})))


# ---- transforms ----------------------------------------------------------------------------------


def _patch(config: Config) -> list[int]:
    return list(config["patch_size"])


CONV3D = Transform(
    lambda x, _: [x[0].flatten(1)],
    lambda x, config: [x[0].unflatten(1, (-1, *_patch(config)))],
)
"""A 3D patch convolution is a linear layer."""

CONV2D = Transform(
    lambda x, _: [x[0].flatten(1)],
    lambda x, config: [x[0].unflatten(1, (-1, *_patch(config)[1:]))],
)
"""A 2D patch convolution is a linear layer."""

LEADING_AXIS = Transform(lambda x, _: [x[0][0]], lambda x, _: [x[0][None]])
"""A table with an axis of one in front."""

CHANNEL_FIRST = Transform(
    lambda x, config: [rearrange(x[0], "(c p) ... -> (p c) ...", p=_patch_numel(config))],
    lambda x, config: [rearrange(x[0], "(p c) ... -> (c p) ...", p=_patch_numel(config))],
)
"""Rows of the final projection in the order channel, place in the patch."""


def _swap_halves(x: Tensors, _: Config) -> Tensors:
    return [x[0].roll(len(x[0]) // 2, dims=0)]


SWAP_HALVES = Transform(_swap_halves, _swap_halves)
"""Scale and shift in the other order."""


def _patch_numel(config: Config) -> int:
    t, h, w = _patch(config)
    return t * h * w


def block_rules(ours: str, theirs: str, *, feed_forward: str = "ff") -> tuple[Rule, ...]:
    """The MLP by its name, everything else in a block as it is."""
    return (
        Rule(f"{ours}.ffn.{{rest}}", f"{theirs}.{feed_forward}.{{rest}}"),
        Rule(f"{ours}.{{rest}}", f"{theirs}.{{rest}}"),
    )


ADALN_SINGLE = (
    Rule("time_embedder.{rest}", "adaln_single.emb.timestep_embedder.{rest}"),
    Rule("resolution_embedder.{rest}", "adaln_single.emb.resolution_embedder.{rest}"),
    Rule("aspect_ratio_embedder.{rest}", "adaln_single.emb.aspect_ratio_embedder.{rest}"),
    Rule("time_proj.{rest}", "adaln_single.linear.{rest}"),
    Rule("text_embedder.{rest}", "caption_projection.{rest}"),
    Rule("patch_embed.weight", "pos_embed.proj.weight", CONV2D),
    Rule("patch_embed.bias", "pos_embed.proj.bias"),
)
"""PixArt's names of what comes before the blocks, which Latte and Allegro share."""

OUTPUT = (Rule("scale_shift_table", "scale_shift_table"), Rule("proj_out.{rest}", "proj_out.{rest}"))

MMDIT = (
    Rule("time_embedder.{rest}", "time_text_embed.timestep_embedder.{rest}"),
    Rule("pooled_embedder.{rest}", "time_text_embed.text_embedder.{rest}"),
    Rule("guidance_embedder.{rest}", "time_text_embed.guidance_embedder.{rest}"),
    Rule("blocks.{n}.modulation.{rest}", "transformer_blocks.{n}.norm1.linear.{rest}"),
    Rule("blocks.{n}.text_modulation.{rest}", "transformer_blocks.{n}.norm1_context.linear.{rest}"),
    Rule("blocks.{n}.text_ffn.{rest}", "transformer_blocks.{n}.ff_context.{rest}"),
    *block_rules("blocks.{n}", "transformer_blocks.{n}"),
    Rule("blocks.{s}.modulation.{rest}", "single_transformer_blocks.{s}.norm.linear.{rest}"),
    Rule("blocks.{s}.{rest}", "single_transformer_blocks.{s}.{rest}"),
    Rule("final_modulation.weight", "norm_out.linear.weight", SWAP_HALVES),
    Rule("final_modulation.bias", "norm_out.linear.bias", SWAP_HALVES),
    Rule("proj_out.weight", "proj_out.weight", CHANNEL_FIRST),
    Rule("proj_out.bias", "proj_out.bias", CHANNEL_FIRST),
)
"""Joint and single blocks as HunyuanVideo and FLUX name them."""


_SINGLE = "single_transformer_blocks.{n}"
ORIGINAL_MMDIT = (
    Rule(
        (*(f"{_SINGLE}.attn.to_{x}.{{rest}}" for x in "qkv"), f"{_SINGLE}.proj_mlp.{{rest}}"),
        "single_blocks.{n}.linear1.{rest}",
    ),
    Rule(f"{_SINGLE}.proj_out.{{rest}}", "single_blocks.{n}.linear2.{rest}"),
    Rule("norm_out.linear.{rest}", "final_layer.adaLN_modulation.1.{rest}", SWAP_HALVES),
    Rule("proj_out.{rest}", "final_layer.linear.{rest}"),
)
"""What the authors' own files of both have alike: single blocks, which are fused there, and the final layer."""


# ---- from tensors to tensors ---------------------------------------------------------------------


def to_native(groups: Iterable[Group], get: Callable[[str], Tensor], config: Config) -> Iterator[tuple[str, Tensor]]:
    """Our tensors by name, one group at a time, so that no more than one is held twice.

    Args:
        groups: of :meth:`Family.plan`.
        get: gives one of their tensors by name.
        config: ours.
    """
    for group in groups:
        tensors = [get(name) for name in group.theirs]
        if group.transform is not None:
            tensors = group.transform.load(tensors, config)
        yield from zip(group.ours, tensors, strict=True)


def to_foreign(groups: Iterable[Group], get: Callable[[str], Tensor], config: Config) -> Iterator[tuple[str, Tensor]]:
    """Their tensors by name, the inverse of :func:`to_native`; ``get`` gives one of ours."""
    for group in groups:
        tensors = [get(name) for name in group.ours]
        if group.transform is not None:
            tensors = group.transform.save(tensors, config)
        yield from zip(group.theirs, tensors, strict=True)
