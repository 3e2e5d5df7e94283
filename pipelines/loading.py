"""The components of a pipeline folder of diffusers', for a VideoDiTPipeline."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from videodit.families import Family, Sampling

_ENCODERS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "image_encoder", "image_processor")
_TRANSFORMERS = ("transformer", "transformer_2")


def load_components(
    folder: Path,
    index: dict[str, Any],
    found: tuple[Family, Sampling],
    *,
    dtype: torch.dtype | None = None,
    torch_dtype: torch.dtype | None = None,
    use_safetensors: bool = True,
    **given: Any,
) -> dict[str, Any]:
    """What :class:`~videodit.VideoDiTPipeline` is made of.

    Args:
        folder: the pipeline's.
        index: contents of its ``model_index.json``.
        found: the family and how it makes clips.
        dtype: of all networks; fp32 if neither this nor ``torch_dtype`` is given.
        torch_dtype: the same.
        use_safetensors: True; pickles are refused before.
        given: components to take instead of the folder's.

    Raises:
        ValueError: an unknown option, or a component of a library other than diffusers and transformers.
    """
    from videodit import CausalVideoVAE, VideoDiT

    family, sampling = found
    names = (*_ENCODERS, *_TRANSFORMERS, "vae", "scheduler")
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(f"options {', '.join(unknown)} are not for a pipeline of {family.title}")
    wide = dtype or torch_dtype or torch.float32
    parts: dict[str, Any] = {}
    for name in names:
        entry = index.get(name)
        if name in given:
            parts[name] = given[name]
            continue
        if entry is None or entry == [None, None]:
            continue
        component = _class_of(entry, name, folder)
        # Always the component's own folder: with the pipeline's and a `subfolder`, transformers would follow an
        # adapter's file to wherever that points.
        home = folder / name
        if name in _TRANSFORMERS:
            parts[name] = VideoDiT.from_pretrained(home, dtype=wide, overrides=sampling.overrides)
        elif component.__name__ == "AutoencoderKLWan":
            parts[name] = CausalVideoVAE.from_pretrained(home, dtype=wide)
        elif name in ("text_encoder", "text_encoder_2", "image_encoder"):
            parts[name] = component.from_pretrained(home, dtype=wide, use_safetensors=use_safetensors)
        elif name == "vae":
            parts[name] = component.from_pretrained(home, torch_dtype=wide, use_safetensors=use_safetensors)
        else:
            parts[name] = component.from_pretrained(home)
    settings = {name: index[name] for name in ("boundary_ratio", "expand_timesteps") if index.get(name) is not None}
    defaults = sampling.defaults({**parts["transformer"].config, **settings})
    return parts | defaults | settings | {"sampled_as": index["_class_name"]}


def _class_of(entry: Any, name: str, folder: Path) -> Any:
    """A component's class by the names that the folder gives: a kind that fits, out of two libraries alone.

    Raises:
        ValueError: an entry that is no pair of names, another library, or a class of another kind.
    """
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        raise ValueError(f"{folder}: {name} is {entry!r}; legal is a library and a class in it")
    library, class_name = entry
    if library not in ("diffusers", "transformers"):
        raise ValueError(f"{folder}: {name} is of {library!r}, legal are diffusers and transformers")
    component = getattr(importlib.import_module(library), class_name, None)
    kind = _kind(name)
    if not isinstance(component, type) or not issubclass(component, kind):
        raise ValueError(f"{folder}: {name} is a {class_name} of {library}, legal is a {kind.__name__}")
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
