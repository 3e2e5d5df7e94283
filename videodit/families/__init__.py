"""The published families that a VideoDiT runs, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from videodit.errors import ModelError
from videodit.families import (
    allegro,
    cogvideox,
    flux,
    flux2,
    hunyuan_video,
    hunyuan_video15,
    latte,
    longcat_image,
    ltx,
    mochi,
    pixart,
    qwen_image,
    skyreels,
    wan,
    z_image,
)
from videodit.families.base import Family as Family
from videodit.families.sampling import Sampling as Sampling
from videodit.ranges import short

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (
        wan,
        skyreels,
        ltx,
        cogvideox,
        hunyuan_video,
        hunyuan_video15,
        latte,
        allegro,
        pixart,
        flux,
        mochi,
        qwen_image,
        flux2,
        longcat_image,
        z_image,
    )
}


def family_of(config: Mapping[str, object], where: object = "the config") -> Family:
    """The family of a transformer's config of diffusers.

    Raises:
        ModelError: a class that is no family's.
    """
    name = config.get("_class_name")
    for family in FAMILIES.values():
        if name in (family.class_name, *family.aliases):
            return family
    raise _unknown(name, ["VideoDiT", *(family.class_name for family in FAMILIES.values())], where)


def sampling_of(pipeline: object, where: object = "the folder") -> tuple[Family, Sampling]:
    """The family of one of diffusers' pipeline classes, and how it makes clips.

    Raises:
        ModelError: a class that is no family's.
    """
    name = sampled_as(pipeline)
    for family in FAMILIES.values():
        if isinstance(name, str) and name in family.sampling:
            return family, family.sampling[name]
    known = ["VideoDiTPipeline", *(name for family in FAMILIES.values() for name in family.sampling)]
    raise _unknown(pipeline, known, where)


def sampled_as(pipeline: object) -> object:
    """The name of the pipeline class that makes clips as this one does: itself, or that of its base without control."""
    for family in FAMILIES.values():
        if isinstance(pipeline, str) and pipeline in family.pipeline_aliases:
            return family.pipeline_aliases[pipeline]
    return pipeline


def _unknown(name: object, legal: list[str], where: object) -> ModelError:
    named = "names no class (_class_name)" if name is None else f"is of class {short(name)}"
    return ModelError(f"{where} {named}; valid values are {', '.join(legal)}")
