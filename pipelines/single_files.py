"""What a file of a transformer's weights lacks to make clips: text encoder, tokenizer, autoencoder, scheduler.

They are those of a model folder: one that the file lies in, or one of the hub's cache that was published with such a
transformer.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from videodit.configs import read_json
from videodit.errors import InputError, ModelError
from videodit.path_kinds import expanded, kind_of
from videodit.pipelines.folders import check_model, family_of_index, resolve_model

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from videodit.checkpoints import HubOptions
    from videodit.families.single_files import Recognised

TRANSFORMER = "transformer"
_ALTERNATIVES = 3


def complete(
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    second: str | os.PathLike[str] | None = None,
    parts: Mapping[str, Path] = MappingProxyType({}),
    encoders: Sequence[Path] = (),
    **hub: Unpack[HubOptions],
) -> tuple[Path, dict[str, Path]]:
    """The model folder that a file of weights is completed by, and the file by the network that it is for.

    Args:
        path: a file of a transformer's weights.
        base: a folder or a hub id. ``None``: the folder that the file lies in, or the one above that; else the one
            published model with such a transformer that is in the hub's cache.
        second: a file for the second transformer of models that have two.
        parts: files for other components; see :mod:`videodit.pipelines.component_files`.
        encoders: files for text encoders, each for the one that it fits.
        hub: options for a ``base`` of the hub.

    Raises:
        InputError: no such folder, with what to fetch, or several; or a model of two transformers and one file.
        ModelError: a file or a folder that is damaged, or a file of another model's weights.
    """
    file = expanded(path)
    if kind_of(file).kind == "lora":
        raise InputError(f"model {os.fspath(path)!r} {kind_of(file).text}; a model's file holds a whole transformer")
    absent = (TRANSFORMER, *parts)
    folder = _beside(file) if base is None else resolve_model(base, weightless=absent, **hub)
    if folder is None:
        folder = _cached(file, absent, hub)
    files = {TRANSFORMER: file} if second is None else {TRANSFORMER: file, "transformer_2": expanded(second)}
    others = with_parts(folder, parts, encoders)
    index = check_model(folder, files | others)
    for name, one in files.items():
        if index.get(name) in (None, [None, None]):
            raise InputError(f"{folder} has no {name}, for which {str(one)!r} is")
        whose(one, folder / name / "config.json")
    if second is None and index.get("boundary_ratio") is not None:
        raise InputError(
            f"{folder} has two transformers, for higher and for lower noise, and a file does not tell which it is: "
            f"VideoDiTPipeline.from_single_file(high, transformer_2=low, base={str(folder)!r}) takes both"
        )
    return folder, files | others


def with_parts(folder: Path, parts: Mapping[str, Path], encoders: Sequence[Path] = ()) -> dict[str, Path]:
    """Files for components of a model, each held against the folder's config.

    Args:
        folder: the model's.
        parts: see :func:`complete`.
        encoders: see there.

    Raises:
        InputError: see :func:`videodit.pipelines.component_files.check_component_file`.
        ModelError: see there.
    """
    if not parts and not encoders:
        return {}
    from videodit.pipelines.component_files import check_component_file, place_encoders

    index = read_json(folder / "model_index.json")
    family_of_index(index, folder / "model_index.json")
    for name, one in parts.items():
        check_component_file(name, one, folder, index)
    return {**parts, **place_encoders(encoders, folder, index)}


def whose(file: Path, config: Path | None = None) -> Recognised:
    """What a file of weights holds.

    Args:
        file: the file.
        config: of the model that it must be of.

    Raises:
        ModelError: it is none, or another model's.
    """
    from videodit.families.opening import read_config, shapes_of
    from videodit.families.single_files import recognise
    from videodit.transformer import VideoDiT

    return recognise(shapes_of(file), file, VideoDiT, read_config(config))


def _beside(file: Path) -> Path | None:
    """The model folder that a file lies in, directly or in a folder of its own."""
    absolute = file.absolute()
    folders = (absolute.parent, absolute.parent.parent)
    return next((folder for folder in folders if (folder / "model_index.json").is_file()), None)


def _cached(file: Path, absent: Collection[str], hub: HubOptions) -> Path:
    """The one model of the hub's cache that was published with such a transformer.

    Raises:
        InputError: there is none, or there are several.
    """
    from videodit.families.single_files import published_by_title

    found = whose(file)
    published = {published_by_title(title)[1].hub_id: title for title in found.published}
    if not published:
        raise InputError(
            f"{str(file)!r} holds a transformer of {found.family.title} in a size that was not published; put it into "
            "the folder of its model, beside model_index.json"
        )
    here = {hub_id: folder for hub_id in published if (folder := _in_cache(hub_id, absent, hub)) is not None}
    if len(here) > 1:
        names = ", ".join(f"{hub_id} ({published[hub_id]})" for hub_id in here)
        raise InputError(
            f"{str(file)!r} may belong to any of {names}; put it into the folder of the one that it is of, beside "
            "model_index.json, or name that by VideoDiTPipeline.from_single_file(…, base=…)"
        )
    if here:
        return next(iter(here.values()))
    raise InputError(_missing(file, published))


def _missing(file: Path, published: Mapping[str, str]) -> str:
    """What to fetch."""
    commands = [
        f"`hf download {hub_id} --exclude '{TRANSFORMER}/*.safetensors'`" for hub_id in list(published)[:_ALTERNATIVES]
    ]
    whose = " or ".join(list(published.values())[:_ALTERNATIVES])
    return (
        f"{str(file)!r} holds the transformer of {whose} alone; fetch the text encoder, the tokenizer and the "
        f"autoencoder by {' or '.join(commands)}, or put the file beside the model_index.json of a folder that has them"
    )


def _in_cache(hub_id: str, absent: Collection[str], hub: HubOptions) -> Path | None:
    """The folder of a model in the hub's cache; ``None`` where it, or one of its parts that is not ``absent``, is not
    there."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(
        hub_id, "model_index.json", cache_dir=hub.get("cache_dir"), revision=hub.get("revision")
    )
    if not isinstance(index, str):
        return None
    folder = Path(index).parent
    try:
        check_model(folder, absent)
        read_json(folder / TRANSFORMER / "config.json")
    except ModelError:
        return None
    return folder
