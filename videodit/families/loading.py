"""Loading and converting published weights: tensor by tensor, so that nothing is held twice."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import Self

from videodit.arguments import check_path
from videodit.checkpoints import (
    HUB_OPTIONS,
    WEIGHTS_STEM,
    CheckedLoading,
    HubOptions,
    check_weights,
    fetch_weights,
    find_folder,
    weight_files,
)
from videodit.configs import check_class, check_config, read_json, split_quantization
from videodit.errors import InputError, ModelError
from videodit.families import FAMILIES, family_of
from videodit.families.base import Family, Group, to_foreign, to_native
from videodit.families.bitsandbytes_folders import DequantizedBits, without_bits
from videodit.families.gguf_files import GGUFFile, GGUFQuantizer, Packed
from videodit.families.opening import open_single_file, read_config
from videodit.families.quantizing import LoadingQuantizer, Place
from videodit.families.single_files import recognise
from videodit.families.stored import Parts, Stored, TensorFiles
from videodit.files import replacing
from videodit.json_types import Config, JsonObject
from videodit.schema import check_types
from videodit.weights import (
    build,
    check_counts,
    check_entries,
    check_names,
    in_dtype,
    read_headers,
)

logger = logging.getLogger(__name__)

MaxMemory = dict[int | str, int | str]
DeviceMap = str | dict[str, Place]
Model = TypeVar("Model", bound="FamilyLoading")
Item = TypeVar("Item", Tensor, list[int], Tensor | Packed)

_LOAD_OPTIONS = ("device_map", "max_memory", "quantization_config")


class FamilyLoading(CheckedLoading):
    """Loading that knows the published families, besides VideoDiT's own folders."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any) -> Self:
        """Load a transformer: a folder or hub id of VideoDiT's own layout or of diffusers' for a known family.

        Args:
            pretrained_model_name_or_path: the folder or hub id.
            kwargs: ``subfolder``, ``dtype`` (or ``torch_dtype``), ``device_map`` (a device, ``"auto"`` or a dict),
                ``max_memory``, ``quantization_config`` (a ``TorchAoConfig``), ``overrides`` (options that the family's
                config does not tell), and for the hub ``revision``, ``cache_dir``, ``token``, ``local_files_only``.
                For folders of the own layout: whatever diffusers' ``ModelMixin.from_pretrained`` takes.

        Raises:
            InputError: no safetensors, a broken or missing shard, a config of an unknown class, tensors that are
                missing, left over or of another shape (the first few are named), or ``use_safetensors=False``.
        """
        name = str(check_path(pretrained_model_name_or_path, "a model"))
        if Path(name).is_file():
            raise InputError(f"{name} is a file: load it by from_single_file")
        hub = cast(HubOptions, {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs})
        folder = find_folder(name, kwargs.get("subfolder") or "", hub)
        if folder is None or (config := read_json(folder / "config.json")).get("_class_name") == cls.__name__:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if kwargs.pop("use_safetensors", None) is False:
            raise InputError("use_safetensors=False is refused: weights are read from .safetensors files alone")
        config, of_bits = split_quantization(config, folder / "config.json")
        check_config(config, folder / "config.json")
        family = family_of(config, folder)
        options = {key: kwargs.pop(key, None) for key in _LOAD_OPTIONS}
        variant, overrides = kwargs.pop("variant", None), kwargs.pop("overrides", {})
        if kwargs.pop("low_cpu_mem_usage", True) is False:
            raise InputError("low_cpu_mem_usage=False is refused: weights are read one at a time")
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or torch.float32  # diffusers' default
        if not isinstance(dtype, torch.dtype):
            raise InputError(f"dtype must be a torch.dtype such as torch.bfloat16, got {dtype!r}")
        unknown = sorted(set(kwargs) - {"subfolder", "torch_dtype", *HUB_OPTIONS})
        if unknown:
            raise InputError(f"options {', '.join(unknown)} are not for weights of {family.title}")
        if not Path(name).is_dir():
            folder = fetch_weights(name, kwargs.get("subfolder") or "", hub)
        check_weights(folder)
        paths = weight_files(folder, variant)
        entries = read_headers(paths)
        check_entries(without_bits(entries) if of_bits else entries, folder)
        check_counts(config, len(entries), folder)
        family.check_config(config, folder)
        with TensorFiles(paths) as stored:
            files = DequantizedBits(stored, entries, folder) if of_bits else stored
            native = family.native_config(config, files.names) | overrides
            return _load(cls, family, native, files, folder, dtype, **options)

    @classmethod
    def from_single_file(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: torch.dtype = torch.float32,
        device_map: DeviceMap | None = None,
        max_memory: MaxMemory | None = None,
        quantization_config: object = None,
        overrides: Config | None = None,
        config: Config | str | os.PathLike[str] | None = None,
    ) -> Self:
        """Load a file of weights alone, in the layout of diffusers or of the model's authors, whatever prefix it has.

        Whose weights they are is told from the names and shapes of the tensors. Those in fp8 are dequantized as they
        are read, by the scales that ComfyUI or musubi-tuner wrote beside them. A pipeline sets the options that no file
        tells (:attr:`Sampling.overrides`) when it gets the model.

        Args:
            path: a safetensors file.
            dtype: of the weights.
            device_map: see :meth:`from_pretrained`.
            max_memory: see :meth:`from_pretrained`.
            quantization_config: see :meth:`from_pretrained`.
            overrides: see :meth:`from_pretrained`.
            config: diffusers' config of the transformer, or the path of its ``config.json``, for models whose tensors
                do not tell which of several they are.

        Raises:
            ModelError: a pickle, a broken file, one quantized in another way, or tensors that are no family's.
        """
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise InputError(f"dtype must be a floating torch.dtype such as torch.bfloat16, got {dtype!r}")
        path = Path(check_path(path, "a file of weights"))
        config = read_config(config)
        with open_single_file(path) as stored:
            found = recognise({name: stored.shape(name) for name in stored.names}, path, cls, config)
            native = found.config | dict(overrides or {})
            files = Parts(stored, found.parts)
            return _load(cls, found.family, native, files, path, dtype, device_map, max_memory, quantization_config)

    @classmethod
    def _native_config(cls, config: JsonObject, where: object) -> JsonObject:
        if config.get("_class_name") == cls.__name__:
            return config
        return {"_class_name": cls.__name__, **family_of(config, where).native_config(config)}


