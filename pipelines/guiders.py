"""Guidance that diffusers keeps in a component of its own: its config tells the scale, which is all that is taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.configs import read_json
from videodit.errors import ModelError
from videodit.ranges import short

if TYPE_CHECKING:
    from videodit.families import Sampling
    from videodit.json_types import Config, JsonObject

_FILE = "guider_config.json"
_AS_THEY_ARE: dict[str, object] = {
    "guidance_rescale": 0.0,
    "use_original_formulation": False,
    "start": 0.0,
    "stop": 1.0,
}
"""Entries of the config of diffusers' ClassifierFreeGuidance, and the values that they have to have here."""
_DEFAULT_SCALE = 7.5


def guider_settings(config: Config, class_name: object, needed: str, where: object) -> JsonObject:
    """The settings of a pipeline that a guider's config holds.

    Args:
        config: the guider's.
        class_name: its class.
        needed: the class that the pipeline's way of sampling knows.
        where: what an error names.

    Raises:
        ModelError: another class, another way of guiding than ``uncond + s·(cond − uncond)`` in all steps, or a scale
            that is no number from 1 to 100.
    """
    if class_name != needed:
        raise ModelError(f"{where}: the guider is a {short(class_name)}; the valid value is {needed}")
    for name, value in _AS_THEY_ARE.items():
        if config.get(name, value) != value:
            raise ModelError(f"{where}: {name} of the guider is {short(config[name])}; the valid value is {value}")
    enabled, scale = config.get("enabled", True), config.get("guidance_scale", _DEFAULT_SCALE)
    if type(enabled) is not bool:
        raise ModelError(f"{where}: enabled of the guider is {short(enabled)}; valid values are true and false")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1 <= scale <= 100:
        raise ModelError(f"{where}: guidance_scale of the guider is {short(scale)}; it must be a number from 1 to 100")
    return {"guidance_scale": float(scale) if enabled else 1.0}


def read_guider(folder: Path, index: Config, sampling: Sampling | None) -> JsonObject:
    """The settings that the guider of a pipeline's folder holds; empty where it has none.

    Args:
        folder: the pipeline's.
        index: contents of its ``model_index.json``.
        sampling: how diffusers' pipeline samples.

    Raises:
        ModelError: see :func:`guider_settings`.
    """
    entry = index.get("guider")
    if sampling is None or sampling.guider is None or index.get("_class_name") == "VideoDiTPipeline":
        return {}
    if not isinstance(entry, list) or len(entry) != 2:
        raise ModelError(f"{folder / 'model_index.json'}: guider is {short(entry)}; it must be a library and a class")
    return guider_settings(read_json(folder / "guider" / _FILE), entry[1], sampling.guider, folder / "guider" / _FILE)


def make_guider(name: str, scale: float) -> Any:
    """diffusers' guider of a class, with a scale."""
    import diffusers

    return getattr(diffusers, name)(guidance_scale=scale)
