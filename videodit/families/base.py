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
from functools import cache
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
    """A change of layout and its inverse.

    Attributes:
        load: takes tensors and our config.
        save: likewise.
        rows: both move whole rows, whatever these hold: the bytes of quantized ones, too.
        columns: both move columns of one tensor, and leave its rows.
    """

    load: Callable[[Tensors, Config], Tensors]
    save: Callable[[Tensors, Config], Tensors]
    rows: bool = False
    columns: bool = False


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

    @property
    def columns(self) -> Transform | None:
        """The transform, where it moves columns."""
        return self.transform if self.transform is not None and self.transform.columns else None


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


PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.model.", "model.", "module.")
"""What files put before all names, the longest first."""


@dataclass(frozen=True)
class Original:
    """The layout of the authors' own files.

    Attributes:
        rules: from diffusers' names ("ours" in a rule) to the authors'. One tensor of theirs may hold several of
            diffusers', one under the other. What no rule names is called the same in both.
        whole: further rules, of tensors that adapters do not change; they go before the others.
        last: rules of the last block, which has other layers; they go before all.
        respelled: regular expressions, and what to write for them, that bring other spellings of the layout to this.
        dropped: a regular expression for tensors of other networks in the same file, and for tables that are computed.
    """

    rules: tuple[Rule, ...]
    whole: tuple[Rule, ...] = ()
    last: tuple[Rule, ...] = ()
    respelled: tuple[tuple[str, str], ...] = ()
    dropped: str | None = None

    def parts(self, shapes: Mapping[str, list[int]]) -> dict[str, Part]:
        """Where in a file diffusers' tensors are.

        Args:
            shapes: of the file's tensors, by their names without a prefix.

        Raises:
            ModelError: tensors whose rows cannot be divided.
        """
        found: dict[str, Part] = {}
        numbers = [int(match[1]) for name in shapes if (match := re.match(r"\w*blocks\.(\d+)\.", name))]
        last = str(max(numbers, default=0))
        for stored, shape in shapes.items():
            name = stored
            for pattern, spelling in self.respelled:
                name = re.sub(pattern, spelling, name)
            if self.dropped is not None and re.match(self.dropped, name):
                continue
            ours, transform = self._of(name, last)
            if transform is not None:
                whole = [_without_data(shape)]
                made = transform.load(whole, {})
                found |= {
                    one: Part(stored, list(tensor.shape), None, transform, index)
                    for index, (one, tensor) in enumerate(zip(ours, made, strict=True))
                }
            elif len(ours) == 1:
                found[ours[0]] = Part(stored, shape)
            else:
                rows = _divide(stored, shapes, len(ours))
                for one, (start, stop) in zip(ours, rows, strict=True):
                    found[one] = Part(stored, [stop - start, *shape[1:]], (start, stop))
        return found

    def _of(self, name: str, last: str) -> tuple[tuple[str, ...], Transform | None]:
        """Which of diffusers' tensors one of the authors' holds, and how."""
        for rules in (self.last, self.whole, self.rules):
            for rule in rules:
                if isinstance(rule.theirs, str) and (found := _match(rule.theirs, name)) is not None:
                    if rules is self.last and found.get("n") != last:
                        continue
                    ours = rule.ours if isinstance(rule.ours, tuple) else (rule.ours,)
                    return tuple(pattern.format(**found) for pattern in ours), rule.transform
        return (name,), None

    def names_of(self, name: str) -> Iterator[Group]:
        """For one of diffusers' tensors: each tensor of the authors' that holds it, and all that this one holds."""
        for rule in self.rules:
            ours = rule.ours if isinstance(rule.ours, tuple) else (rule.ours,)
            found = _match(ours[0], name)
            if found is not None and isinstance(rule.theirs, str):
                theirs = (rule.theirs.format(**found),)
                yield Group(tuple(pattern.format(**found) for pattern in ours), theirs, rule.transform)


class Part(NamedTuple):
    """Where in a file a tensor is.

    Attributes:
        stored: the name of the file's tensor.
        shape: of the part.
        rows: the first, and the one behind the last; ``None`` for all of them.
        transform: from the file's tensor to several.
        which: of these.
    """

    stored: str
    shape: list[int]
    rows: tuple[int, int] | None = None
    transform: Transform | None = None
    which: int = 0


def _without_data(shape: list[int]) -> Tensor:
    """A tensor without data."""
    import torch

    return torch.empty(shape, device="meta")


def _divide(name: str, shapes: Mapping[str, list[int]], count: int) -> list[tuple[int, int]]:
    """The rows of each of the layers that are fused in one.

    Two or three are as large as each other. Of four, the first three, which are queries, keys and values, have as many
    rows as the layer has inputs; the last, which goes into the MLP, has the rest.

    Raises:
        ModelError: rows that cannot be divided so.
    """
    rows = shapes[name][0] if shapes[name] else 0
    if count < 4:
        each = rows // count
        if rows % count:
            raise ModelError(f"{name} has {rows} rows, which cannot be divided by {count}")
        return [(each * i, each * (i + 1)) for i in range(count)]
    weight = shapes.get(f"{name.rpartition('.')[0]}.weight", [])
    each = weight[1] if len(weight) == 2 else rows
    if (count - 1) * each >= rows:
        raise ModelError(f"{name} has {rows} rows, which must be more than {count - 1} times its {each} inputs")
    return [*((each * i, each * (i + 1)) for i in range(count - 1)), (each * (count - 1), rows)]


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
        branch: how the names of a control branch begin that lies in the same files.
        original: the layout of the authors' own files, where we know it.
        aliases: other class names in published configs.
        pipeline_aliases: other classes of pipelines whose base samples as one of ``sampling`` does, by name.
        ignored_entries: of their config, of other networks in the same files.
        further_entries: of their config, which diffusers' class does not have.
        settled_by_weights: entries of their config that the names of the weights decide, where files leave them out.
        config_from_shapes: diffusers' config from the shapes of its tensors, for files of weights alone. It raises
            ``KeyError``, ``IndexError`` or ``ValueError`` for another network's. ``None``: published configs are tried.
        tensors_of: another family, by its name, whose tensors some models have: files of these are read as its.
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
    branch: str | None = None
    original: Original | None = None
    aliases: tuple[str, ...] = ()
    pipeline_aliases: Mapping[str, str] = field(default_factory=dict)
    ignored_entries: tuple[str, ...] = ()
    further_entries: tuple[str, ...] = ()
    settled_by_weights: Callable[[set[str]], JsonObject] = lambda names: {}
    config_from_shapes: Callable[[Mapping[str, list[int]]], JsonObject] | None = None
    tensors_of: str | None = None
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
        names = {*known, *self.ignored_entries, *self.further_entries}
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


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda m: _PARTS[m[1]], re.escape(pattern)))


def _match(pattern: str, key: str, num_layers: int | None = None) -> dict[str, str | int] | None:
    """What stands in a pattern's braces, single blocks counted from the first of them, or ``None``."""
    match = _expression(pattern).fullmatch(key)
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
    rows=True,
)
"""Rows of the final projection in the order channel, place in the patch."""


def _swap_halves(x: Tensors, _: Config) -> Tensors:
    return [x[0].roll(len(x[0]) // 2, dims=0)]


SWAP_HALVES = Transform(_swap_halves, _swap_halves, rows=True)
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