def _load(
    cls: type[Model],
    family: Family,
    config: Config,
    files: Stored,
    where: Path,
    dtype: torch.dtype,
    device_map: DeviceMap | None = None,
    max_memory: MaxMemory | None = None,
    quantization_config: object = None,
) -> Model:
    """A model with the weights of ``files``, which carry diffusers' names."""
    from accelerate.utils import set_module_tensor_to_device

    check_types(config, cls, where)
    model = build(lambda: cls(**config), where)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    groups = check_keys(family, groups=family.plan(shapes, model.config), files=files, where=where)
    wide = tuple(cls._keep_in_fp32_modules)
    places = _place(model, device_map, dtype, max_memory)
    quantizer, codes = None, None
    if isinstance(files, Parts) and isinstance(files.stored, GGUFFile):
        codes = _of_codes(model, files, files.stored.path, groups, dtype, places, quantization_config)
    elif quantization_config is not None:
        quantizer = LoadingQuantizer(model, quantization_config, dtype, places)
    read = to_native(groups, files.get, model.config) if codes is None else codes.tensors(groups, model.config)
    for name, tensor in _checked(read, shapes, where):
        if isinstance(tensor, Packed):
            assert codes is not None
            codes.set(name, tensor, _device_of(name, places))
            continue
        kept = any(part in wide for part in name.split("."))
        place, kind = _device_of(name, places), torch.float32 if kept else dtype
        value = in_dtype(tensor, kind, name, where)
        if quantizer is None or not quantizer.takes(name, value, place):
            set_module_tensor_to_device(model, name, place, value=value, dtype=kind)
    for one in (quantizer, codes):
        if one is not None:
            one.finish()
    if len(set(places.values())) > 1:
        from accelerate import dispatch_model

        dispatch_model(model, places)
    model.eval()
    return model


