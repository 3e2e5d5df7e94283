"""The components of a pipeline folder, of the own layout and of diffusers', each loaded and looked at alike."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from videodit.checkpoints import check_folder, check_weights, has_variant, weight_files
from videodit.configs import check_config, read_json
from videodit.errors import InputError, ModelError, VideoDiTError
from videodit.families import Family, Sampling
from videodit.families.autoencoders import AUTOENCODERS
from videodit.pipelines.folders import own_class
from videodit.schema import check_types
from videodit.weights import (
    build,
    check_counts,
    check_entries,
    check_info,
    check_model_finite,
    check_size,
    one_line,
    read_headers,
)

logger = logging.getLogger(__name__)

_TRANSFORMERS = ("transformer", "transformer_2")
_ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder")
_NETWORKS = (*_ENCODERS, *_TRANSFORMERS, "vae")
_NAMES = ("tokenizer", "tokenizer_2", "image_processor", *_NETWORKS, "scheduler")
_OTHER_JSON = ("tokenizer.json", "vocab.json", "merges.json")  # large, and read by libraries alone
_REQUIRED = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
_RANGES = (("num_train_timesteps", 1, 100_000), ("shift", 1e-6, 1e6), ("flow_shift", 1e-6, 1e6))


def load_components(
    folder: Path,
    index: dict[str, Any],
    found: tuple[Family, Sampling] | None,
    *,
    dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
    torch_dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
    variant: str | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
    low_cpu_mem_usage: bool = True,
    use_safetensors: bool = True,
    **given: Any,
) -> dict[str, Any]:
    """What :class:`~videodit.VideoDiTPipeline` is made of.

    Args:
        folder: the pipeline's.
        index: contents of its ``model_index.json``.
        found: the family and how it makes clips; ``None`` for a model that was made here.
        dtype: of all networks, or by component, with ``"default"`` for the others; fp32 where nothing is said.
        torch_dtype: the same.
        variant: of the weight files, such as ``"fp16"``; networks that have none are read from their plain files, with
            a warning.
        device_map: a device for all networks.
        quantization_config: diffusers' ``PipelineQuantizationConfig``.
        low_cpu_mem_usage: True; anything else is refused.
        use_safetensors: True; pickles are refused before.
        given: components to take instead of the folder's, and entries of the pipeline's config.

    Raises:
        InputError: an unknown option, or one that cannot be honoured.
        ModelError: a component that is damaged, or of a library other than diffusers and transformers.
    """
    from videodit import VideoDiT

    own = index["_class_name"] == "VideoDiTPipeline"
    settings = _settings(index, found, own)
    unknown = sorted(set(given) - set(_NAMES) - (set(settings) if own else set()))
    if unknown:
        title = found[0].title if found is not None else "VideoDiT"
        raise InputError(f"options {', '.join(unknown)} are not for a pipeline of {title}")
    present = [name for name in _NAMES if name not in given and index.get(name) not in (None, [None, None])]
    for name in _REQUIRED:
        if name not in present and name not in given:
            raise ModelError(f"{folder / 'model_index.json'} names no {name}")
    networks = [name for name in present if name in _NETWORKS]
    dtypes = _dtypes(dtype if dtype is not None else torch_dtype, networks)
    place = _device(device_map)
    if not low_cpu_mem_usage:
        raise InputError("low_cpu_mem_usage=False is refused: weights are read without a second copy")
    if quantization_config is not None and not hasattr(quantization_config, "_resolve_quant_config"):
        raise InputError(
            "quantization_config must be a PipelineQuantizationConfig, which names components, got "
            f"{type(quantization_config).__name__}"
        )
    variants = _variants(folder, networks, variant)
    parts: dict[str, Any] = {name: value for name, value in given.items() if name in _NAMES}
    for name in present:
        component = class_of(index[name], name, folder)
        # Always the component's own folder: with the pipeline's and a `subfolder`, transformers would follow an
        # adapter's file to wherever that points.
        home = folder / name
        if name not in _NETWORKS:
            parts[name] = load_plain(component, home)
            _tell_loaded(name, parts[name], folder)
            continue
        options: dict[str, Any] = {"variant": variants[name]} if variants[name] else {}
        if place is not None:
            options["device_map"] = place
        if quantization_config is not None:
            chosen = quantization_config._resolve_quant_config(is_diffusers=name not in _ENCODERS, module_name=name)
            if chosen is not None:
                options["quantization_config"] = chosen
        if name in _TRANSFORMERS:
            native = read_json(home / "config.json").get("_class_name") == "VideoDiT"
            if found is not None and not native:
                options["overrides"] = found[1].overrides
            key = "torch_dtype" if native else "dtype"
            parts[name] = VideoDiT.from_pretrained(home, **{key: dtypes[name]}, **options)
        elif (ours := own_class(_loaded_class(component.__name__))) is not None:
            parts[name] = ours.from_pretrained(home, torch_dtype=dtypes[name], **options)
        else:
            parts[name] = load_network(component, home, dtype=dtypes[name], **options)
        _tell_loaded(name, parts[name], folder)
    if not own:
        assert found is not None
        settings |= found[1].defaults({**parts["transformer"].config, **settings})
    return parts | settings | {name: value for name, value in given.items() if name not in _NAMES}


def _loaded_class(name: str) -> str:
    """The class whose weights those of an autoencoder are loaded as; other networks' is their own."""
    return AUTOENCODERS[name].loaded.class_name if name in AUTOENCODERS else name


