"""How parameters start: each module that is not of the plain kind says it itself, in ``init_weights``."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def initialize(module: nn.Module, zero: Iterable[nn.Module | None] = ()) -> None:
    """Set what is below a module, in the order of its parts: linear layers Xavier uniform, their biases 0.

    Parts that have ``init_weights`` do it themselves. Norms stay as they were made: weights of 1.

    Args:
        module: whose parts are set; parameters of its own are left to it.
        zero: linear layers that start at 0, such as output projections; no random number is drawn for them. ``None``
            among them stands for one that is not there.
    """
    zero = {one for one in zero if one is not None}
    for child in module.children():
        if (init := getattr(child, "init_weights", None)) is not None:
            init()
        elif isinstance(child, nn.Linear):
            nn.init.zeros_(child.weight) if child in zero else nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        else:
            initialize(child, zero)
