"""Runs a script with accelerate's FSDP2 on CPUs, which accelerate itself leaves to GPUs: only the choice is changed."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import accelerate.state
from accelerate.utils import DistributedType

chosen = accelerate.state.AcceleratorState.__init__


def choose_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    chosen(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if self.distributed_type == DistributedType.MULTI_CPU and fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # later ones copy it


if __name__ == "__main__":
    accelerate.state.AcceleratorState.__init__ = choose_fsdp
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
