"""By which names the linear layers of a VideoDiT go in LoRA files, and how theirs become ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from videodit.adapters.parameters import ParameterMap
from videodit.errors import InputError
from videodit.families import FAMILIES
from videodit.families.base import Group, Transform
from videodit.json_types import Config


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to one linear layer: ``alpha / r · up · down`` to its weight.

    Attributes:
        down: ``[r, in]``.
        up: ``[out, r]``.
        alpha: see there.
        bias: ``[out]``, added to the layer's bias, times ``alpha / r``, too; ``None`` for none.
        magnitude: DoRA's length of each row of the changed weight, ``[out]``; ``None`` for plain LoRA.
    """

    down: Tensor
    up: Tensor
    alpha: float
    bias: Tensor | None = None
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """``r``."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What ``up · down`` is multiplied with."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Place:
    """What a name stands for: one module, or several, one under the other in the rows of their weight.

    Attributes:
        modules: their names.
        transform: of the rows, from the file's order to the modules'; ``None`` for the same order.
        original: the name is of the authors' own layout.
    """

    modules: tuple[str, ...]
    transform: Transform | None = None
    original: bool = False


@dataclass(frozen=True)
class Names:
    """The names of one layout, as they are and with underscores for dots."""

    places: dict[str, Place] = field(default_factory=dict)
    flat: dict[str, Place] = field(default_factory=dict)

    def add(self, name: str, place: Place) -> None:
        """A further name; the first place that a name is given stays."""
        self.places.setdefault(name, place)
        self.flat.setdefault(name.replace(".", "_"), place)

    def find(self, name: str) -> Place | None:
        """The place of a name of either form."""
        return self.places.get(name) or self.flat.get(name.replace(".", "_"))


class ModuleMap:
    """The linear layers of a VideoDiT, or of a control branch: their sizes, and their names in every layout.

    Args:
        config: of the network.
        make: its class; ``None`` for VideoDiT.

    Attributes:
        sizes: ``(out, in)`` of our layers by name.
        native: our own names.
        published: those of diffusers' class and of the authors; the same as ``native`` for models made here.
        title: of the family, ``"VideoDiT"`` for models made here.
        parameters: all that are no linear layers'.
    """

    def __init__(self, config: Config, make: Callable[..., nn.Module] | None = None) -> None:
        from videodit import VideoDiT

        made = VideoDiT if make is None else make
        with torch.device("meta"):
            model: Any = made(**{key: value for key, value in config.items() if not key.startswith("_")})
        self.config = model.config
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self.sizes = {name: (module.out_features, module.in_features) for name, module in linear.items()}
        self.native = Names()
        for name in self.sizes:
            self.native.add(name, Place((name,)))
        self.groups: dict[str, Group] = {}
        self.weight_shapes: dict[str, list[int]] = {}
        family = FAMILIES.get(self.config.get("family") or "")
        self.title = type(model).__name__ if family is None else family.title
        self.parameters = ParameterMap(model, family, self.config)
        self.published = self.native
        if family is None:
            return
        self.published = Names()
        for group in family.plan([f"{name}.weight" for name in self.sizes], self.config):
            ours = [torch.empty(self.sizes[_module(name)], device="meta") for name in group.ours]
            weights = ours if group.transform is None else group.transform.save(ours, self.config)
            for name, weight in zip(group.theirs, weights, strict=True):
                self.groups[_module(name)] = group
                self.weight_shapes[_module(name)] = list(weight.shape)
                self.published.add(_module(name), Place((_module(name),)))
        if family.original is not None:
            for name in list(self.weight_shapes):
                for fused in family.original.names_of(f"{name}.weight"):
                    place = Place(tuple(map(_module, fused.ours)), fused.transform, original=True)
                    self.published.add(_module(fused.theirs[0]), place)

    def size(self, module: str, *, native: bool) -> tuple[int, int]:
        """``(out, in)`` of one of our modules, or of diffusers'."""
        if native or not self.groups:
            return self.sizes[module]
        out, *rest = self.weight_shapes[module]
        return out, torch.Size(rest).numel()

    def is_input(self, module: str, *, native: bool) -> bool:
        """Whether a module is the one that latents go into, whose channels differ within a family."""
        if native or not self.groups:
            return module == "patch_embed"
        group = self.groups[module]  # of columns in another order, further channels do not stand behind
        return group.ours == ("patch_embed.weight",) and group.columns is None

    def kernel(self, module: str, *, native: bool) -> list[int]:
        """The axes behind the channels of a module's weight; a linear layer has the places of a patch."""
        if not native and self.groups and len(shape := self.weight_shapes[module]) > 2:
            return list(shape[2:])
        channels = self.config.get("in_channels", 1)  # a branch has no such layer
        return [self.size(module, native=native)[1] // channels]

    def from_published(self, deltas: Mapping[str, Delta]) -> dict[str, Delta]:
        """Ours, from those of diffusers' modules by name."""
        if not self.groups:
            return dict(deltas)
        found: dict[str, Delta] = {}
        for group in _distinct(self.groups[name] for name in deltas):
            theirs = [_module(name) for name in group.theirs]
            if group.columns is not None:
                found[_module(group.ours[0])] = _with_columns(deltas[theirs[0]], group.columns.load, self.config)
                continue
            flat = (
                group.transform is None or len(self.weight_shapes[theirs[0]]) > 2
            )  # of convolutions, see to_published
            load = None if flat or group.transform is None else group.transform.load
            rows = [self.weight_shapes[name][0] for name in theirs]
            made = map_rows([deltas.get(name) for name in theirs], rows, load, self.config)
            found |= zip(map(_module, group.ours), made, strict=True)
        return found

    def to_published(self, deltas: Mapping[str, Delta]) -> dict[str, Delta]:
        """Those of diffusers' modules, from ours; of a convolution, ``down`` and ``up`` have a kernel's axes."""
        if not self.groups:
            return dict(deltas)
        found: dict[str, Delta] = {}
        wanted = [group for group in _distinct(self.groups.values()) if any(_module(n) in deltas for n in group.ours)]
        for group in wanted:
            ours, theirs = [_module(name) for name in group.ours], [_module(name) for name in group.theirs]
            shape = self.weight_shapes[theirs[0]]
            if len(shape) > 2:  # a convolution's rows keep their order
                found[theirs[0]] = _as_convolution(deltas[ours[0]], shape)
                continue
            if group.columns is not None:
                found[theirs[0]] = _with_columns(deltas[ours[0]], group.columns.save, self.config)
                continue
            save = None if group.transform is None else group.transform.save
            rows = [self.sizes[name][0] for name in ours]
            found |= zip(theirs, map_rows([deltas.get(name) for name in ours], rows, save, self.config), strict=True)
        return found


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _distinct(groups: Iterable[Group]) -> Iterator[Group]:
    return iter({group.ours: group for group in groups}.values())


def _with_columns(delta: Delta, function: Rows, config: Config) -> Delta:
    """A change of a weight whose columns a transform moves."""
    (down,) = function([delta.down], config)
    return Delta(down, delta.up, delta.alpha, delta.bias, delta.magnitude)


def _as_convolution(delta: Delta, shape: list[int]) -> Delta:
    ones = [1] * (len(shape) - 2)
    magnitude = None if delta.magnitude is None else delta.magnitude.reshape(1, -1, *ones)
    down, up = delta.down.reshape(delta.rank, *shape[1:]), delta.up.reshape(*delta.up.shape, *ones)
    return Delta(down, up, delta.alpha, delta.bias, magnitude)


Rows = Callable[[list[Tensor], Config], list[Tensor]]


def map_rows(deltas: list[Delta | None], rows: list[int], function: Rows | None, config: Config) -> list[Delta]:
    """Send the rows of weights' changes through a transform.

    A transform that takes rows from several layers makes layers whose change is the sum of changes by different
    ``down``: these are stacked, and each ``up`` has zeros where it has no part in one. Columns that stay zero are
    dropped again, so that the way back gives what was there at first.

    Args:
        deltas: of the layers that go in; ``None`` for a layer that has none.
        rows: how many rows each of them has.
        function: the transform; ``None`` leaves everything as it is.
        config: the model's.

    Raises:
        InputError: DoRA for some of the layers alone.
    """
    given = [delta for delta in deltas if delta is not None]
    if function is None:
        return given
    if len(deltas) == 1:
        (one,) = given
        ups = function([one.up], config)
        none: list[Tensor | None] = [None] * len(ups)
        biases, magnitudes = (none if x is None else function([x], config) for x in (one.bias, one.magnitude))
        return [
            Delta(one.down, up, one.alpha, bias, magnitude)
            for up, bias, magnitude in zip(ups, biases, magnitudes, strict=True)
        ]
    scales = {delta.scale for delta in given}
    scale = scales.pop() if len(scales) == 1 else 1.0
    down, ups = _stack(deltas, rows, scale)
    changed = function(ups, config)
    bias_rows: Sequence[Tensor | None] = [None] * len(changed)
    if any(delta.bias is not None for delta in given):
        biases = [_bias(delta, count, scale, given[0]) for delta, count in zip(deltas, rows, strict=True)]
        bias_rows = function(biases, config)
    magnitude_rows: Sequence[Tensor | None] = [None] * len(changed)
    magnitudes = [delta.magnitude for delta in given if delta.magnitude is not None]
    if magnitudes:
        if len(magnitudes) < len(deltas):
            raise InputError("holds DoRA for one of two layers whose rows this model has in one; both are needed")
        magnitude_rows = function(magnitudes, config)
    return [
        _compact(down, up, scale, bias, magnitude)
        for up, bias, magnitude in zip(changed, bias_rows, magnitude_rows, strict=True)
    ]


def _stack(deltas: list[Delta | None], rows: list[int], scale: float) -> tuple[Tensor, list[Tensor]]:
    """All ``down`` in one, and each layer's ``up`` for it, as if all had one scale."""
    given = [delta for delta in deltas if delta is not None]
    equal = all(delta.scale == scale for delta in given)
    dtype = given[0].up.dtype if equal else torch.promote_types(given[0].up.dtype, torch.float32)
    downs: list[Tensor] = []
    starts: list[int] = []  # where each layer's part begins
    for delta in given:
        known = [i for i, down in enumerate(downs) if _same(down, delta.down)]
        starts.append(_total(downs[: known[0]] if known else downs))
        downs += [] if known else [delta.down]
    ups = []
    places = iter(starts)
    for layer, count in zip(deltas, rows, strict=True):
        up = given[0].up.new_zeros(count, _total(downs), dtype=dtype)
        if layer is not None:
            start = next(places)
            up[:, start : start + layer.rank] = _scaled(layer.up, layer.scale / scale)
        ups.append(up)
    return torch.cat(downs), ups


def _total(downs: list[Tensor]) -> int:
    return sum(down.shape[0] for down in downs)


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    """Times a factor, in float32 at least; what is made of it is cast where it goes into a layer."""
    return tensor if factor == 1 else tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * factor


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and not one.is_meta and torch.equal(one, other))


def _bias(delta: Delta | None, count: int, scale: float, like: Delta) -> Tensor:
    if delta is None or delta.bias is None:
        return torch.zeros(count, dtype=like.up.dtype)
    return _scaled(delta.bias, delta.scale / scale)


def _compact(down: Tensor, up: Tensor, scale: float, bias: Tensor | None, magnitude: Tensor | None) -> Delta:
    if not up.is_meta:
        used = up.any(dim=0)
        used[0] |= not used.any()  # of nothing but zeros, one column stays
        down, up = down[used], up[:, used]
    return Delta(down, up, scale * down.shape[0], bias, magnitude)
