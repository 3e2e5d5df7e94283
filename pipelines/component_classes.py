"""The classes of the components that a pipeline's folder names: of a kind that fits, out of three libraries alone."""

from __future__ import annotations

import importlib
from pathlib import Path

from videodit.errors import ModelError
from videodit.families.autoencoders import AUTOENCODERS
from videodit.importing import quick_imports
from videodit.pipelines.folders import own_class


def loaded_class(name: str) -> str:
    """The class whose weights those of an autoencoder are loaded as; other networks' is their own."""
    return AUTOENCODERS[name].loaded.class_name if name in AUTOENCODERS else name


def class_of(entry: object, name: str, folder: Path) -> type:
    """A component's class by the names that the folder gives: a kind that fits, out of three libraries alone.

    Raises:
        ModelError: an entry that is no pair of names, another library, or a class of another kind.
    """
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        raise ModelError(f"{folder}: {name} is {entry!r}; it must be a library and a class in it")
    library, class_name = entry
    kind = _kind(name)
    ours = own_class(class_name)
    if ours is not None and library == ours.__module__:
        library = "videodit"
    elif library not in ("diffusers", "transformers"):
        raise ModelError(f"{folder}: {name} is of {library!r}; valid values are diffusers and transformers")
    if library == "transformers" and class_name.endswith("Processor") and not class_name.endswith("ImageProcessor"):
        if kind.__name__ == "PreTrainedTokenizerBase":
            from transformers import AutoTokenizer

            part: type = AutoTokenizer  # of what reads pictures, too, the tokenizer alone is needed
            return part
        if kind.__name__ == "ImageProcessingMixin":
            from transformers import AutoImageProcessor

            part = AutoImageProcessor  # of what reads texts, too, that for pictures alone
            return part
    with quick_imports():
        component = getattr(importlib.import_module(library), class_name, None)
    if not isinstance(component, type) or not issubclass(component, kind):
        raise ModelError(f"{folder}: {name} is a {class_name} of {library}; it must be a {kind.__name__}")
    return component


def _kind(name: str) -> type:
    """What a component has to be."""
    name = name.removesuffix("_2")
    library, kind = _KINDS.get(name, ("diffusers", "ModelMixin"))
    found: type = getattr(importlib.import_module(library), kind)
    return found


_KINDS = {
    "tokenizer": ("transformers", "PreTrainedTokenizerBase"),
    "text_encoder": ("transformers", "PreTrainedModel"),
    "image_encoder": ("transformers", "PreTrainedModel"),
    "image_processor": ("transformers", "ImageProcessingMixin"),
    "scheduler": ("diffusers", "SchedulerMixin"),
}
"""What a component has to be; the others are models of diffusers'."""
