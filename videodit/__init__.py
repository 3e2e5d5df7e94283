"""videodit: one video diffusion transformer and one set of tools around it.

The public names load on first use, so that ``import videodit`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# In a checkout, `pipelines/` and `datasets/` stand beside this package and not in it. When the
# checkout's root is on sys.path it hides an installed copy, so let submodules be found there, too.
_root = Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").is_file() and (_root / "pipelines").is_dir():
    __path__.append(str(_root))

_HOME = {
    "CausalVideoVAE": "videodit.vae",
    "Control": "videodit.control.control",
    "Edit": "videodit.pipelines.conditions",
    "Frames": "videodit.pipelines.conditions",
    "Preview": "videodit.pipelines.previews",
    "Reference": "videodit.control.references",
    "Region": "videodit.pipelines.conditions",
    "Storyboard": "videodit.pipelines.storyboard",
    "TextEncoder": "videodit.text",
    "VideoDiT": "videodit.transformer",
    "VideoDiTError": "videodit.errors",
    "VideoDiTPipeline": "videodit.pipelines",
    "VideoDiTPipelineOutput": "videodit.pipelines",
}

if TYPE_CHECKING:
    from videodit.control.control import Control
    from videodit.control.references import Reference
    from videodit.errors import VideoDiTError
    from videodit.pipelines import VideoDiTPipeline, VideoDiTPipelineOutput
    from videodit.pipelines.conditions import Edit, Frames, Region
    from videodit.pipelines.previews import Preview
    from videodit.pipelines.storyboard import Storyboard
    from videodit.text import TextEncoder
    from videodit.transformer import VideoDiT
    from videodit.vae import CausalVideoVAE

__all__ = [
    "CausalVideoVAE",
    "Control",
    "Edit",
    "Frames",
    "Preview",
    "Reference",
    "Region",
    "Storyboard",
    "TextEncoder",
    "VideoDiT",
    "VideoDiTError",
    "VideoDiTPipeline",
    "VideoDiTPipelineOutput",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        from videodit.importing import quick_imports

        with quick_imports():
            return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
