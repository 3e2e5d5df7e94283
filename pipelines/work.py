"""How the work of a transformer's forward grows with its tokens. Loads no library."""

from __future__ import annotations


def forward_work(tokens: int, parameters: int, pairs: int) -> int:
    """Multiplications of a forward: each token meets each parameter and, in each layer, the width of each token twice.

    Args:
        tokens: of the clip.
        parameters: of the transformer.
        pairs: its layers times its width, twice.
    """
    return tokens * (parameters + pairs * tokens)
