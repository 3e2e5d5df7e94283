"""From a LoRA file of any layout to what it adds to our layers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

import torch
from torch import Tensor

from videodit.adapters.info import Layout, LoRAInfo
from videodit.adapters.keys import Key, Network, parse_key
from videodit.adapters.modules import Delta, ModuleMap, Names, Place
from videodit.adapters.peft_settings import MAX_ALPHA, PeftSettings
from videodit.adapters.sources import LoRASource, listed, printable
from videodit.errors import ModelError

LAYOUT = "videodit.layout"  # in the metadata: "native" for our own names
BASE_MODEL = "videodit.base_model"
BASE_HASH = "videodit.base_model_hash"
_MAX_RANK = 16384
_NAMED = 5
_TRIGGERS = ("modelspec.trigger_phrase", "ss_trigger_words", "trigger_words")


@dataclass(frozen=True)
class LoRA:
    """A LoRA for a model: what it adds, by network and module.

    Attributes:
        info: what it is.
        deltas: to linear layers.
        differences: to all other parameters, by their names; each has its parameter's shape.
    """

    info: LoRAInfo
    deltas: Mapping[str, Mapping[str, Delta]]
    differences: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def read_lora(
    source: LoRASource,
    models: Mapping[str, ModuleMap],
    *,
    name: str | None = None,
    into: str | None = None,
    base_hash: str | None = None,
    header_only: bool = False,
) -> LoRA:
    """Read a LoRA for a model.

    Args:
        source: the LoRA.
        models: the layers of ``"transformer"``, and of ``"transformer_2"`` where there is one.
        name: to go by; ``None`` takes the source's.
        into: of the two, the one that tensors for ``"transformer"`` are for.
        base_hash: the model's fingerprint, compared with that of the model that the LoRA was made for.
        header_only: check names and shapes alone; the deltas then have no values.

    Raises:
        ModelError: another kind of adapter, a LoRA that fits no module, one of a wrong shape or with parts missing,
            or changes that are not of linear layers.
    """
    notices: list[str] = []
    modules, unknown = _collect(source, into, notices)
    deltas: dict[str, dict[str, Delta]] = {}
    differences: dict[str, dict[str, Tensor]] = {}
    layouts: list[Layout] = []
    matched = 0
    for network in sorted({network for network, _ in modules}):
        parts = {module: found for (owner, module), found in modules.items() if owner == network}
        model = models.get(network)
        if model is None:
            unknown += [next(iter(found.values()))[1] for found in parts.values()]
            continue
        reader = _Reader(source, model, network, header_only)
        found = reader.read(parts)
        unknown += reader.unknown
        notices += reader.notices
        matched += reader.matched
        layouts.append(reader.layout)
        if found:
            deltas[network] = found
        if reader.differences:
            differences[network] = reader.differences
    networks = tuple(name for name in models if name in deltas or name in differences)
    total = matched + len(unknown)
    if matched == 0:
        raise ModelError(_nothing_fits(source, unknown, models))
    if unknown:
        notices.append(
            f"LoRA {source.name!r}: {matched}/{total} modules match; the model lacks {listed(unknown, _NAMED)}"
        )
    notices += _base_notices(source, base_hash)
    if len(models) > 1 and len(networks) == 1:
        notices.append(f"LoRA {source.name!r} changes {networks[0]} alone; the other expert stays as it is")
    every = [delta for found in deltas.values() for delta in found.values()]
    info = LoRAInfo(
        name=name or adapter_name(source.name),
        content_hash=source.content_hash,
        layout=layouts[0],
        ranks=tuple(sorted({delta.rank for delta in every})),
        dora=any(delta.magnitude is not None for delta in every),
        matched=matched,
        total=total,
        networks=networks,
        base_hash=source.metadata.get(BASE_HASH),
        notices=tuple(notices),
        metadata=source.metadata,
        **describe(source),
    )
    return LoRA(info, deltas, differences)


class Description(TypedDict):
    """What a LoRA's metadata tell."""

    base_model: str | None
    trigger_words: tuple[str, ...]


