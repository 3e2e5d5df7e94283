"""What peft's config in a LoRA file says about the strength of its changes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from videodit.adapters.sources import LoRASource, json_metadata, shown
from videodit.errors import ModelError

DIFFUSERS_METADATA = "lora_adapter_metadata"
MAX_ALPHA = 1e9  # of a config; a whole number may have any size there


@dataclass(frozen=True)
class PeftSettings:
    """What peft's config says about alpha; empty for files without one, whose changes are not scaled."""

    config: Mapping[str, object]

    @classmethod
    def of(cls, source: LoRASource, network: str) -> PeftSettings:
        """Those that a file holds for one of its networks.

        Raises:
            ModelError: metadata that are not JSON.
        """
        if source.peft_config:
            return cls(source.peft_config)
        stored = json_metadata(source, DIFFUSERS_METADATA)
        prefix = f"{network}."
        config = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
        if not config and network != "transformer":  # of a file for one network
            return cls.of(source, "transformer")
        if not config and "lora_alpha" in stored:  # of a model's own save_lora_adapter
            config = stored
        return cls(config)

    def alpha(self, module: str, rank: int) -> float:
        """What the changes of a module are scaled with, times their rank.

        Raises:
            ModelError: it is no number.
        """
        alpha: object = self.config.get("lora_alpha", rank)
        patterns = self.config.get("alpha_pattern")
        if isinstance(patterns, dict):
            for pattern, value in patterns.items():
                # As peft: a pattern is a regular expression for the end of a name. Names are all that is needed here.
                if re.sub(r"\\(.)", r"\1", str(pattern)).strip("^$") in _endings(module):
                    alpha = value
                    break
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or abs(alpha) > MAX_ALPHA:
            raise ModelError(f"lora_alpha of {module} is {shown(alpha)}; it must be a number")
        return alpha * math.sqrt(rank) if self.config.get("use_rslora") else float(alpha)


def _endings(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[i:]) for i in range(len(parts))}
