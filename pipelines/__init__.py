"""The diffusers-style pipeline: from a sentence to a clip. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videodit.pipelines.output import VideoDiTPipelineOutput
    from videodit.pipelines.pipeline import VideoDiTPipeline

__all__ = ["VideoDiTPipeline", "VideoDiTPipelineOutput"]

_HOME = {
    "VideoDiTPipeline": "videodit.pipelines.pipeline",
    "VideoDiTPipelineOutput": "videodit.pipelines.output",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