def describe(source: LoRASource) -> Description:
    """What the metadata tell without a model: ``base_model`` and ``trigger_words``."""
    data = source.metadata
    base: object = next(
        (data[key] for key in (BASE_MODEL, "ss_base_model_version", "modelspec.architecture") if data.get(key)), None
    )
    base = base or source.peft_config.get("base_model_name_or_path")
    words = [printable(word.strip()) for key in _TRIGGERS for word in data.get(key, "").split(",")]
    base_model = printable(str(base)) if base else None
    return {"base_model": base_model, "trigger_words": tuple(dict.fromkeys(word for word in words if word))}


@dataclass(frozen=True)
class FileInfo:
    """What a LoRA's file says, whatever model it is for.

    Attributes:
        layout: ``"kohya"``, or ``"dotted"`` for all others, which a model tells apart.
        modules: how many it changes, those of text encoders left aside.
        ranks: all that occur.
        dora: it is a DoRA.
        base_model: what it was made for, as far as it says.
        trigger_words: to be written into prompts.
    """

    layout: Literal["kohya", "dotted"]
    modules: int
    ranks: tuple[int, ...]
    dora: bool
    base_model: str | None
    trigger_words: tuple[str, ...]


def inspect_lora(source: LoRASource) -> FileInfo:
    """Look into a LoRA's header.

    Raises:
        ModelError: no LoRA.
    """
    modules, _ = _collect(source, None, [])
    if not modules:
        raise ModelError(f"{source.where} is no LoRA: it holds {source.names[0]}")
    keys = [key for parts in modules.values() for key, _ in parts.values()]
    return FileInfo(
        layout="kohya" if any(key.kohya for key in keys) else "dotted",
        modules=len(modules),
        ranks=tuple(sorted({source.shape(parts["down"][1])[0] for parts in modules.values() if "down" in parts})),
        dora=any(key.part == "magnitude" for key in keys),
        **describe(source),
    )


def adapter_name(text: str) -> str:
    """A name that peft takes: no dots, which separate modules."""
    return re.sub(r"[^\w-]+", "_", text).strip("_") or "lora"


def _collect(
    source: LoRASource, into: str | None, notices: list[str]
) -> tuple[dict[tuple[str, str], dict[str, tuple[Key, str]]], list[str]]:
    """The tensors' names by network and module, then by part; and names without a form that we know."""
    modules: dict[tuple[str, str], dict[str, tuple[Key, str]]] = {}
    unknown: list[str] = []
    text: list[str] = []
    for name in source.names:
        try:
            key = parse_key(name)
        except ValueError as error:
            raise ModelError(f"LoRA {source.name!r} {error}") from None
        if key is None:
            unknown.append(name)
            continue
        if key.network == "text":
            text.append(name)
            continue
        network: Network | str = into if into is not None and key.network == "transformer" else key.network
        parts = modules.setdefault((network, key.module), {})
        if key.part in parts:
            raise ModelError(f"LoRA {source.name!r} holds {key.module} twice: {parts[key.part][1]} and {name}")
        parts[key.part] = (key, name)
    if text:
        notices.append(
            f"LoRA {source.name!r}: {len(text)} tensors for text encoders are left out, for example {text[0]}"
        )
    return modules, unknown


