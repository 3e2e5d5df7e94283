"""Weights at addresses of one kind, for tests that compare to the last bit.

Tensors of a file lie in memory where the file has them, and on some CPUs a matrix product of the same numbers ends in
other last bits there than at the addresses that torch allocates.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from diffusers import DiffusionPipeline

Loaded = TypeVar("Loaded", bound="torch.nn.Module | DiffusionPipeline")


def aligned(loaded: Loaded) -> Loaded:
    """A module, or a pipeline with all its modules, with its parameters moved to where torch puts them."""
    parts = loaded.components.values() if isinstance(loaded, DiffusionPipeline) else [loaded]
    for part in parts:
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            parameter.data = parameter.data.clone()
    return loaded
