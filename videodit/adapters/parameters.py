"""By which names the parameters that are no linear layers' go in LoRA files, and how changes of theirs become ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from videodit.errors import ModelError
from videodit.families.base import Family, Group
from videodit.json_types import Config

_LEAVES = {"diff": (".weight", ""), "diff_b": (".bias",), "diff_m": (".modulation", ".scale_shift_table")}


class ParameterMap:
    """The parameters of a VideoDiT but those of linear layers, by name in every layout.

    Args:
        model: the VideoDiT, which may be without values.
        family: its family; ``None`` for models made here.
        config: its config.
    """

    def __init__(self, model: nn.Module, family: Family | None, config: Config) -> None:
        self.config = config
        linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self.shapes = {
            name: list(parameter.shape)
            for name, parameter in model.named_parameters()
            if name.rpartition(".")[0] not in linear
        }
        self.groups: dict[str, Group] = {}  # by diffusers' names
        self.published_shapes: dict[str, list[int]] = {}
        self._authors: dict[str, Group] = {}  # by the authors'
        plan = [] if family is None else family.plan(self.shapes, config)
        for group in plan:
            if not set(group.ours) <= set(self.shapes):
                continue
            ours = [torch.empty(self.shapes[name], device="meta") for name in group.ours]
            theirs = ours if group.transform is None else group.transform.save(ours, config)
            for name, tensor in zip(group.theirs, theirs, strict=True):
                self.groups[name] = group
                self.published_shapes[name] = list(tensor.shape)
        if family is not None and family.original is not None:
            for name in self.groups:
                for group in family.original.names_of(name):
                    if len(group.ours) == 1:
                        self._authors.setdefault(group.theirs[0], group)
        self._flat = {key.replace(".", "_"): key for key in (*self.shapes, *self.groups, *self._authors)}

    def find(self, module: str, part: str, *, native: bool) -> str | None:
        """The parameter of a module's difference, by its name in our layout, in diffusers' or in the authors'."""
        for leaf in _LEAVES.get(part, ()):
            for name in (module + leaf, self._flat.get((module + leaf).replace(".", "_"))):
                if name in self.shapes and (native or not self.groups):
                    return name
                if not native and (name in self.groups or name in self._authors):
                    return name
        return None

    def load(self, found: Mapping[str, Tensor], *, native: bool) -> dict[str, Tensor]:
        """Ours, from differences by the names that :meth:`find` gives.

        Raises:
            ModelError: a wrong shape.
        """
        if native or not self.groups:
            return {name: _shaped(name, tensor, self.shapes[name]) for name, tensor in found.items()}
        theirs: dict[str, Tensor] = {}
        for name, tensor in found.items():
            author = self._authors.get(name) if name not in self.groups else None
            target = name if author is None else author.ours[0]
            if target in theirs:
                raise ModelError(f"changes {target} twice, once as {name}")
            value = _shaped(name, tensor, self.published_shapes[target])
            if author is not None and author.transform is not None:
                (value,) = author.transform.load([value], self.config)
            theirs[target] = value
        ours: dict[str, Tensor] = {}
        for group in _distinct(self.groups[name] for name in theirs):
            like = next(theirs[name] for name in group.theirs if name in theirs)
            values = [
                theirs[name] if name in theirs else like.new_zeros(self.published_shapes[name]) for name in group.theirs
            ]
            if group.transform is not None:
                values = group.transform.load(values, self.config)
            ours |= zip(group.ours, values, strict=True)
        return ours

    def to_published(self, differences: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """diffusers', from ours."""
        if not self.groups:
            return dict(differences)
        found: dict[str, Tensor] = {}
        for group in _distinct(self.groups.values()):
            if not set(group.ours) & set(differences):
                continue
            like = next(differences[name] for name in group.ours if name in differences)
            values = [
                differences[name] if name in differences else like.new_zeros(self.shapes[name]) for name in group.ours
            ]
            if group.transform is not None:
                values = group.transform.save(values, self.config)
            found |= zip(group.theirs, values, strict=True)
        return found


def difference_key(parameter: str) -> str:
    """The name of a parameter's difference in a file."""
    if parameter.endswith(".weight"):
        return f"{parameter.removesuffix('.weight')}.diff"
    if parameter.endswith(".bias"):
        return f"{parameter.removesuffix('.bias')}.diff_b"
    return f"{parameter}.diff"


def _distinct(groups: Iterable[Group]) -> list[Group]:
    return list({group.ours: group for group in groups}.values())


def _shaped(name: str, tensor: Tensor, shape: list[int]) -> Tensor:
    """A tensor whose axes of one may stand elsewhere, as files have them."""
    if [size for size in tensor.shape if size != 1] != [size for size in shape if size != 1]:
        raise ModelError(f"has a difference of {name} of shape {list(tensor.shape)}, this model needs {shape}")
    return tensor.reshape(shape)
