"""Imports of the large libraries, at less cost."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import inside the ``with`` block without garbage collections.

    Importing torch, diffusers and transformers makes very many objects that stay, and Python's collector walks through
    all of them again and again: a sixth of the time. It is on again once the block ends, if it was, and what the block
    made counts as old then: to it as new, the next three collections would walk through all of it once more.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # else these two would let go of what somebody has frozen
                gc.freeze()
                gc.unfreeze()  # into the oldest generation
            gc.enable()
