"""Pipelines of diffusers' and of this package made of one another, in memory: networks share their weights."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, Protocol

from diffusers import DiffusionPipeline

from videodit._diffusers import is_divided
from videodit.errors import InputError
from videodit.families import FAMILIES, sampling_of
from videodit.families.autoencoders import autoencoder_named
from videodit.pipelines.components import check_not_offloaded, foreign_transformer, foreign_vae, with_entries
from videodit.pipelines.folders import SHARED_SETTINGS
from videodit.pipelines.guiders import guider_settings, make_guider
from videodit.pipelines.loading import COMPONENTS, foreign_settings

if TYPE_CHECKING:
    from diffusers.configuration_utils import FrozenDict

    from videodit.families.sampling import Sampling

logger = logging.getLogger(__name__)


class _Convertible(Protocol):
    """What of a pipeline another one is made of."""

    config: FrozenDict
    components: dict[str, Any]

    @property
    def sampling(self) -> Sampling:
        """How clips are made with the model."""


def parts_of_diffusers(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """What a :class:`~videodit.VideoDiTPipeline` is made of, from a pipeline of diffusers' of a known family.

    Networks are handed on as they are; the new pipeline turns them into its own classes.

    Raises:
        InputError: a class that is no family's, or a pipeline whose parts are offloaded or divided among devices.
    """
    import diffusers

    name = type(pipeline).__name__
    known = [one for family in FAMILIES.values() for one in family.sampling]
    if name not in known or type(pipeline) is not getattr(diffusers, name, None):
        raise InputError(f"from_pipe takes a VideoDiTPipeline or one of diffusers' {', '.join(known)}, got a {name}")
    if is_divided(pipeline):
        raise InputError("the pipeline is divided among devices; call its reset_device_map() first")
    for part, network in pipeline.components.items():
        check_not_offloaded(network, part)
    parts = dict(pipeline.components)
    _, sampling = sampling_of(name)
    settings = {**pipeline.config, "_class_name": name}
    if sampling.guider is not None and (guider := parts.pop("guider")) is not None:
        settings |= guider_settings(guider.config, type(guider).__name__, sampling.guider, name)
    processor = parts.pop(sampling.image_processor, None)
    if sampling.image_processor == "processor" and processor is not None:  # of texts and pictures
        processor = processor.image_processor
    parts["image_processor"] = processor
    if left := sorted(part for part, value in parts.items() if part not in COMPONENTS and value is not None):
        logger.warning(f"{', '.join(left)} of {name} have no part in how clips are made here and are left out")
    parts = {part: value for part, value in parts.items() if part in COMPONENTS}
    return parts | foreign_settings(settings)


def to_diffusers(pipe: _Convertible) -> DiffusionPipeline:
    """diffusers' own pipeline of the same components; see :meth:`videodit.VideoDiTPipeline.to_diffusers`."""
    import diffusers

    name = pipe.config.sampled_as
    if name is None:
        raise InputError("diffusers has no pipeline for a model of no published family")
    component: type[DiffusionPipeline] | None = getattr(diffusers, name, None)
    if component is None:
        raise InputError(f"diffusers has no {name}, so that this pipeline stays one of videodit")
    takes = inspect.signature(component.__init__).parameters
    if "processor" in takes:
        raise InputError(
            f"{name} reads texts and pictures by one processor of transformers, which this pipeline does not hold; "
            "load the model's folder by diffusers"
        )
    parts = dict(pipe.components)
    for part in ("transformer", "transformer_2"):
        if parts.get(part) is not None:
            parts[part] = foreign_transformer(parts[part], part)
    if parts["vae"] is not None and (theirs := autoencoder_named(pipe.sampling.vae)).loads_as is not None:
        parts["vae"] = foreign_vae(parts["vae"], theirs)
    parts |= {key: pipe.config[key] for key in SHARED_SETTINGS if pipe.config[key]}
    if parts["scheduler"] is not None and (entries := pipe.sampling.scheduler):
        parts["scheduler"] = with_entries(parts["scheduler"], {key: value for key, (value, _) in entries.items()})
    parts[pipe.sampling.image_processor] = parts.pop("image_processor")
    if pipe.sampling.guider is not None:
        parts["guider"] = make_guider(pipe.sampling.guider, pipe.config.guidance_scale)
    if extra := sorted(part for part, value in parts.items() if part not in takes and value is not None):
        raise InputError(f"{name} takes no {', '.join(extra)}; set them to None first")
    for part, network in parts.items():
        check_not_offloaded(network, part)
    needed = (part for part, one in takes.items() if one.default is one.empty and part not in ("self", *parts))
    if lacking := sorted(needed):
        logger.warning(f"{', '.join(lacking)} of {name} had no part in how clips were made here, and is None there")
    return component(**dict.fromkeys(lacking), **{part: value for part, value in parts.items() if part in takes})
