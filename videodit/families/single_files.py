"""Files of weights alone, as people share them: whose they are is told from the names and shapes of their tensors.

A file holds diffusers' names, or those of the authors, in the spelling of whoever wrote it, with a prefix or without.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from videodit.errors import ModelError, VideoDiTError
from videodit.families import FAMILIES, family_of
from videodit.families.base import PREFIXES, Family, Part, Published, to_foreign
from videodit.json_types import Config, JsonObject
from videodit.ranges import short
from videodit.weights import build, one_line

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

Shapes = Mapping[str, list[int]]
DIFFUSERS, AUTHORS = "diffusers'", "the authors'"

# Files of all networks of a model put these before the names of the others.
_OTHERS = re.compile(
    r"(vae|first_stage_model|cond_stage_model|conditioner|text_encoders?|text_encoder_2|audio_vae|vocoder|"
    r"model_ema|denoiser|logvar|sigmas)\b"
)
_NEAREST, _NAMED = 3, 3
_UNREAD = (KeyError, IndexError, ValueError, ZeroDivisionError, TypeError)


class Recognised(NamedTuple):
    """Whose weights a file holds.

    Attributes:
        family: the family.
        layout: whose names the tensors have, "diffusers'" or "the authors'".
        prefix: what stands before them.
        parts: where in the file diffusers' tensors are.
        config: ours.
        published: titles of checkpoints with tensors of these names and shapes.
    """

    family: Family
    layout: str
    prefix: str
    parts: dict[str, Part]
    config: JsonObject
    published: tuple[str, ...]


class _Misfit(NamedTuple):
    """How a file differs from a family's network: what it lacks, what it holds beyond it, and sizes.

    ``known`` of its tensors have names that the network's have.
    """

    title: str
    reason: str = ""
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    known: int = 0

    @property
    def nearness(self) -> tuple[int, int]:
        """What the nearest has most of."""
        return self.known, -len(self.missing) - len(self.extra) - len(self.shapes)

    def __str__(self) -> str:
        said = [self.reason] if self.reason else []
        for what, names in (("missing", self.missing), ("unknown", self.extra), ("of another shape", self.shapes)):
            if names:
                said.append(f"{len(names)} {what}, for example {', '.join(names[:_NAMED])}")
        return f"{self.title} ({'; '.join(said)})"


def without_prefix(shapes: Shapes) -> tuple[str, dict[str, str]]:
    """The prefix of a transformer's names in a file, and the file's names by what is behind it.

    Tensors of other networks in the same file are left out.
    """
    prefix = next((one for one in PREFIXES if any(name.startswith(one) for name in shapes)), "")
    own = [name for name in shapes if not _OTHERS.match(name)]
    return prefix, {name.removeprefix(prefix): name for name in own}


def recognise(
    shapes: Shapes, where: object, make: Callable[..., nn.Module], config: Config | None = None
) -> Recognised:
    """Whose weights a file holds, and of which model.

    Args:
        shapes: of the file's tensors.
        where: what an error names.
        make: builds our model from its config.
        config: diffusers' config of the transformer, where it is known, ``_class_name`` among its entries: then the
            tensors must be of that model.

    Raises:
        ModelError: no family's: it says which come near, and what they lack; or another model's than ``config`` says.
    """
    prefix, stored = without_prefix(shapes)
    bare = {name: shapes[whole] for name, whole in stored.items()}
    if not bare:
        raise ModelError(f"{where} holds no tensors of a transformer")
    families = list(FAMILIES.values()) if config is None else [family_of(config, where)]
    misfits: list[_Misfit] = []
    seen: list[tuple[Family, str, dict[str, Part]]] = []
    for family in families:
        for layout in (DIFFUSERS, AUTHORS):
            if layout == AUTHORS and family.original is None:
                continue
            try:
                parts = _parts(family, layout, bare)
            except ModelError as error:
                misfits.append(
                    _Misfit(f"{family.title} in {layout} names", one_line(error), known=1)
                )  # what it divides
                continue
            seen.append((family, layout, parts))
            for theirs in _configs(family, parts, config):
                misfit, native = _compare(family, layout, parts, theirs, make, where)
                if misfit is None:
                    parts = {key: part._replace(stored=stored[part.stored]) for key, part in parts.items()}
                    titles = _published(parts) if config is None else ()
                    found = Recognised(family, layout, prefix, parts, native, tuple(titles))
                    _tell(found, where)
                    _tell_of_branch(family, bare, where)
                    return found
                misfits.append(misfit)
    if not any(one.known for one in misfits):
        misfits += _guesses(seen, make, where)
    raise ModelError(_nearest(misfits, where, min(shapes)))


def _parts(family: Family, layout: str, bare: Shapes) -> dict[str, Part]:
    """Where diffusers' tensors are, by the names of a layout; those that mean nothing are left out."""
    if layout == AUTHORS:
        assert family.original is not None
        parts = family.original.parts(bare)
    else:
        parts = {name: Part(name, shape) for name, shape in bare.items()}
    if family.ignored:
        parts = {name: part for name, part in parts.items() if not re.search(family.ignored, name)}
    return parts


