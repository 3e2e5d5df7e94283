"""Tiny pipelines of diffusers', each of random parts: a file for each family, or for several.

Every file here but `common.py` has its `CASES`, and the tests of whole pipelines take them all.
"""

from __future__ import annotations

import importlib
import pkgutil

from family_cases.common import LINEAR, NEGATIVE, PROMPT, Case
from family_cases.first import image

_MODULES = [one.name for one in pkgutil.iter_modules(__path__) if one.name != "common"]
CASES: dict[str, Case] = {
    name: case for module in _MODULES for name, case in importlib.import_module(f"{__name__}.{module}").CASES.items()
}

__all__ = ["CASES", "LINEAR", "NEGATIVE", "PROMPT", "Case", "image"]
