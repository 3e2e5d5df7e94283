"""References in training: those of a cache, checked against a config and a model."""

from __future__ import annotations

from collections.abc import Sequence

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
        InputError: a model that can have none, a cache without them or with those of another layout, or prompts of
            clips, which would be made without a reference.
    """
    if config.references is None:
        return None
    spec = ModelFolder.find(config.model).spec
    if spec.reference_obstacle is not None:
        raise InputError(f"this model takes no references: {spec.reference_obstacle}")
    if config.references.layout == "edit" and not spec.images:
        raise InputError("references.layout is 'edit', which is for models of pictures; valid values are guide, behind")
    if config.validation.prompts or config.validation.captions:
        raise InputError(
            "validation.prompts and validation.captions make clips without a reference, which would show nothing of "
            "what is learnt: leave them out"
        )
    found = CachedReferences(cache.folder)
    if found.layout != config.references.layout:
        raise InputError(
            f"the cache holds references of the layout {found.layout!r}, got references.layout="
            f"{config.references.layout}: set it to {found.layout}, or encode them again"
        )
    found.check(samples)
    return found