def _shapes(parts: Mapping[str, Part]) -> dict[str, list[int]]:
    return {name: part.shape for name, part in parts.items()}


def _total(parts: Mapping[str, Part]) -> int:
    """How many weights there are."""
    return sum(math.prod(part.shape) for part in parts.values())


def _configs(family: Family, parts: Mapping[str, Part], config: Config | None) -> Iterator[Config]:
    """diffusers' configs that a file's may be."""
    if config is not None:
        yield config
        return
    total = _total(parts)
    known = [one.config for one in family.published.values() if one.parameters == total]
    if family.config_from_shapes is None:
        yield from known
        return
    try:
        read = family.config_from_shapes(_shapes(parts))
    except _UNREAD:
        return
    if known:  # they know what shapes do not tell
        yield read | dict(known[0])
    yield read


def _guesses(
    seen: list[tuple[Family, str, dict[str, Part]]], make: Callable[..., nn.Module], where: object
) -> list[_Misfit]:
    """How a file differs from the families that know most of its names, where no config could be read from it."""
    near = sorted(seen, key=lambda one: len(_outline(one[0], make) & set(one[2])), reverse=True)
    guesses: dict[str, _Misfit] = {}
    for family, layout, parts in near:
        known = len(_outline(family, make) & set(parts))
        if not known or family.name in guesses or len(guesses) == _NEAREST:
            continue
        reason = _unread(family, parts)
        if reason is not None:
            guesses[family.name] = _Misfit(f"{family.title} in {layout} names", reason, known=known)
        elif (misfit := _compare(family, layout, parts, _example(family), make, where)[0]) is not None:
            guesses[family.name] = misfit
    return list(guesses.values())


def _unread(family: Family, parts: Mapping[str, Part]) -> str | None:
    """What a family's config could not be read from; ``None`` where no config of it is read."""
    try:
        if family.config_from_shapes is not None:
            family.config_from_shapes(_shapes(parts))
    except KeyError as error:
        return f"lacks {error.args[0]}"
    except _UNREAD as error:
        return f"has shapes of another network: {one_line(error)}"
    return None


def _example(family: Family) -> Config:
    """A published config of a family."""
    return next(iter(family.published.values())).config


@cache
def _names_of_few(family: str, make: Callable[..., nn.Module]) -> frozenset[str]:
    config = FAMILIES[family].class_defaults() | dict(_example(FAMILIES[family]))
    few = {key: 1 for key, value in config.items() if re.fullmatch(r"num_(\w+_)?layers", key) and value}
    native = FAMILIES[family].native_config(config | few)
    model = build(lambda: make(**native), family)
    groups = FAMILIES[family].plan(model.state_dict(), {**native, **getattr(model, "config", {})})
    return frozenset(name for group in groups for name in group.theirs)


