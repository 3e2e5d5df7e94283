"""The components of a pipeline folder, of the own layout and of diffusers', each loaded and looked at alike."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from videodit._diffusers import is_pipeline_quantization, quantization_of
from videodit.checkpoints import check_files_finite, check_folder, check_weights, has_variant, weight_files
from videodit.configs import check_config, read_json
from videodit.errors import InputError, ModelError, VideoDiTError
from videodit.families import Family, Sampling, sampled_as
from videodit.families.component_names import BESIDE
from videodit.families.opening import read_entries
from videodit.pipelines.component_classes import class_of, loaded_class
from videodit.pipelines.component_files import load_component_file
from videodit.pipelines.encoder_configs import check_encoder_config, check_tokenizer
from videodit.pipelines.folders import SHARED_SETTINGS, own_class
from videodit.pipelines.placement import DeviceMap, Memory, attach_devices, place_components
from videodit.ranges import check_order
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

if TYPE_CHECKING:
    from diffusers import ModelMixin, PipelineQuantizationConfig, SchedulerMixin
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from videodit.json_types import Config, JsonObject

logger = logging.getLogger(__name__)

_TRANSFORMERS = ("transformer", "transformer_2")
_ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder")
_NETWORKS = (*_ENCODERS, *_TRANSFORMERS, "vae")
COMPONENTS = ("tokenizer", "tokenizer_2", "image_processor", *_NETWORKS, "scheduler")
_OTHER_JSON = ("tokenizer.json", "vocab.json", "merges.json")  # large, and read by libraries alone
_REQUIRED = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
_LARGEST = 1e6
"""What no number of a scheduler exceeds."""


def load_components(
    folder: Path,
    index: JsonObject,
    found: tuple[Family, Sampling] | None,
    parameters: Collection[str],
    *,
    files: Mapping[str, Path] = MappingProxyType({}),
    dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
    torch_dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
    variant: str | None = None,
    device_map: DeviceMap | None = None,
    max_memory: Memory | None = None,
    quantization_config: PipelineQuantizationConfig | None = None,
    low_cpu_mem_usage: bool = True,
    use_safetensors: bool = True,
    **given: object,
) -> dict[str, Any]:
    """What :class:`~videodit.VideoDiTPipeline` is made of.

    Args:
        folder: the pipeline's.
        index: contents of its ``model_index.json``.
        found: the family and how it makes clips; ``None`` for a model that was made here.
        parameters: names of the components and settings that the pipeline's class takes.
        files: elsewhere, which hold the weights of networks in place of the folder's, by component.
        dtype: of all networks, or by component, with ``"default"`` for the others; fp32 where nothing is said.
        torch_dtype: the same.
        variant: of the weight files, such as ``"fp16"``; networks that have none are read from their plain files, with
            a warning.
        device_map: see :func:`videodit.pipelines.placement.place_components`.
        max_memory: bytes by device; see there, too.
        quantization_config: diffusers' ``PipelineQuantizationConfig``.
        low_cpu_mem_usage: True; anything else is refused.
        use_safetensors: True; pickles are refused before.
        given: components to take instead of the folder's, and entries of the pipeline's config.

    Raises:
        InputError: an unknown option, or one that cannot be honoured.
        ModelError: a component that is damaged, or of a library other than diffusers and transformers.
    """
    own = index["_class_name"] == "VideoDiTPipeline"
    settings = _settings(index, parameters if own else None)
    unknown = sorted(set(given) - set(COMPONENTS) - (set(settings) if own else set()))
    if unknown:
        title = found[0].title if found is not None else "VideoDiT"
        raise InputError(f"options {', '.join(unknown)} are not for a pipeline of {title}")
    stored = {name: name for name in COMPONENTS}
    if found is not None and not own:
        stored["image_processor"] = found[1].image_processor
    present = [name for name in COMPONENTS if name not in given and index.get(stored[name]) not in (None, [None, None])]
    for name in _REQUIRED:
        if name not in present and name not in given:
            raise ModelError(f"{folder / 'model_index.json'} names no {name}")
    networks = [name for name in present if name in _NETWORKS]
    dtypes = _dtypes(dtype if dtype is not None else torch_dtype, networks)
    _check_options(low_cpu_mem_usage, quantization_config)
    variants = _variants(folder, networks, variant)
    sizes = {} if device_map is None else _bytes_of(folder, networks, dtypes, variants, files)
    places = place_components(sizes, device_map, max_memory)
    chosen = {name: _options(name, variants[name], places, quantization_config) for name in networks}
    _check_quantized_files(chosen, files)
    parts: dict[str, object] = {name: value for name, value in given.items() if name in COMPONENTS}
    for name in present:
        component, home = class_of(index[stored[name]], name, folder), folder / stored[name]
        if name not in _NETWORKS:
            parts[name] = load_plain(component, home)
        else:
            options, file = chosen[name], files.get(name)
            if file is None:
                parts[name] = _load_part(name, component, home, found, dtypes[name], options)
            elif name in _TRANSFORMERS:
                parts[name] = _load_file(file, home, found, dtypes[name], options)
            else:
                place = options.get("device_map")
                parts[name] = load_component_file(name, file, folder, index, dtypes[name], place)
        _tell_loaded(name, parts[name], folder)
    for name in ("tokenizer", "tokenizer_2"):
        check_tokenizer(parts.get(name), parts.get(name.replace("tokenizer", "text_encoder")), folder / name)
    attach_devices(parts, places)
    return parts | settings | {name: value for name, value in given.items() if name not in COMPONENTS}


def _check_options(low_cpu_mem_usage: bool, quantization_config: PipelineQuantizationConfig | None) -> None:
    """See that options can be honoured.

    Raises:
        InputError: one that cannot.
    """
    if not low_cpu_mem_usage:
        raise InputError("low_cpu_mem_usage=False is refused: weights are read without a second copy")
    if quantization_config is not None and not is_pipeline_quantization(quantization_config):
        raise InputError(
            "quantization_config must be a PipelineQuantizationConfig, which names components, got "
            f"{type(quantization_config).__name__}"
        )


def _check_quantized_files(options: Mapping[str, JsonObject], files: Mapping[str, Path]) -> None:
    """See that no autoencoder or encoder of a file is to be quantized, before anything is read.

    Raises:
        InputError: one is.
    """
    for name, file in files.items():
        if name not in _TRANSFORMERS and "quantization_config" in options.get(name, {}):
            raise InputError(
                f"quantization_config names {name}, whose weights are in {str(file)!r}: only those of a folder are "
                "quantized as they load"
            )


def _options(
    name: str,
    variant: str | None,
    places: Mapping[str, Any],
    quantization_config: PipelineQuantizationConfig | None,
) -> JsonObject:
    """Options of loading a network."""
    found: JsonObject = {"variant": variant} if variant else {}
    if name in places:
        found["device_map"] = places[name]
    if quantization_config is not None:
        chosen = quantization_of(quantization_config, name, is_diffusers=name not in _ENCODERS)
        if chosen is not None:
            found["quantization_config"] = chosen
    return found


def _load_part(
    name: str,
    component: type,
    home: Path,
    found: tuple[Family, Sampling] | None,
    dtype: torch.dtype,
    options: JsonObject,
) -> object:
    """A network, of our class where there is one.

    Always from the component's own folder: with the pipeline's and a ``subfolder``, transformers would follow an
    adapter's file to wherever that points.

    Args:
        name: of the component.
        component: its class, by the folder.
        home: its folder.
        found: the family and how it makes clips.
        dtype: of its weights.
        options: of loading.
    """
    from videodit import VideoDiT

    if name in _TRANSFORMERS:
        native = read_json(home / "config.json").get("_class_name") == "VideoDiT"
        if found is not None and not native:
            options = options | {"overrides": found[1].overrides}
        return VideoDiT.from_pretrained(home, **{"torch_dtype" if native else "dtype": dtype}, **options)
    if (ours := own_class(loaded_class(component.__name__))) is not None:
        return ours.from_pretrained(home, torch_dtype=dtype, **options)
    return load_network(component, home, dtype=dtype, **options)


def _load_file(
    file: Path, home: Path, found: tuple[Family, Sampling] | None, dtype: torch.dtype, options: JsonObject
) -> object:
    """A transformer from a file of weights, of the model that a folder's config says."""
    from videodit import VideoDiT

    overrides = {} if found is None else found[1].overrides
    options = {key: value for key, value in options.items() if key != "variant"}
    return VideoDiT.from_single_file(file, config=home / "config.json", overrides=overrides, dtype=dtype, **options)