def _of_codes(
    model: FamilyLoading,
    files: Parts,
    path: Path,
    groups: list[Group],
    dtype: torch.dtype,
    places: Mapping[str, Place],
    quantization_config: object,
) -> GGUFQuantizer:
    """What keeps the codes of a GGUF file, and says so.

    Raises:
        InputError: another quantizer is asked for, or several devices.
    """
    if quantization_config is not None:
        raise InputError(f"quantization_config is for weights that are not quantized; {path} is")
    if len(set(places.values())) > 1:
        raise InputError("a model of a GGUF file is on one device; name it by device_map")
    codes = GGUFQuantizer(model, files, groups, dtype)
    logger.warning(
        f"{path}: {codes.num_kept} layers are kept as codes, and dequantized at each call; "
        f"{codes.num_dequantized} are dequantized as they are read"
    )
    return codes


def check_keys(family: Family, *, groups: list[Group], files: Stored, where: Path) -> list[Group]:
    """The groups, once their tensors and those of the files are the same.

    Raises:
        ModelError: tensors that are missing or left over; the first few are named.
    """
    needed = {name for group in groups for name in group.theirs}
    ignored = re.compile(family.ignored) if family.ignored else None
    check_names(needed, {n for n in files.names if ignored is None or not ignored.search(n)}, family.title, where)
    return groups


def _place(
    model: FamilyLoading,
    device_map: DeviceMap | None,
    dtype: torch.dtype,
    max_memory: MaxMemory | None,
) -> dict[str, Place]:
    """The device of each module: ``{"": "cpu"}`` unless something else was asked for."""
    if max_memory is not None and device_map not in ("auto", "balanced"):
        raise InputError(f"max_memory needs device_map 'auto' or 'balanced', got {device_map!r}")
    if device_map is None:
        return {"": "cpu"}
    if device_map in ("auto", "balanced"):
        from accelerate import infer_auto_device_map

        device_map = dict(
            infer_auto_device_map(
                model, max_memory=max_memory, no_split_module_classes=model._no_split_modules, dtype=dtype
            )
        )
    if isinstance(device_map, dict):
        if "disk" in device_map.values():
            raise InputError("the model does not fit into memory here; device_map 'disk' is not supported")
        return device_map
    from videodit.hardware import parse_device

    return {"": parse_device(str(device_map))}


def _device_of(name: str, places: Mapping[str, Place]) -> Place:
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        if (module := ".".join(parts[:length])) in places:
            return places[module]
    raise InputError(f"device_map says nothing of {name}")


# ---- conversion ----------------------------------------------------------------------------------


