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
        library, class_name = index.get(name) or (None, None)
        if name in given:
            parts[name] = given[name]
        elif class_name is None:
            continue
        elif name in _TRANSFORMERS:
            parts[name] = VideoDiT.from_pretrained(folder, subfolder=name, dtype=wide)
        elif class_name == "AutoencoderKLWan":
            parts[name] = CausalVideoVAE.from_pretrained(folder, subfolder=name, dtype=wide)
        else:
            options: dict[str, Any] = {}
            if name.startswith(("text_encoder", "image_encoder")):
                options = {"dtype": wide, "use_safetensors": use_safetensors}
            elif name == "vae":
                options = {"torch_dtype": wide, "use_safetensors": use_safetensors}
            component = _class_of(library, class_name, name, folder)
            parts[name] = component.from_pretrained(folder, subfolder=name, **options)
    defaults = sampling.defaults(parts["transformer"].config)
    settings = {name: index[name] for name in ("boundary_ratio", "expand_timesteps") if index.get(name) is not None}
    return parts | defaults | settings | {"sampled_as": index["_class_name"]}


def _class_of(library: str | None, class_name: str, name: str, folder: Path) -> Any:
    """A class by the names that the folder gives, out of two libraries alone: names from outside run nothing else."""
    if library not in ("diffusers", "transformers"):
        raise ValueError(f"{folder}: {name} is of {library!r}, legal are diffusers and transformers")
    component = getattr(importlib.import_module(library), class_name, None)
    if not isinstance(component, type) or not hasattr(component, "from_pretrained"):
        raise ValueError(f"{folder}: {name} is a {class_name}, which {library} does not have")
    return component
