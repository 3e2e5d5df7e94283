"""Whether a pipeline still is what its folder holds, so that recipes name no weights that did not make a clip.

What can change a clip is noted when a pipeline is loaded and compared at each call. Weights are compared by their
version counters and by samples of their values: to hash all of them would take longer than a call.
"""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from videodit._diffusers import cache_of, hook_names, offloaded_weights, offloading_hook
from videodit.pipelines.folders import SHARED_SETTINGS
from videodit.weights import as_stored, is_plain, of_codes

if TYPE_CHECKING:
    from diffusers import ModelMixin, SchedulerMixin
    from diffusers.configuration_utils import FrozenDict
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from videodit._diffusers import BaseTunerLayer
    from videodit.adapters.network import FusedForGood
    from videodit.json_types import JsonObject

_PER_AXIS = 4
_HARMLESS_HOOKS = (
    "group_offloading",
    "layer_execution_tracker",
    "lazy_prefetch_group_offloading",
    "cp_input",
    "cp_output",
)
"""Hooks of diffusers' that move weights or divide tokens: what a forward computes stays as it is."""
_OWN_SETTINGS = ("max_text_length", *SHARED_SETTINGS, "sampled_as")
_TEXT_PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
_PROBE = "A red ball, 2 cats & the quick brown fox; Ünïcode 猫 jump over 1234567890 lazy dogs."


def weights_of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All tensors that a network was loaded with, wherever offloading keeps them; those of adapters are left out."""
    differences = getattr(network, "weight_differences", None)
    originals = {} if differences is None or differences.merged_adapters else differences.originals
    for name, module in _modules(network):
        kept = offloaded_weights(module)
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            if tensor.device.type == "meta" and kept:
                tensor = kept[key]
            yield f"{name}.{key}", originals.get(f"{name}.{key}".removeprefix("."), tensor)


def _modules(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules by name as if there were no adapters."""
    if _is_adapted(module):
        if module.base_layer is not None:
            yield from _modules(module.base_layer, prefix)  # type: ignore[arg-type]
        return
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _modules(child, f"{prefix}.{name}")


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "active_adapters")


def dtype_of(network: nn.Module) -> str:
    """The dtype that most of a network's numbers are stored in."""
    counts: Counter[str] = Counter()
    for _, tensor in weights_of(network):
        if of_codes(tensor):  # which layers compute with in another
            continue
        counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else "float32"


def _as_in_files(tensor: Tensor) -> bool:
    """Whether a tensor is what a file holds: it was not quantized after it had been read."""
    return is_plain(tensor) or of_codes(tensor)


