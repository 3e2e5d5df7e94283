"""Former home of :mod:`videodit.pipelines.folders`, ``spec`` and ``settings``; goes with the next release."""

from __future__ import annotations

import warnings

from videodit.pipelines.folders import BUNDLED, check_model, family_of_index, model_hash, resolve_model
from videodit.pipelines.recipe import levels_changed
from videodit.pipelines.settings import MAX_SIDE, MAX_STEPS, MAX_TOKENS, Settings, check_conditions
from videodit.pipelines.spec import Defaults, ModelSpec

__all__ = [
    "BUNDLED",
    "MAX_SIDE",
    "MAX_STEPS",
    "MAX_TOKENS",
    "Defaults",
    "ModelSpec",
    "Settings",
    "check_conditions",
    "check_model",
    "family_of_index",
    "levels_changed",
    "model_hash",
    "resolve_model",
]

warnings.warn(
    "videodit.pipelines.registry has moved to videodit.pipelines.{folders,spec,settings,planning}",
    DeprecationWarning,
    stacklevel=2,
)