def _settings(index: JsonObject, parameters: Collection[str] | None) -> JsonObject:
    """The entries of the pipeline's config that are no components; ``parameters`` only for a pipeline of our class."""
    if parameters is not None:
        return {name: index[name] for name in set(parameters) - set(COMPONENTS) if name in index}
    return foreign_settings(index)


def foreign_settings(config: Config) -> JsonObject:
    """The settings of ours that the config of a pipeline of diffusers' holds, ``_class_name`` among its entries."""
    names = (*SHARED_SETTINGS, "guidance_scale")  # which a guider may hold
    settings = {name: config[name] for name in names if config.get(name) is not None}
    return settings | {"sampled_as": sampled_as(config["_class_name"])}


def _dtypes(dtype: torch.dtype | Mapping[str, torch.dtype] | None, networks: list[str]) -> dict[str, torch.dtype]:
    """The dtype of each network.

    Raises:
        InputError: something else than a dtype, or one for a component that is not there.
    """
    by_name: dict[str, torch.dtype] = {"default": torch.float32} | (dict(dtype) if isinstance(dtype, Mapping) else {})
    if dtype is not None and not isinstance(dtype, Mapping):
        by_name["default"] = dtype
    if unknown := sorted(set(by_name) - {"default", *_NETWORKS}):
        raise InputError(f"dtype names {', '.join(unknown)}; valid values are default, {', '.join(networks)}")
    for name, value in by_name.items():
        if not isinstance(value, torch.dtype) or not value.is_floating_point:
            raise InputError(f"dtype of {name} must be a floating torch.dtype such as torch.bfloat16, got {value!r}")
    return {name: by_name.get(name, by_name["default"]) for name in networks}


