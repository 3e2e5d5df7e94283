"""From a clip to a control of any kind: :func:`extract` calls what :mod:`videodit.control.kinds` names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import cast

import numpy as np

from videodit.control.extracted import Extracted
from videodit.control.kinds import OptionValue, checked_options, derivable_kind
from videodit.errors import InputError
from videodit.ranges import short


def extract(frames: np.ndarray, kind: str, options: Mapping[str, OptionValue] | None = None) -> Extracted:
    """Derive a control from a clip. The same frames and options give the same control.

    Args:
        frames: uint8 RGB ``[T, H, W, 3]``.
        kind: one of :data:`videodit.control.kinds.KINDS`.
        options: by name; see :class:`videodit.control.kinds.Kind`.

    Returns:
        The control's frames, as many and as large, and what else was found.

    Raises:
        InputError: other frames, an unknown kind or option, or a library or weights that are missing, and how to get
            them.
    """
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        shape = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, np.ndarray) else short(frames)
        raise InputError(f"frames must be an uint8 array [T, H, W, 3], got {shape}")
    if not frames.size:
        raise InputError(f"frames are empty: {list(frames.shape)}")
    named = derivable_kind(kind)
    values = checked_options(named, options or {})
    assert named.home is not None
    module, _, function = named.home.partition(":")
    derive = getattr(importlib.import_module(module), function)
    found = cast(Extracted, derive(np.ascontiguousarray(frames), **values))
    assert found.frames.shape == frames.shape, named.name
    assert found.frames.dtype == np.uint8, named.name
    return found
