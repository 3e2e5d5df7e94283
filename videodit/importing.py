"""Imports of the large libraries, at less cost."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import inside the ``with`` block without garbage collections.

    Importing torch, diffusers and transformers makes very many objects that stay, and Python's collector walks through
    all of them again and again: a sixth of the time. It is on again once the block ends, if it was.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
