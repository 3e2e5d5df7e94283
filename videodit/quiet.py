"""Keeping what the large libraries say of themselves out of a command's output and a server's log."""

from __future__ import annotations

import logging


def quiet_torchao() -> None:
    """Keep torchao from telling, when diffusers imports it, of every kernel that was built for another machine.

    Whoever calls this has not imported diffusers yet.
    """
    for name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Keep the bars and hints of diffusers and transformers out of a command's output."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