def _settings(index: dict[str, Any], found: tuple[Family, Sampling] | None, own: bool) -> dict[str, Any]:
    """The entries of the pipeline's config that are no components."""
    if own:
        from videodit.pipelines.pipeline import VideoDiTPipeline

        names = set(inspect.signature(VideoDiTPipeline.__init__).parameters) - {"self", *_NAMES}
        return {name: index[name] for name in names if name in index}
    settings = {name: index[name] for name in ("boundary_ratio", "expand_timesteps") if index.get(name) is not None}
    return settings | {"sampled_as": index["_class_name"]}


def _dtypes(dtype: Any, networks: list[str]) -> dict[str, torch.dtype]:
    """The dtype of each network.

    Raises:
        InputError: something else than a dtype, or one for a component that is not there.
    """
    by_name: dict[str, Any] = {"default": torch.float32} | (dict(dtype) if isinstance(dtype, Mapping) else {})
    if dtype is not None and not isinstance(dtype, Mapping):
        by_name["default"] = dtype
    if unknown := sorted(set(by_name) - {"default", *_NETWORKS}):
        raise InputError(f"dtype names {', '.join(unknown)}; legal are default, {', '.join(networks)}")
    for name, value in by_name.items():
        if not isinstance(value, torch.dtype) or not value.is_floating_point:
            raise InputError(f"dtype of {name} must be a floating torch.dtype such as torch.bfloat16, got {value!r}")
    return {name: by_name.get(name, by_name["default"]) for name in networks}


def _device(device_map: Any) -> str | None:
    """The device of all networks.

    Raises:
        InputError: anything but a device.
    """
    from videodit.hardware import parse_device

    if device_map is None:
        return None
    if isinstance(device_map, Mapping) or str(device_map) in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise InputError(
            f"device_map of a pipeline must be a device such as 'cuda', got {device_map!r}; to divide the transformer, "
            "load it by VideoDiT.from_pretrained(…, device_map='auto') and pass transformer=, or call "
            "enable_model_cpu_offload()"
        )
    return parse_device(str(device_map))


def _tell_loaded(name: str, part: Any, folder: Path) -> None:
    """To diffusers' log, where programs that follow a pipeline's loading look."""
    log = logging.getLogger("diffusers.pipelines.pipeline_utils")
    log.info(f"Loaded {name} as {type(part).__name__} from {folder / name}.")


def _variants(folder: Path, networks: list[str], variant: str | None) -> dict[str, str | None]:
    """The variant that each network is read in.

    Raises:
        InputError: no network has it.
    """
    if variant is None:
        return dict.fromkeys(networks)
    having = [name for name in networks if has_variant(folder / name, variant)]
    if not having and networks:
        raise InputError(
            f"You are trying to load the model files of the `variant={variant}`, but {folder} has no such files"
        )
    if lacking := [name for name in networks if name not in having]:
        logger.warning(f"{folder} has no variant {variant!r} of {', '.join(lacking)}; their plain files are read")
    return {name: variant if name in having else None for name in networks}