def _nothing_fits(source: LoRASource, unknown: list[str], models: Mapping[str, ModuleMap]) -> str:
    model = next(iter(models.values()))
    legal = list(model.published.places)
    shown = [legal[i] for i in sorted({0, len(legal) // 2, len(legal) - 1})]
    found = listed(unknown or source.names[:1], _NAMED)
    return (
        f"LoRA {source.name!r} fits no module of this {model.title}: it holds {found}; "
        f"expected names such as {', '.join(shown)}"
    )


def _base_notices(source: LoRASource, base_hash: str | None) -> list[str]:
    made_for = source.metadata.get(BASE_HASH)
    if base_hash is None or made_for is None or made_for == base_hash:
        return []
    base, made_for = printable(source.metadata.get(BASE_MODEL, "another model")), printable(made_for)
    return [f"LoRA {source.name!r} was made for {base} ({made_for}), not for these weights ({base_hash})"]


class _Reader:
    """Reads the modules of one network."""

    def __init__(self, source: LoRASource, model: ModuleMap, network: str, header_only: bool) -> None:
        self.source, self.model, self.header_only = source, model, header_only
        self.settings = PeftSettings.of(source, network)
        self.notices: list[str] = []
        self.unknown: list[str] = []
        self.zeros: list[str] = []  # differences of what the model lacks, which change nothing
        self.differences: dict[str, Tensor] = {}
        self.matched = 0
        self.layout: Layout = "diffusers"

    def read(self, modules: Mapping[str, Mapping[str, tuple[Key, str]]]) -> dict[str, Delta]:
        """Our deltas by module."""
        native, names = self._names(modules)
        found: dict[str, Delta] = {}
        kohya = original = False
        changes: dict[str, Tensor] = {}
        for module, all_parts in modules.items():
            parts = dict(all_parts)
            place = names.find(module)
            first_key, first_name = next(iter(parts.values()))
            others = set(parts) & ({"diff", "diff_b", "diff_m"} if place is None else {"diff_m"})
            count = len(parts)
            for part in others:
                self._other(module, part, parts, changes, native)
            if not parts or (place is None and len(parts) < count and set(parts) <= {"alpha"}):
                self.matched += 1
                kohya = kohya or first_key.kohya
                continue
            if place is None or not {"down", "up", "diff", "diff_b"} & set(parts):
                if not self._is_zero(parts):
                    self.unknown.append(next(iter(parts.values()))[1])
                continue
            if self._is_too_wide(place, parts, native):
                self.unknown.append(first_name)
                continue
            self.matched += 1
            kohya, original = kohya or first_key.kohya, original or place.original
            for name, delta in self._deltas(module, parts, place, native).items():
                if name in found:
                    raise ModelError(f"LoRA {self.source.name!r} changes {name} twice, once as {module}")
                found[name] = delta
        if self.zeros:
            self.notices.append(
                f"LoRA {self.source.name!r}: {len(self.zeros)} differences of what the model lacks are all zeros and "
                f"left out: {listed(self.zeros, _NAMED)}"
            )
        self.layout = "kohya" if kohya else "native" if native else "original" if original else "diffusers"
        changed = [module for module in found if found[module].magnitude is not None]
        if changed and len(changed) < len(found):
            plain = next(module for module in found if found[module].magnitude is None)
            raise ModelError(
                f"LoRA {self.source.name!r} is a DoRA for {changed[0]} and none for {plain}; it must be one for all"
            )
        try:
            self.differences = self.model.parameters.load(changes, native=native)
            return found if native else self.model.from_published(found)
        except ValueError as error:
            raise ModelError(f"LoRA {self.source.name!r} {error}") from None

    def _names(self, modules: Mapping[str, object]) -> tuple[bool, Names]:
        """Whether the names are ours, and the table that they are looked up in."""
        own, published = self.model.native, self.model.published
        counts = [sum(names.find(module) is not None for module in modules) for names in (own, published)]
        native = self.source.metadata.get(LAYOUT) == "native" or counts[0] > counts[1] or own is published
        return native, own if native else published

    def _is_zero(self, parts: Mapping[str, tuple[Key, str]]) -> bool:
        """Whether it is a difference of something that the model lacks, and nothing but zeros."""
        if not set(parts) <= {"diff", "diff_b", "diff_m"} or any(self._any(name) for _, name in parts.values()):
            return False
        self.zeros += [name for _, name in parts.values()]
        return True

    def _any(self, name: str) -> bool:
        tensor = self.source.get(name, header_only=self.header_only)
        return tensor.is_meta or bool(tensor.float().any())

    def _other(
        self, module: str, part: str, parts: dict[str, tuple[Key, str]], changes: dict[str, Tensor], native: bool
    ) -> None:
        """Take a difference of a parameter that is no linear layer's out of a module's parts, if the model has it."""
        parameter = self.model.parameters.find(module, part, native=native)
        if parameter is None:
            return
        if parameter in changes:
            raise ModelError(f"LoRA {self.source.name!r} changes {parameter} twice, once as {parts[part][1]}")
        changes[parameter] = self._tensor(part, parts.pop(part)[1])

    def _is_too_wide(self, place: Place, parts: Mapping[str, tuple[Key, str]], native: bool) -> bool:
        """Whether it changes more channels of the latents than the model has; this is announced."""
        if not self.model.is_input(place.modules[0], native=native):
            return False
        part = "down" if "down" in parts else "diff"
        if part not in parts:
            return False
        name = parts[part][1]
        _, *rest = self.source.shape(name) or [0]
        kernel = self.model.kernel(place.modules[0], native=native)
        columns, needed = math.prod(rest), self.model.size(place.modules[0], native=native)[1]
        if columns <= needed or columns % math.prod(kernel):
            return False
        self.notices.append(
            f"LoRA {self.source.name!r}: {name} is left out: it is for {columns // math.prod(kernel)} channels, this "
            f"{self.model.title} has {needed // math.prod(kernel)}"
        )
        return True

    def _widened(self, place: Place, tensor: Tensor, native: bool) -> Tensor:
        """The columns of an input projection, with zeros for channels that the LoRA does not know.

        Further channels (masks, conditions) stand behind those of the latents in every family.
        """
        module = place.modules[0]
        flat = tensor.flatten(1)
        needed, kernel = self.model.size(module, native=native)[1], self.model.kernel(module, native=native)
        same = tensor.ndim == 2 or list(tensor.shape[2:]) == kernel
        if not self.model.is_input(module, native=native) or flat.shape[1] >= needed or not same:
            return flat
        if flat.shape[1] % math.prod(kernel):
            return flat
        return torch.cat([flat, flat.new_zeros(flat.shape[0], needed - flat.shape[1])], dim=1)

    def _deltas(
        self, module: str, parts: Mapping[str, tuple[Key, str]], place: Place, native: bool
    ) -> dict[str, Delta]:
        """What one module of the file adds to the modules that it stands for."""
        sizes = [self.model.size(name, native=native) for name in place.modules]
        delta = self._delta(module, parts, sum(out for out, _ in sizes), sizes[0][1], place, native)
        if place.transform is not None:
            up, bias, magnitude = (
                None if rows is None else place.transform.load([rows], self.model.config)[0]
                for rows in (delta.up, delta.bias, delta.magnitude)
            )
            assert up is not None
            delta = Delta(delta.down, up, delta.alpha, bias, magnitude)
        rows = [out for out, _ in sizes]
        if len(rows) == 1:
            return {place.modules[0]: delta}
        nothing = [None] * len(rows)
        biases = nothing if delta.bias is None else delta.bias.split(rows)
        magnitudes = nothing if delta.magnitude is None else delta.magnitude.split(rows)
        pieces = zip(delta.up.split(rows), biases, magnitudes, strict=True)
        return {
            name: Delta(delta.down, up, delta.alpha, bias, magnitude)
            for name, (up, bias, magnitude) in zip(place.modules, pieces, strict=True)
        }

    def _delta(
        self,
        module: str,
        parts: Mapping[str, tuple[Key, str]],
        rows: int,
        columns: int,
        place: Place,
        native: bool,
    ) -> Delta:
        given = set(parts)
        rank = (self.source.shape(parts["down"][1]) or [0])[0] if "down" in given else 0
        if rank > _MAX_RANK:
            raise ModelError(f"LoRA {self.source.name!r}: {module} has rank {rank}; it must be at most {_MAX_RANK}")
        tensors = {part: self._tensor(part, name) for part, (_, name) in parts.items()}
        if len(given & {"down", "up"}) == 1:
            raise ModelError(f"LoRA {self.source.name!r}: {module} has one of lora_A and lora_B, both are needed")
        if "diff" in given and given & {"down", "magnitude"}:
            raise ModelError(
                f"LoRA {self.source.name!r}: {module} has a difference beside LoRA or DoRA; it must have one of them"
            )
        if "diff" in given:  # of full rank: the difference times an identity
            diff = self._widened(place, tensors["diff"], native)
            self._check(module, "difference", diff, [rows, columns])
            eye = torch.eye(min(rows, columns), dtype=diff.dtype, device=diff.device)
            down, up = (eye, diff) if columns <= rows else (diff, eye)
        elif "down" in given:
            down, up = self._widened(place, tensors["down"], native), tensors["up"].flatten(1)
            self._check(module, "lora_A", down, [up.shape[1], columns])
            self._check(module, "lora_B", up, [rows, down.shape[0]])
        else:  # a difference of the bias alone
            down = tensors["diff_b"].new_zeros(1, columns)
            up = tensors["diff_b"].new_zeros(rows, 1)
        alpha = self._alpha(module, tensors.get("alpha"), down.shape[0]) if "down" in given else float(down.shape[0])
        bias = tensors.get("up_bias")
        if (difference := tensors.get("diff_b")) is not None:
            bias = difference.float() * (down.shape[0] / alpha)  # the scale that it will get is not meant for it
        magnitude = tensors.get("magnitude")
        for title, vector in (("bias", bias), ("magnitude", magnitude)):
            if vector is not None:
                self._check(module, title, vector, None, rows)
        magnitude = None if magnitude is None else magnitude.reshape(-1)
        return Delta(down, up, alpha, None if bias is None else bias.reshape(-1), magnitude)

    def _tensor(self, part: str, name: str) -> Tensor:
        """A tensor that is fit to be a weight, or alpha."""
        if part == "alpha":
            return self.source.get(name)
        if not self.source.is_float(name):
            raise ModelError(f"LoRA {self.source.name!r}: {name} holds whole numbers; it must hold floating-point ones")
        tensor = self.source.get(name, header_only=self.header_only)
        if not tensor.numel():
            raise ModelError(f"LoRA {self.source.name!r}: {name} is empty, of shape {list(tensor.shape)}")
        if tensor.element_size() == 1:  # of 8 bits, which torch does not calculate with
            try:
                tensor = tensor.float()
            except (RuntimeError, NotImplementedError):
                raise ModelError(
                    f"LoRA {self.source.name!r}: {name} is of type {tensor.dtype}, which cannot be converted"
                ) from None
        if not tensor.is_meta and not tensor.isfinite().all():
            raise ModelError(f"LoRA {self.source.name!r}: {name} holds numbers that are not finite")
        return tensor

    def _check(self, module: str, part: str, tensor: Tensor, shape: list[int] | None, count: int = 0) -> None:
        found = list(tensor.shape)
        if shape is None:
            # Of two axes, the first is the rows': LyCORIS can also normalise columns, which is another function.
            wrong = tensor.numel() != count or (len(found) == 2 and found[0] != count)
        else:
            wrong = found != shape
        if wrong:
            raise ModelError(
                f"LoRA {self.source.name!r}: {part} of {module} has shape {found}, this {self.model.title} needs "
                f"{shape or [count]}"
            )

    def _alpha(self, module: str, stored: Tensor | None, rank: int) -> float:
        """What ``up · down`` is scaled with, times the rank."""
        if stored is not None and (stored.numel() != 1 or stored.is_complex()):
            raise ModelError(
                f"LoRA {self.source.name!r}: alpha of {module} has shape {list(stored.shape)}; it must be one number"
            )
        try:
            alpha = self.settings.alpha(module, rank) if stored is None else float(stored)
        except ValueError as error:
            raise ModelError(f"LoRA {self.source.name!r}: {error}") from None
        if not 0 < alpha <= MAX_ALPHA:  # NaN, too
            raise ModelError(
                f"LoRA {self.source.name!r}: alpha of {module} is {alpha}; it must be a number above 0 and up to "
                f"{MAX_ALPHA:g}"
            )
        return alpha
