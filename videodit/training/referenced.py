"""References in training: those of a cache, checked against a config and a model."""

from __future__ import annotations

from collections.abc import Sequence

from videodit.control.reference_layouts import OF_PICTURES
from videodit.datasets.clips.latents.cached_references import CachedReferences
from videodit.datasets.clips.latents.latent_cache import CachedSample, LatentCache
from videodit.errors import InputError
from videodit.pipelines.spec import ModelFolder
from videodit.training.config import TrainingConfig


def open_references(
    config: TrainingConfig, cache: LatentCache, samples: Sequence[CachedSample]
) -> CachedReferences | None:
    """The references of a cache, where a config has some.

    Raises:
        InputError: a model that can have none, a cache without them or with those of another layout, or clips of
            validation without a reference.
    """
    if config.references is None:
        return None
    spec = ModelFolder.find(config.model).spec
    if spec.reference_obstacle is not None:
        raise InputError(f"this model takes no references: {spec.reference_obstacle}")
    if (layout := config.references.layout) in OF_PICTURES and not spec.images:
        raise InputError(
            f"references.layout is {layout!r}, which is for models of pictures; valid values are guide, behind"
        )
    asked = config.validation
    if (asked.prompts or asked.captions) and not asked.references:
        raise InputError(
            "validation.prompts need validation.references, a file for each, and validation.captions have none: clips "
            "without a reference would show nothing of what is learnt"
        )
    for file in asked.references:
        if not file.is_file():
            raise InputError(f"validation.references: there is no file {str(file)!r}")
    found = CachedReferences(cache.folder)
    if found.layout != config.references.layout:
        raise InputError(
            f"the cache holds references of the layout {found.layout!r}, got references.layout="
            f"{config.references.layout}: set it to {found.layout}, or encode them again"
        )
    found.check(samples)
    return found
