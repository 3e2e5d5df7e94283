"""Which of diffusers' attention backends computes.

``model.set_attention_backend`` sets it for the model and, which its name does not say, for every attention of the
process that has none of its own, as ``DIFFUSERS_ATTN_BACKEND`` and the context manager ``attention_backend`` do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def backend_of(processor: object) -> str:
    """The backend that an attention processor uses at the moment: its own, or that of the process."""
    from videodit._diffusers import AttentionBackendRegistry

    own = getattr(processor, "_attention_backend")  # noqa: B009
    backend = AttentionBackendRegistry.get_active_backend()[0] if own is None else own
    return str(getattr(backend, "value", backend))


def backends_of(networks: Iterable[nn.Module | None]) -> list[str]:
    """The backends of all attentions of networks, each once, in alphabetical order; ``None`` has none."""
    modules = (module for network in networks if network is not None for module in network.modules())
    # Not getattr: of the modules without one it asks their parameters, buffers and modules first, at each step.
    processors = (vars(module).get("processor") or module._modules.get("processor") for module in modules)
    return sorted({backend_of(one) for one in processors if hasattr(one, "_attention_backend")})
