"""How parameters start: each module that is not of the plain kind says it itself, in ``init_weights``."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn


def initialize(module: nn.Module, zero: Collection[nn.Module] = ()) -> None:
    """Set what is below a module, in the order of its parts: linear layers Xavier uniform, their biases 0.

    Parts that have ``init_weights`` do it themselves. Norms stay as they were made: weights of 1.

    Args:
        module: whose parts are set; parameters of its own are left to it.
        zero: linear layers that start at 0, such as output projections; no random number is drawn for them.
    """
    for child in module.children():
        if isinstance(child, nn.Linear):
            nn.init.zeros_(child.weight) if any(child is one for one in zero) else nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif hasattr(child, "init_weights"):
            child.init_weights()
        else:
            initialize(child, zero)
