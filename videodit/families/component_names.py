"""The names that files of an autoencoder or a text encoder alone give its tensors, and the libraries' own.

Wan's as in its authors' code (github.com/Wan-Video/Wan2.1, wan/modules/vae.py, and Wan2.2's vae2_2.py), FLUX's as in
that of latent diffusion (github.com/black-forest-labs/flux, modules/autoencoder.py), text encoders' as in ComfyUI's
files. Loads no library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from videodit.errors import ModelError
from videodit.json_types import Config

Rules = tuple[tuple[str, str], ...]
"""Regular expressions for whole beginnings or endings, and what to write for them."""

BESIDE = ("spiece_model", "tekken_model", "position_ids")
"""Last parts of names of tensors that are no weights: vocabularies that ComfyUI keeps there, and numbers of places."""

_RESIDUAL: Rules = (
    (r"\.residual\.0\.gamma$", ".norm1.gamma"),
    (r"\.residual\.2\.(?=\w+$)", ".conv1."),
    (r"\.residual\.3\.gamma$", ".norm2.gamma"),
    (r"\.residual\.6\.(?=\w+$)", ".conv2."),
    (r"\.shortcut\.(?=\w+$)", ".conv_shortcut."),
)
_WAN: Rules = (
    *_RESIDUAL,
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"^(encoder|decoder)\.middle\.0\.", r"\1.mid_block.resnets.0."),
    (r"^(encoder|decoder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
    (r"^(encoder|decoder)\.middle\.2\.", r"\1.mid_block.resnets.1."),
)
_LDM: Rules = (
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
    (r"^(encoder|decoder)\.mid\.attn_1\.norm\.", r"\1.mid_block.attentions.0.group_norm."),
    (r"^(encoder|decoder)\.mid\.attn_1\.proj_out\.", r"\1.mid_block.attentions.0.to_out.0."),
    (r"^(encoder|decoder)\.mid\.attn_1\.([qkv])\.", r"\1.mid_block.attentions.0.to_\2."),
    (r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
)


class Component(NamedTuple):
    """How files of a network alone name its tensors.

    Attributes:
        title: as people write it.
        prefix: a regular expression for what stands before all names in files of several networks.
        rename: the library's name of a tensor, from the file's without the prefix and the network's config.
    """

    title: str
    prefix: str
    rename: Callable[[str, Config], str]


def _renamed(name: str, rules: Rules) -> str:
    for pattern, spelling in rules:
        name = re.sub(pattern, spelling, name)
    return name


def _of_wan(name: str, config: Config) -> str:
    """The authors count the layers of the decoder through, and those of Wan 2.2 in each level."""
    name = _renamed(name, _WAN)
    resnets = config.get("num_res_blocks", 2)
    if match := re.match(r"encoder\.downsamples\.(\d+)\.downsamples\.(\d+)\.(.+)", name):
        level, layer, rest = int(match[1]), int(match[2]), match[3]
        part = f"resnets.{layer}" if layer < resnets else "downsampler"
        return f"encoder.down_blocks.{level}.{part}.{rest}"
    if match := re.match(r"decoder\.upsamples\.(\d+)\.upsamples\.(\d+)\.(.+)", name):
        level, layer, rest = int(match[1]), int(match[2]), match[3]
        part = f"resnets.{layer}" if layer <= resnets else "upsampler"
        return f"decoder.up_blocks.{level}.{part}.{rest}"
    if match := re.match(r"decoder\.upsamples\.(\d+)\.(.+)", name):
        level, layer = divmod(int(match[1]), resnets + 2)
        part = f"resnets.{layer}" if layer <= resnets else "upsamplers.0"
        return f"decoder.up_blocks.{level}.{part}.{match[2]}"
    return name.replace("encoder.downsamples.", "encoder.down_blocks.")


def _of_ldm(name: str, config: Config) -> str:
    """The authors count the levels of the decoder from the last, and the two blocks between from 1."""
    name = re.sub(r"\.mid\.block_([12])\.", lambda m: f".mid_block.resnets.{int(m[1]) - 1}.", name)
    levels = len(config.get("block_out_channels") or ())
    if match := re.match(r"decoder\.up\.(\d+)\.(block|upsample)\.(.+)", name):
        part = "resnets" if match[2] == "block" else "upsamplers.0"
        name = f"decoder.up_blocks.{levels - 1 - int(match[1])}.{part}.{match[3]}"
    return _renamed(name, _LDM)


def _of_qwen(name: str, _: Config) -> str:
    """transformers put the language model and the eyes under one roof later."""
    return _renamed(
        name, ((r"^model\.(?!language_model\.|visual\.)", "model.language_model."), (r"^visual\.", "model.visual."))
    )


_VAE, _ENCODER = r"(first_stage_model|vae)\.", r"(text_encoders\.\w+\.transformer|text_encoder|cond_stage_model)\."

COMPONENTS: dict[str, Component] = {
    "AutoencoderKLWan": Component("Wan's autoencoder", _VAE, _of_wan),
    "AutoencoderKLQwenImage": Component("Qwen-Image's autoencoder", _VAE, _of_wan),
    "CausalVideoVAE": Component("an autoencoder of Wan's kind", _VAE, _of_wan),
    "AutoencoderKL": Component("an autoencoder of latent diffusion, such as FLUX's", _VAE, _of_ldm),
    "T5EncoderModel": Component("T5", _ENCODER, lambda name, _: name),
    "UMT5EncoderModel": Component("UMT5", _ENCODER, lambda name, _: name),
    "CLIPTextModel": Component("CLIP's text model", _ENCODER, lambda name, _: name.removeprefix("text_model.")),
    "Qwen2_5_VLForConditionalGeneration": Component("Qwen2.5-VL", _ENCODER, _of_qwen),
}
"""By the class of the library."""


def library_names(names: Iterable[str], class_name: str, config: Config) -> dict[str, str]:
    """The file's names of a network's tensors by the library's.

    Args:
        names: of all tensors of a file.
        class_name: of the network.
        config: its own.

    Raises:
        ModelError: two names of one tensor.
    """
    component = COMPONENTS[class_name]
    weights = [name for name in names if name.rpartition(".")[2] not in BESIDE]
    own = [name for name in weights if re.match(component.prefix, name)] or weights
    found: dict[str, str] = {}
    for name in own:
        ours = component.rename(re.sub(f"^{component.prefix}", "", name), config)
        if ours in found:
            raise ModelError(f"{found[ours]} and {name} are the same tensor of {component.title}")
        found[ours] = name
    return found