def _samples(tensors: Iterable[Tensor]) -> list[Tensor | None]:
    """A few values of each tensor, spread over all of its axes; ``None`` where they cannot be read."""
    found: list[Tensor | None] = []
    for tensor in tensors:
        if tensor.is_meta:  # networks whose options alone were needed
            found.append(None)
            continue
        try:
            plain = as_stored(tensor).detach()
            some = plain[tuple(slice(None, None, -(-size // _PER_AXIS) or 1) for size in plain.shape)]
            found.append(some.flatten().float())
        except (RuntimeError, NotImplementedError, TypeError):
            found.append(None)
    return found


def _joined(parts: list[Tensor | None]) -> Tensor:
    readable = [part for part in parts if part is not None]
    devices = {part.device for part in readable}
    on_one = len(devices) == 1
    joined = torch.cat([part if on_one else part.cpu() for part in readable] or [torch.empty(0)])
    return joined.cpu().view(torch.int32)  # by their bits: NaN equals itself


@dataclass
class NetworkNote:
    """What is known of a network when it is loaded."""

    network: weakref.ref[nn.Module]
    types: dict[str, tuple[str, str | None]]
    config: JsonObject
    kinds: list[tuple[str, torch.dtype, tuple[int, ...]]]
    versions: list[tuple[weakref.ref[Tensor], int | None]]
    samples: Tensor

    @classmethod
    def of(cls, network: nn.Module) -> NetworkNote:
        """Note it."""
        tensors = list(weights_of(network))
        return cls(
            weakref.ref(network),
            _types(network),
            _config(network),
            [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors],
            [(weakref.ref(tensor), _version(tensor)) for _, tensor in tensors],
            _joined(_samples(tensor for _, tensor in tensors)),
        )

    def change(self, network: nn.Module | None) -> str | None:
        """What of it is another than it was, in a word or two; ``None`` for nothing."""
        if network is None:
            return "taken away"
        if network is not self.network():
            return "replaced"
        found = _types(network)
        if found != self.types:
            return "rebuilt" if set(found) != set(self.types) else "with other modules or processors"
        if _config(network) != self.config:
            return "with another config"
        tensors = list(weights_of(network))
        kinds = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors]
        if [(name, shape) for name, _, shape in kinds] != [(name, shape) for name, _, shape in self.kinds]:
            return "rebuilt"
        if kinds != self.kinds:
            return f"converted to {dtype_of(network)}"
        for (_, tensor), (before, version) in zip(tensors, self.versions, strict=True):
            if before() is tensor and version is not None and _version(tensor) != version:
                return "with changed weights"
        samples = _joined(_samples(tensor for _, tensor in tensors))
        return None if torch.equal(samples, self.samples) else "with changed weights"


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _types(network: nn.Module) -> dict[str, tuple[str, str | None]]:
    """Classes of the modules and of their attention processors."""
    return {
        name: (type(module).__qualname__, type(module.processor).__qualname__ if hasattr(module, "processor") else None)
        for name, module in _modules(network)
    }


def _config(part: ModelMixin | PreTrainedModel | SchedulerMixin) -> JsonObject:
    config = part.config
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    noise = ("torch_dtype", "dtype", "transformers_version")  # they do not say how it computes
    return {key: value for key, value in values.items() if not key.startswith("_") and key not in noise}


def interference(network: nn.Module) -> set[str]:
    """What stands between a network's modules and their forwards: caches, casts, hooks of others."""
    found = set()
    if (cache := cache_of(network)) is not None:
        found.add(cache)
    for module in network.modules():
        names = hook_names(module)
        found.update(name for name in names or () if not name.startswith(_HARMLESS_HOOKS))
        if module._forward_hooks or module._forward_pre_hooks:
            found.add("forward hooks")
        # A registry that has lost its hooks leaves the forward that it restored.
        if "forward" in vars(module) and names is None and offloading_hook(module) is None:
            found.add("another forward")
    return found


def has_offloading(network: nn.Module) -> bool:
    """Whether hooks move its weights to where they are needed."""
    for module in network.modules():
        if offloading_hook(module) is not None or any("group_offloading" in name for name in hook_names(module) or ()):
            return True
    return False


def adapters_of(network: nn.Module) -> set[str]:
    """Names of the adapters that have a part in a forward."""
    found: set[str] = set()
    for module in network.modules():
        if not _is_adapted(module):
            continue
        merged = set(getattr(module, "merged_adapters", ()))
        active = set() if module.disable_adapters or merged else set(cast("BaseTunerLayer", module).active_adapters)
        names = (*getattr(module, "adapter_layer_names", ()), "differences")
        there = {key for name in names for key in getattr(module, name, ())}
        found |= merged | (active & there)
    return found


def _fused_for_good(network: object) -> Iterable[FusedForGood]:
    return getattr(network, "fused_for_good", ())


def describe(
    part: PreTrainedTokenizerBase | SchedulerMixin | BaseImageProcessor | None,
) -> tuple[object, ...] | None:
    """What a tokenizer, a scheduler or an image processor does, so that two of them can be compared."""
    if part is None:
        return None
    if hasattr(part, "special_tokens_map"):
        sides = [getattr(part, name, None) for name in ("padding_side", "truncation_side", "model_max_length")]
        ids = part(_PROBE, add_special_tokens=True)["input_ids"]
        vocabulary = len(part), repr(part.special_tokens_map), repr(part.chat_template)
        return type(part).__name__, *sides, *vocabulary, ids
    if hasattr(part, "set_timesteps"):
        return type(part).__name__, _config(part), getattr(part, "_shift", None)  # which set_shift changes
    return type(part).__name__, part.to_dict() if hasattr(part, "to_dict") else None


@dataclass
class Origin:
    """What a pipeline was loaded with.

    Attributes:
        networks: by component.
        others: tokenizers, schedulers and processors, described.
        settings: of the pipeline, as far as they change clips.
        for_good: changes that nothing takes back.
    """

    networks: dict[str, NetworkNote]
    others: dict[str, tuple[object, ...] | None]
    settings: dict[str, object]
    for_good: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, pipe: OriginPipeline, folder: Path, index: JsonObject, given: Iterable[str]) -> Origin:
        """Note a pipeline that was just loaded.

        Args:
            pipe: the pipeline.
            folder: that it came from.
            index: contents of ``model_index.json``.
            given: options of the call that loaded it, components among them.
        """
        parts = dict(pipe.components)
        networks = {name: NetworkNote.of(part) for name, part in parts.items() if isinstance(part, nn.Module)}
        others = {name: describe(part) for name, part in parts.items() if not isinstance(part, nn.Module)}
        settings = {name: pipe.config.get(name) for name in _OWN_SETTINGS}
        for_good = {}
        for name, part in parts.items():
            if isinstance(part, nn.Module) and not all(map(_as_in_files, part.parameters())):
                for_good[name] = "quantized"
        for name in given:
            if name in networks or (name in parts and index.get(name) not in (None, [None, None]) and name in others):
                if name == "scheduler" and describe(_own_scheduler(folder, index)) == others[name]:
                    continue
                for_good[name] = "not the folder's own"
            elif name in settings and index["_class_name"] == "VideoDiTPipeline" and settings[name] != index.get(name):
                for_good[name] = f"{settings[name]!r}"
        return cls(networks, others, settings, for_good)

    def changes(self, pipe: OriginPipeline) -> dict[str, str]:
        """What is not as it was loaded, by component."""
        found = dict(self.for_good)
        encoded = getattr(pipe, "_encoded", None) is not None  # the encoders are gone, on purpose
        # Those of control branches are not in the transformers.
        own = set(pipe._lora_loadable_modules)
        recorded = {entry["name"] for entry in pipe._lora_entries() if own >= set(entry.get("networks", ()))}
        active: set[str] = set()
        for name in sorted({*self.networks, *self.others, *pipe.components}):
            part = getattr(pipe, name, None)
            if name in found or (encoded and name in _TEXT_PARTS):
                continue
            if name in self.networks:
                change = self.networks[name].change(part)
            elif describe(part) == self.others.get(name):
                change = None
            else:
                change = "added" if self.others.get(name) is None else "replaced"
            if change is None and isinstance(part, nn.Module):
                change = ", ".join(f"with {one}" for one in sorted(interference(part))) or None
                adapters = adapters_of(part)
                if name in pipe._lora_loadable_modules:
                    active |= adapters
                    adapters = adapters - recorded
                if change is None and adapters:
                    change = f"with adapter {', '.join(map(repr, sorted(adapters)))}"
            if change is not None:
                found[name] = change
        settings = {name: pipe.config.get(name) for name in _OWN_SETTINGS}
        found |= {name: repr(value) for name, value in settings.items() if value != self.settings[name]}
        kept = {one.name for name in pipe._lora_loadable_modules for one in _fused_for_good(getattr(pipe, name, None))}
        missing = recorded - active - kept
        if missing and "transformer" not in found:
            found["transformer"] = f"without its adapter {', '.join(map(repr, sorted(missing)))}"
        return found


def _own_scheduler(folder: Path, index: JsonObject) -> SchedulerMixin:
    import diffusers

    kind = getattr(diffusers, index["scheduler"][1])
    return kind.from_pretrained(folder / "scheduler")


class _Recording(Protocol):
    """Whoever notes changes of weights."""

    def _recorded_change(self) -> AbstractContextManager[None]:
        """See :meth:`OriginPipeline._recorded_change`."""


Recording = TypeVar("Recording", bound=_Recording)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def recorded(
    method: Callable[Concatenate[Recording, Arguments], Result],
) -> Callable[Concatenate[Recording, Arguments], Result]:
    """For methods that change weights in a way that recipes tell: the weights are then noted anew."""

    @functools.wraps(method)
    def wrapped(self: Recording, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with self._recorded_change():
            return method(self, *args, **kwargs)

    return wrapped


class OriginPipeline:
    """Goes before the other parts of a pipeline: knows whether it still is what was loaded.

    Attributes:
        quantized: what :meth:`accelerate` made of the blocks' weights; ``None`` for nothing.
    """

    if TYPE_CHECKING:
        config: FrozenDict
        components: dict[str, object]
        _lora_loadable_modules: list[str]

        def _lora_entries(self) -> list[JsonObject]: ...

    def __init__(self) -> None:
        super().__init__()
        self._origin: Origin | None = None
        self.quantized: str | None = None

    @property
    def changed(self) -> list[str]:
        """What is not as it was loaded, such as ``"transformer: with changed weights"``.

        Clips of a changed pipeline cannot be made again from their recipes, which say so. LoRAs of
        :meth:`load_lora_weights` and what :meth:`accelerate` does are recorded by themselves and not listed.
        """
        if self._origin is None:
            return []
        return [f"{name}: {what}" for name, what in self._origin.changes(self).items()]

    @contextmanager
    def _recorded_change(self) -> Iterator[None]:
        """Note the networks anew after a change that recipes tell."""
        before = {} if self._origin is None else self._origin.changes(self)
        yield
        if self._origin is not None:
            self._origin.for_good |= {name: what for name, what in before.items() if what == "with changed weights"}
            for name in ("transformer", "transformer_2", "vae"):
                part = getattr(self, name, None)
                if name in self._origin.networks and name not in before and part is not None:
                    self._origin.networks[name] = NetworkNote.of(part)
