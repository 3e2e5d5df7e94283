"""What the name of a tensor in a LoRA file says: which network it is for, which module of it, which part."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from videodit.errors import InputError

Part = Literal["down", "up", "up_bias", "alpha", "magnitude", "diff", "diff_b", "diff_m"]
Network = Literal["transformer", "transformer_2", "text"]

_DOWN = r"(?:\.lora_A|\.lora_down|\.lora\.down|\.lora_linear_layer\.down|_lora\.down)"
_UP = r"(?:\.lora_B|\.lora_up|\.lora\.up|\.lora_linear_layer\.up|_lora\.up)"
_ENDINGS: dict[Part, str] = {
    "down": rf"{_DOWN}(?:\.\w+)?\.weight",  # peft may put the adapter's name in between
    "up": rf"{_UP}(?:\.\w+)?\.weight",
    "up_bias": rf"{_UP}(?:\.\w+)?\.bias",
    "magnitude": r"\.dora_scale|\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?",
    "alpha": r"\.alpha",
    "diff": r"\.diff",
    "diff_b": r"\.diff_b",
    "diff_m": r"\.diff_m",  # of a modulation table
}
_AT_END = {part: re.compile(rf"(?:{ending})\Z") for part, ending in _ENDINGS.items()}
# A name without one of these has no such ending, which is quickly seen.
_MARKS: dict[Part, tuple[str, ...]] = {
    "down": ("lora_A", "down"),
    "up": ("lora_B", "up"),
    "up_bias": (".bias",),
    "magnitude": ("dora_scale", "lora_magnitude_vector"),
}
_OTHER_METHODS = {
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".lora_mid.": "LoCon with a middle layer",
    ".oft_": "OFT",
    ".on_input": "IA3",
    ".ia3_": "IA3",
}
_TEXT = ("text_encoder", "lora_te", "te.", "te1.", "te2.", "cond_stage_model.", "conditioner.", "text_encoders.")
# In front of a module's name; each may stand behind another.
_PREFIXES = (
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "unet.", "pipe.dit.", "dit.",
    "model.", "module.",
)  # fmt: skip
_SECOND = "transformer_2."
# Dots or further underscores may stand behind these, and a module's dots may have been kept.
_FLAT_PREFIX = re.compile(r"(?:lora_unet|lora_transformer|lora_dit|lycoris)[_.]+(?:diffusion_model[_.])?")


class Key(NamedTuple):
    """A name taken apart.

    Attributes:
        network: which one it is for.
        module: the module's name there, without prefixes; of kohya's files its dots are underscores.
        part: what the tensor is.
        kohya: the name has the form of kohya's scripts.
    """

    network: Network
    module: str
    part: Part
    kohya: bool


def parse_key(name: str) -> Key | None:
    """Take a tensor's name apart; ``None`` for one that has no form we know.

    Raises:
        InputError: a tensor of another kind of adapter.
    """
    if name.startswith(_TEXT):
        return Key("text", name, "down", name.startswith("lora_te"))
    for part, ending in _AT_END.items():
        if not any(mark in name for mark in _MARKS.get(part, (f".{part}",))):
            continue
        if (found := ending.search(name, 1)) is not None:
            network, module, kohya = _strip(name[: found.start()])
            return Key(network, module, part, kohya)
    for mark, method in _OTHER_METHODS.items():
        if mark in name:
            raise InputError(f"holds {method} ({name}); valid values are LoRA and DoRA")
    return None


def _strip(module: str) -> tuple[Network, str, bool]:
    network: Network = "transformer"
    while True:
        if (flat := _FLAT_PREFIX.match(module)) is not None:
            return network, module[flat.end() :], True
        if module.startswith(_SECOND):
            network, module = "transformer_2", module.removeprefix(_SECOND)
            continue
        prefix = next((prefix for prefix in _PREFIXES if module.startswith(prefix)), "")
        if not prefix:
            break
        module = module.removeprefix(prefix)
    if ".processor." in module:  # of diffusers before peft: attn1.processor.to_out_lora
        module = re.sub(r"\.to_out$", ".to_out.0", module.replace(".processor.", "."))
    return network, module, False