def _outline(family: Family, make: Callable[..., nn.Module]) -> frozenset[str]:
    """diffusers' names of a family's network with one block of each kind."""
    return _names_of_few(family.name, make)


def _compare(
    family: Family,
    layout: str,
    parts: Mapping[str, Part],
    config: Config,
    make: Callable[..., nn.Module],
    where: object,
) -> tuple[_Misfit | None, JsonObject]:
    """How a file differs from the network of a config of diffusers'; ``None``: it does not."""
    title = f"{family.title} in {layout} names"
    try:
        native = family.native_config(config, parts)
        model = build(lambda: make(**native), where)
        state = model.state_dict()
        full = {**native, **getattr(model, "config", {})}
        groups = family.plan(state, full)
        needed = {name: list(tensor.shape) for name, tensor in to_foreign(groups, state.__getitem__, full)}
    except VideoDiTError as error:
        return _Misfit(title, one_line(error)), {}
    missing = tuple(sorted(set(needed) - set(parts)))
    extra = tuple(sorted(parts[name].stored for name in set(parts) - set(needed)))
    wrong = tuple(
        f"{parts[name].stored} has shape {parts[name].shape} instead of {shape}"
        for name, shape in needed.items()
        if name in parts and parts[name].shape != shape
    )
    if missing or extra or wrong:
        return _Misfit(title, "", missing, extra, wrong, len(set(needed) & set(parts))), {}
    return None, native


def _nearest(misfits: list[_Misfit], where: object, first: str) -> str:
    """What to say of a file that is no family's."""
    known = ", ".join(family.title for family in FAMILIES.values())
    text = f"{where} holds no whole transformer of {known}; the first of its tensors is {short(first)}"
    near = sorted((one for one in misfits if one.known or one.reason), key=lambda one: one.nearness, reverse=True)
    return f"{text}. Nearest: {'; '.join(map(str, near[:_NEAREST]))}" if near else text


def _published(parts: Mapping[str, Part]) -> list[str]:
    """Titles of the published checkpoints of all families that have as many weights, under the same names."""
    total = _total(parts)
    return [
        title
        for family in FAMILIES.values()
        for title, one in family.published.items()
        if one.parameters == total and _same_names(family, parts)
    ]


def _same_names(family: Family, parts: Mapping[str, Part]) -> bool:
    """Whether a family's network has tensors of such names."""
    if family.config_from_shapes is None:
        return True
    try:
        family.config_from_shapes(_shapes(parts))
    except _UNREAD:
        return family.tensors_of is not None and _same_names(FAMILIES[family.tensors_of], parts)
    return True


def published_by_title(title: str) -> tuple[Family, Published]:
    """A checkpoint that exists, and its family."""
    return next((family, family.published[title]) for family in FAMILIES.values() if title in family.published)


def _tell_of_branch(family: Family, shapes: Shapes, where: object) -> None:
    """Say that a control branch beside the transformer is left out."""
    if family.branch is not None and (names := [name for name in shapes if name.startswith(family.branch)]):
        logger.warning(
            f"{where} holds a control branch, too ({len(names)} tensors, such as {names[0]}), which is left out: a "
            "branch is read from a folder, as diffusers saves it"
        )


def _tell(found: Recognised, where: object) -> None:
    """Say what was decided that the tensors do not tell."""
    options = {}
    for title in found.published:
        family, one = published_by_title(title)
        native = family.native_config(one.config, found.parts)
        options[title] = {key: value for key, value in native.items() if key not in ("family", "family_config")}
    chosen = {key: value for key, value in found.config.items() if key not in ("family", "family_config")}
    same = [title for title, one in options.items() if one == chosen]
    others = [title for title in options if title not in same]
    if others:
        logger.warning(
            f"{where} is read as {' or '.join(same) or found.family.title}; its tensors may be those of "
            f"{' or '.join(others)} as well, which is another function: config= says which"
        )