def load_network(
    component: Any, folder: Path, *, dtype: torch.dtype, variant: str | None = None, **options: Any
) -> Any:
    """A network of a class of diffusers' or transformers', its tensors looked at before and after.

    Args:
        component: the class.
        folder: its own.
        dtype: of its weights.
        variant: of its files.
        options: ``device_map`` and ``quantization_config``, for the library.

    Raises:
        ModelError: tensors that are missing, left over, of another shape or dtype, quantized or not finite, or a config
            of which nothing can be built.
    """
    check_weights(folder)
    config = read_json(folder / "config.json")
    check_config(config, folder / "config.json")
    entries = read_headers(weight_files(folder, variant))
    check_entries(entries, folder, whole=lambda name: name.endswith(("position_ids", "num_batches_tracked")))
    check_counts(config, len(entries), folder)
    if hasattr(component, "config_class") and component.config_class is not None:
        model = build(lambda: component(component.config_class.from_dict(config)), folder)
        options |= {"dtype": dtype}
    else:
        check_types(config, component, folder)
        model = build(lambda: component.from_config(config), folder)
        options |= {"torch_dtype": dtype}
    check_size(model, entries, folder)
    del model
    try:
        loaded, info = component.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, variant=variant, **options
        )
    except (VideoDiTError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{folder} could not be loaded as a {component.__name__}: {one_line(error)}") from None
    check_info(info, component.__name__, folder)
    check_model_finite(loaded, folder)
    return loaded


def load_plain(component: Any, folder: Path) -> Any:
    """A tokenizer, a processor or a scheduler.

    Raises:
        ModelError: a config that asks for code, or of which nothing can be built.
    """
    check_plain(folder, component if (folder / "scheduler_config.json").exists() else None)
    try:
        return component.from_pretrained(folder)
    except (VideoDiTError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{folder} could not be loaded as a {component.__name__}: {one_line(error)}") from None


def check_plain(folder: Path, scheduler: Any = None) -> None:
    """Check the JSON files of a component without weights.

    Args:
        folder: the component's.
        scheduler: its class, if it is one.

    Raises:
        ModelError: what is no regular file, JSON that is broken or asks for code, and entries out of range.
    """
    check_folder(folder)
    for path in sorted(folder.glob("*.json")):
        if path.name not in _OTHER_JSON:
            check_config(read_json(path), path)
    path = folder / "tokenizer_config.json"
    limit = read_json(path).get("model_max_length") if path.exists() else None
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit < 1):
        raise ModelError(f"{path}: model_max_length is {limit!r}, legal is a number from 1")
    if scheduler is None:
        return
    config, where = read_json(folder / "scheduler_config.json"), folder / "scheduler_config.json"
    check_types(config, scheduler, where)
    for name, low, high in _RANGES:
        value = config.get(name)
        if value is not None and not low <= value <= high:
            raise ModelError(f"{where}: {name} is {value}, legal is {low:g} to {high:g}")
    for name, value in config.items():
        if isinstance(value, (int, float)) and 1e9 < abs(value) < math.inf:
            raise ModelError(f"{where}: {name} is {value}, which is out of all proportion")


def class_of(entry: Any, name: str, folder: Path) -> Any:
    """A component's class by the names that the folder gives: a kind that fits, out of three libraries alone.

    Raises:
        ModelError: an entry that is no pair of names, another library, or a class of another kind.
    """
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        raise ModelError(f"{folder}: {name} is {entry!r}; legal is a library and a class in it")
    library, class_name = entry
    kind = _kind(name)
    ours = own_class(class_name)
    if ours is not None and library == ours.__module__:
        library = "videodit"
    elif library not in ("diffusers", "transformers"):
        raise ModelError(f"{folder}: {name} is of {library!r}, legal are diffusers and transformers")
    component = getattr(importlib.import_module(library), class_name, None)
    if not isinstance(component, type) or not issubclass(component, kind):
        raise ModelError(f"{folder}: {name} is a {class_name} of {library}, legal is a {kind.__name__}")
    return component


def _kind(name: str) -> type:
    """What a component has to be."""
    import diffusers
    import transformers

    kinds: dict[str, type] = {
        "tokenizer": transformers.PreTrainedTokenizerBase,
        "text_encoder": transformers.PreTrainedModel,
        "image_encoder": transformers.PreTrainedModel,
        "image_processor": transformers.ImageProcessingMixin,
        "scheduler": diffusers.SchedulerMixin,
    }
    return kinds.get(name.removesuffix("_2"), diffusers.ModelMixin)
