"""Model folders: found by name, checked before any weight is read, and told apart by their hashes."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from videodit.configs import check_class, check_config, is_hub_id, read_json, split_quantization
from videodit.errors import InputError, ModelError
from videodit.families import sampling_of
from videodit.families.autoencoders import OURS, autoencoder_named
from videodit.files import add_blocks
from videodit.path_kinds import close_names, describe_path, is_there, kind_of
from videodit.pipelines.guiders import read_guider
from videodit.schema import check_types
from videodit.transformer_config import TransformerConfig
from videodit.vae_config import VAEConfig

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from typing_extensions import Unpack

    from videodit.checkpoints import HubOptions
    from videodit.families import Family, Sampling
    from videodit.json_types import Config, JsonObject

BUNDLED = ("mini",)
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
FLAGS = ("expand_timesteps", "force_zeros_for_empty_prompt", "is_distilled")
SHARED_SETTINGS = ("boundary_ratio", *FLAGS)
"""Entries of a pipeline's config that pipelines of diffusers' have by the same names."""
_NEEDED = ("text_encoder", "tokenizer", "transformer", "vae", "scheduler")
_OWN_OPTIONS = {"VideoDiT": TransformerConfig, OURS.class_name: VAEConfig}
"""What the configs of this package's classes hold."""
ENCODERS = ("text_encoder", "text_encoder_2")
FILED = (*ENCODERS, "vae")
"""The components whose weights may be in a file of their own; see :mod:`videodit.pipelines.component_files`."""
NETWORKS = ("text_encoder", "text_encoder_2", "image_encoder", "transformer", "transformer_2", "vae")
"""Components that have weights."""


def resolve_model(
    name: str | os.PathLike[str],
    *,
    variant: str | None = None,
    weightless: tuple[str, ...] = (),
    **hub: Unpack[HubOptions],
) -> Path:
    """The local folder of a model.

    Args:
        name: a bundled model (``"mini"``), a folder, or a hub id (``"owner/name"``), which is downloaded unless it
            is in the cache.
        variant: of the weight files that are fetched, too.
        weightless: components whose weights are not fetched.
        hub: ``revision``, ``cache_dir``, ``token`` and ``local_files_only``, for a hub id.

    Raises:
        InputError: nothing has that name (close names are given), something else than a model does (it says what), the
            hub holds another pipeline there, or options for the hub beside a local model.
        ModelError: a folder of a model's parts without ``model_index.json``.
    """
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise InputError(f"a model is a bundled model's name, a folder or a hub id owner/name, got {name!r}")
    name = os.fspath(name)
    found = _local(name)
    if found is not None:
        if hub:
            raise InputError(f"{', '.join(hub)} are for models on the hub; {name!r} is local")
        return found
    if is_hub_id(name):
        return _download(name, variant, weightless, **hub)
    legal = f"{', '.join(BUNDLED)}, a folder, or a hub id owner/name"
    close = difflib.get_close_matches(name, BUNDLED, n=1, cutoff=0.4)
    if close and not _is_path(name):
        raise InputError(f"unknown model {name!r}; did you mean {close[0]!r}? Valid values are {legal}")
    raise InputError(f"unknown model {name!r}, which {describe_path(name)}; valid values are {legal}")


def _is_path(name: str) -> bool:
    """Whether a name is that of a folder rather than of a bundled model or of one on the hub."""
    return "/" in name or os.sep in name or name.startswith(("~", "."))


def _local(name: str) -> Path | None:
    if name in BUNDLED:
        return Path(str(resources.files("videodit") / "presets" / name))
    with suppress(RuntimeError):  # a user who is not there
        name = os.path.expanduser(name)
    folder = Path(name)
    if not is_there(folder):
        return None
    if is_there(folder / "model_index.json"):
        return folder
    there = kind_of(name)
    kind = ModelError if there.kind == "parts" else InputError
    raise kind(f"model {name!r} {there.text}; a model is a folder that holds model_index.json")


@cache  # a file of prompts asks for the same model again and again
def _download(
    hub_id: str, variant: str | None = None, weightless: tuple[str, ...] = (), **hub: Unpack[HubOptions]
) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        # First what it is: another class's model may be many gigabytes.
        index = read_json(Path(hf_hub_download(hub_id, "model_index.json", **hub)))
        family_of_index(index, hub_id)
        # The components alone: repositories hold other checkpoints beside them.
        parts = [name for name, entry in index.items() if isinstance(entry, list) and entry[:1] != [None]]
        patterns = ["model_index.json", *(f"{part}/{kind}" for part in parts for kind in _HUB_FILES)]
        ignored = [f"{part}/*.safetensors" for part in weightless]
        if variant is None:
            ignored.append("*.fp16.*")
        return Path(snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=ignored, **hub))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        close = f" (close to it is the folder {', '.join(map(repr, names))})" if (names := _close(hub_id)) else ""
        raise InputError(
            f"model {hub_id!r} is no local folder{close} and could not be fetched from the hub: {reason}"
        ) from None


def _close(hub_id: str) -> list[str]:
    """Local folders that may be meant by what has the form of a hub id."""
    return [name for name in close_names(Path(hub_id)) if is_there(Path(name) / "model_index.json")]