def convert_transformer(
    model_class: type[FamilyLoading],
    source: Path,
    target: Path,
    *,
    to: str,
    max_shard_bytes: int = 5_000_000_000,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Rewrite a transformer's folder in the other layout, bit for bit.

    Args:
        model_class: :class:`videodit.VideoDiT`.
        source: a folder with ``config.json`` and safetensors files.
        target: a folder that does not exist.
        to: ``"native"`` or ``"diffusers"``.
        max_shard_bytes: at which a new file begins.
        on_tensor: called with tensors done and in all.

    Raises:
        InputError: a source that is not in the other layout, whose weights came from no family, or that is broken; or
            a target that exists.
    """
    _check_target(target)
    config = read_json(source / "config.json")
    check_weights(source)
    if to == "native":
        family = family_of(config, source)
        with TensorFiles(weight_files(source)) as files:
            native = family.native_config(config, files.names)
    else:
        check_class(config, model_class.__name__, source)
        if config.get("family") not in FAMILIES:
            raise InputError(f"{source} holds weights that came from no family; known are {', '.join(FAMILIES)}")
        family = FAMILIES[config["family"]]
        native = {key: value for key, value in config.items() if not key.startswith("_")}
    model = build(lambda: model_class(**native), source)
    groups = family.plan(model.state_dict(), model.config)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    with TensorFiles(weight_files(source)) as files:
        if to == "native":
            check_keys(family, groups=groups, files=files, where=source)
            tensors = _checked(to_native(groups, files.get, model.config), shapes, source)
        else:
            check_names(set(shapes), files.names, "VideoDiT", source)
            for _ in _checked(((name, files.shape(name)) for name in shapes), shapes, source):
                pass
            tensors = to_foreign(groups, files.get, model.config)
        owner = None if to == "native" else family
        _write_folder(target, model, owner, tensors, max_shard_bytes, lambda done: on_tensor(done, len(files.names)))


def convert_file(
    model_class: type[FamilyLoading],
    source: Path,
    target: Path,
    *,
    to: str,
    max_shard_bytes: int = 5_000_000_000,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a file of a transformer's weights as a folder, bit for bit; what is in scaled fp8 comes in fp32.

    Args:
        model_class: :class:`videodit.VideoDiT`.
        source: see :meth:`FamilyLoading.from_single_file`.
        target: see :func:`convert_transformer`.
        to: ``"native"`` or ``"diffusers"``.
        max_shard_bytes: at which a new file begins.
        on_tensor: called with tensors done and in all.

    Raises:
        InputError: a target that exists.
        ModelError: see :meth:`FamilyLoading.from_single_file`.
    """
    _check_target(target)
    with open_single_file(source) as stored:
        found = recognise({name: stored.shape(name) for name in stored.names}, source, model_class)
        model = build(lambda: model_class(**found.config), source)
        groups = found.family.plan(model.state_dict(), model.config)
        files = Parts(stored, found.parts)
        if isinstance(stored, GGUFFile):
            logger.warning(f"{source}: codes are written as the weights in fp32 that they stand for")
        tensors: Iterator[tuple[str, Tensor]] = ((name, files.get(name)) for name in sorted(files.names))
        if to == "native":
            tensors = to_native(groups, files.get, model.config)
        owner = None if to == "native" else found.family
        _write_folder(target, model, owner, tensors, max_shard_bytes, lambda done: on_tensor(done, len(files.names)))


def _check_target(target: Path) -> None:
    """See that a folder can be made.

    Raises:
        InputError: it cannot.
    """
    if target.exists():
        raise InputError(f"{target} exists; name a folder that does not")
    if not target.absolute().parent.is_dir():
        raise InputError(f"there is no folder {target.absolute().parent}")


def _checked(
    tensors: Iterable[tuple[str, Item]], shapes: Mapping[str, list[int]], where: Path
) -> Iterator[tuple[str, Item]]:
    """Our tensors, or their shapes, as they come, each of the shape that the config needs."""
    for name, tensor in tensors:
        found = list(tensor.shape) if isinstance(tensor, (Tensor, Packed)) else tensor
        if found != shapes[name]:
            raise ModelError(f"{where}: {name} has shape {found}, the config needs {shapes[name]}")
        yield name, tensor


def _write_folder(
    target: Path,
    model: FamilyLoading,
    owner: Family | None,
    tensors: Iterator[tuple[str, Tensor]],
    max_bytes: int,
    on_tensor: Callable[[int], None],
) -> None:
    """Write the folder of a transformer, whole or not at all: in the layout of a family, or ``None``, in ours."""
    with replacing(target) as partial:
        partial.mkdir()
        _write_shards(tensors, partial, max_bytes, on_tensor)
        if owner is None:
            model.save_config(partial)
        else:
            config = {"_class_name": owner.class_name, **model.config["family_config"]}
            (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_shards(
    tensors: Iterator[tuple[str, Tensor]], folder: Path, max_bytes: int, on_tensor: Callable[[int], None]
) -> None:
    shard: dict[str, Tensor] = {}
    homes: dict[str, int] = {}
    paths: list[Path] = []
    size = total = 0

    def flush() -> None:
        paths.append(folder / f"{len(paths)}.part")
        save_file(shard, paths[-1], metadata={"format": "pt"})
        shard.clear()

    for name, tensor in tensors:
        num_bytes = tensor.numel() * tensor.element_size()
        if shard and size + num_bytes > max_bytes:
            flush()
            size = 0
        shard[name] = tensor.contiguous().clone()
        homes[name] = len(paths)
        size, total = size + num_bytes, total + num_bytes
        on_tensor(len(homes))
    flush()
    if len(paths) == 1:
        paths[0].rename(folder / f"{WEIGHTS_STEM}.safetensors")
        return
    names = [f"{WEIGHTS_STEM}-{i:05d}-of-{len(paths):05d}.safetensors" for i in range(1, len(paths) + 1)]
    for path, name in zip(paths, names, strict=True):
        path.rename(folder / name)
    index = {"metadata": {"total_size": total}, "weight_map": {key: names[home] for key, home in homes.items()}}
    (folder / f"{WEIGHTS_STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