def _bytes_of(
    folder: Path,
    networks: list[str],
    dtypes: dict[str, torch.dtype],
    variants: Mapping[str, str | None],
    files: Mapping[str, Path],
) -> dict[str, int]:
    """Bytes that each network takes in its dtype."""
    headers = {
        name: read_entries(files[name], BESIDE)
        if name in files
        else read_headers(weight_files(folder / name, variants[name]))
        for name in networks
    }
    return {
        name: sum(math.prod(entry.shape) for entry in entries.values()) * dtypes[name].itemsize
        for name, entries in headers.items()
    }


def _tell_loaded(name: str, part: object, folder: Path) -> None:
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
    component: type[ModelMixin] | type[PreTrainedModel],
    folder: Path,
    *,
    dtype: torch.dtype,
    variant: str | None = None,
    **options: Any,
) -> ModelMixin | PreTrainedModel:
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
        check_encoder_config(config, folder / "config.json")
        model = build(lambda: component(component.config_class.from_dict(config)), folder)
        options |= {"dtype": dtype}
    else:
        check_types(config, component, folder)
        model = build(lambda: component.from_config(config), folder)
        options |= {"torch_dtype": dtype}
    check_size(model, entries, folder)
    del model
    if options.get("quantization_config") is not None:
        check_files_finite(weight_files(folder, variant))
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


def load_plain(
    component: type[PreTrainedTokenizerBase] | type[SchedulerMixin] | type[BaseImageProcessor], folder: Path
) -> PreTrainedTokenizerBase | SchedulerMixin | BaseImageProcessor:
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


def check_plain(folder: Path, scheduler: type[SchedulerMixin] | None = None) -> None:
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
    if scheduler is None:
        return
    config, where = read_json(folder / "scheduler_config.json"), folder / "scheduler_config.json"
    check_types(config, scheduler, where)
    check_order(config, "base_image_seq_len", "max_image_seq_len", where)
    for name, value in config.items():
        if isinstance(value, (int, float)) and _LARGEST < abs(value) < math.inf:
            raise ModelError(f"{where}: {name} is {value:g}, which is above {_LARGEST:g}")