def check_model(folder: Path, files: Collection[str] = ()) -> JsonObject:
    """Check a model folder before its weights are read.

    Args:
        folder: the model's.
        files: networks whose weights are in a file elsewhere; of them, the folder's configs are read alone.

    Returns:
        The contents of ``model_index.json``, and the settings that components of the folder hold beside it.

    Raises:
        ModelError: a pipeline of another class, a missing component, pickled weights, a broken shard (named), or a
            config that asks for code or for more layers than there are tensors.
    """
    index = read_json(folder / "model_index.json")
    check_config(index, folder / "model_index.json")
    found = family_of_index(index, folder / "model_index.json")
    index |= read_guider(folder, index, None if found is None else found[1])
    check_settings(index, folder / "model_index.json")
    from videodit.checkpoints import check_weights
    from videodit.weights import check_counts, read_header

    encoders = [] if found is None else found[1].encoders
    for name in (*_NEEDED, *encoders, *(part.replace("text_encoder", "tokenizer") for part in encoders)):
        if not (folder / name).is_dir():
            raise ModelError(f"{folder} lacks the component {name}/")
    for name in NETWORKS:
        if (folder / name / "adapter_config.json").exists():
            raise ModelError(f"{folder / name} holds an adapter, which points at weights elsewhere; merge it first")
        if (folder / name).is_dir() and name not in files:
            check_weights(folder / name)
            path = folder / name / "config.json"
            config = read_json(path)
            foreign = config.get("_class_name") != "VideoDiT"
            if name.startswith("transformer") and foreign:  # whose weights are dequantized when they are read
                config, _ = split_quantization(config, path)
            check_config(config, path)
            tensors = sum(len(read_header(file)) for file in (folder / name).glob("*.safetensors"))
            check_counts(config, tensors, path)
    own = index.get("_class_name") == "VideoDiTPipeline"
    transformer = "VideoDiT" if own or found is None else found[0].class_name
    autoencoder = OURS if found is None else autoencoder_named(found[1].vae)
    config = read_json(folder / "transformer" / "config.json")
    if found is None or own or config.get("_class_name") not in found[0].aliases:
        check_class(config, transformer, folder / "transformer")
    decoder = read_json(folder / "vae" / "config.json")
    check_class(decoder, (autoencoder.loaded if own else autoencoder).class_name, folder / "vae")
    for values, part in ((config, "transformer"), (decoder, "vae")):
        if (options := _OWN_OPTIONS.get(values["_class_name"])) is not None:
            check_types(values, options, folder / part)
    return index


def own_class(name: object) -> type[ModelMixin] | None:
    """This package's model of that class name; ``None`` where it has none."""
    import videodit

    if not isinstance(name, str) or name not in videodit.__all__:
        return None
    from diffusers import ModelMixin

    found = getattr(videodit, name)
    return found if isinstance(found, type) and issubclass(found, ModelMixin) else None


def check_settings(index: JsonObject, where: object) -> None:
    """Check the entries of a pipeline's config that are no components.

    Raises:
        ModelError: naming the entry, its value and what is legal.
    """
    for name in ("height", "width", "num_frames", "num_inference_steps", "max_text_length", "window"):
        value = index.get(name)
        if value is None and (name not in index or name in ("max_text_length", "window")):
            continue
        if type(value) is not int or not 1 <= value <= 2**24:
            raise ModelError(f"{where}: {name} is {value!r}; it must be a whole number from 1 to {2**24}")
    for name, high in (("fps", 1000), ("guidance_scale", 100), ("boundary_ratio", 1), ("history_noise", 0.99)):
        value = index.get(name)
        if value is None and (name not in index or name == "boundary_ratio"):
            continue
        wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high
        if wrong or (name == "fps" and value == 0):
            raise ModelError(f"{where}: {name} is {value!r}; it must be a number up to {high}")
    for name in (*FLAGS, "anchor"):
        if type(index.get(name, False)) not in (bool, type(None)):
            raise ModelError(f"{where}: {name} is {index[name]!r}; it must be true or false")


def family_of_index(index: Config, where: object) -> tuple[Family, Sampling] | None:
    """Whose pipeline it is, from the contents of ``model_index.json``; ``None`` for one that was made here.

    Raises:
        InputError: a pipeline class that nobody knows.
    """
    pipeline = index.get("_class_name")
    if pipeline == "VideoDiTPipeline":
        pipeline = index.get("sampled_as")
        return None if pipeline is None else sampling_of(pipeline, where)
    return sampling_of(pipeline, where)


def model_hash(folder: Path, files: Mapping[str, Path] = MappingProxyType({})) -> str:
    """A fingerprint of a model's weights: 16 hexadecimal digits.

    SHA-256 over each safetensors file's name and size and over evenly spaced blocks of it, so that it takes no minutes
    for large models.

    Args:
        folder: the model's.
        files: elsewhere, which hold the weights of networks in place of the folder's.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*.safetensors")):
        if path.parent.name not in files:
            digest.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size};".encode())
            add_blocks(digest, path)
    for name, path in sorted(files.items()):
        digest.update(f"{name}:{path.stat().st_size};".encode())
        add_blocks(digest, path)
    return digest.hexdigest()[:16]


def files_hash(folder: Path) -> str:
    """A fingerprint of a model's configs and vocabularies, 16 hexadecimal digits; its weights have one of their own."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*")):
        if path.suffix in (".json", ".txt", ".model") and not path.name.endswith(".index.json"):
            digest.update(f"{path.relative_to(folder).as_posix()}:".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
