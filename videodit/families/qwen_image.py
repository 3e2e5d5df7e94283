"""Qwen-Image, and Qwen-Image-Edit, which changes pictures: a clip of one frame (Qwen Team, "Qwen-Image Technical
Report", 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from videodit.control.reference_rules import ReferenceRules
from videodit.errors import InputError
from videodit.families import config_from_shapes
from videodit.families.base import CHANNEL_FIRST, SWAP_HALVES, Family, Published, Rule, block_rules
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import QWEN_2_5_VL_7B, WAN_VAE_2_1
from videodit.json_types import Config, JsonObject
from videodit.text_spec import ReferencesInText, TextSpec


def _template(pipeline: str) -> str:
    """What the language model is told to do with the prompt; diffusers has it, and its weights know no other."""
    from videodit._diffusers import qwen_image_template

    return qwen_image_template(pipeline)


_TEMPLATE_TOKENS, _EDIT_TEMPLATE_TOKENS = 34, 64  # of the template, dropped again


def options(config: Config) -> JsonObject:
    """Our options. Their pipeline packs 2×2 latents into 64 channels; here that is the patch."""
    heads, head_dim, patch = config["num_attention_heads"], config["attention_head_dim"], config["patch_size"]
    if config["in_channels"] % patch**2:
        raise InputError(f"Qwen-Image: in_channels is {config['in_channels']}; it must be a multiple of {patch**2}")
    channels = config["in_channels"] // patch**2
    return {
        "patch_size": (1, patch, patch),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": channels,
        "out_channels": config["out_channels"] or channels,
        "text_dim": config["joint_attention_dim"],
        "ffn_dim": 4 * heads * head_dim,
        "num_layers": config["num_layers"],
        "block": "joint",
        "qk_norm": "rms_norm",
        "text_embedding": "normed_linear",
        "final_layer": "linear",
        "rope": "centred",
        "rope_axes": tuple(config["axes_dims_rope"]),
    }


def _text(pipeline: str, **options: Any) -> TextSpec:
    return TextSpec(zero_padding=True, hidden_layer=-1, template=partial(_template, pipeline), **options)


def _edits(pipeline: str, rules: ReferenceRules, each: str = "") -> Sampling:
    """How a pipeline changes pictures."""

    def by_config(config: Config) -> Mapping[str, Any]:
        clean = (config.get("family_config") or {}).get("zero_cond_t")
        return {"references": replace(rules, timestep=0.0)} if clean else {}

    seen = ReferencesInText(each=each)
    text = _text(pipeline, max_length=1024, template_tokens=_EDIT_TEMPLATE_TOKENS, references=seen)
    return replace(_SAMPLING, text=text, references=rules, image_processor="processor", by_config=by_config)


_AREA, _READ_AREA = 1024 * 1024, 384 * 384
_EDIT_RULES = ReferenceRules("edit", most=1, area=_AREA, multiple=32, read_area=_AREA, needed=True)
_SAMPLING = Sampling(
    text=_text("QwenImagePipeline", max_length=512, template_tokens=_TEMPLATE_TOKENS),
    vae="AutoencoderKLQwenImage",
    defaults=always(1024, 1024, 1, 1.0, 50, 4.0),
    images=True,
    sigmas="to_last_step",
    keeps_norm=True,
)
_BLOCK = "transformer_blocks.{n}"

FAMILY = Family(
    name="qwen_image",
    title="Qwen-Image",
    class_name="QwenImageTransformer2DModel",
    objective="flow",
    options=options,
    rules=(
        Rule("patch_embed.{rest}", "img_in.{rest}"),
        Rule("text_embedder.norm.{rest}", "txt_norm.{rest}"),
        Rule("text_embedder.proj.{rest}", "txt_in.{rest}"),
        Rule("time_embedder.{rest}", "time_text_embed.timestep_embedder.{rest}"),
        Rule("blocks.{n}.modulation.{rest}", f"{_BLOCK}.img_mod.1.{{rest}}"),
        Rule("blocks.{n}.text_modulation.{rest}", f"{_BLOCK}.txt_mod.1.{{rest}}"),
        Rule("blocks.{n}.text_ffn.{rest}", f"{_BLOCK}.txt_mlp.{{rest}}"),
        *block_rules("blocks.{n}", _BLOCK, feed_forward="img_mlp"),
        Rule("final_modulation.weight", "norm_out.linear.weight", SWAP_HALVES),
        Rule("final_modulation.bias", "norm_out.linear.bias", SWAP_HALVES),
        Rule("proj_out.weight", "proj_out.weight", CHANNEL_FIRST),
        Rule("proj_out.bias", "proj_out.bias", CHANNEL_FIRST),
    ),
    config_from_shapes=config_from_shapes.qwen_image,
    sampling={
        "QwenImagePipeline": _SAMPLING,
        "QwenImageEditPipeline": _edits("QwenImageEditPipeline", _EDIT_RULES),
        "QwenImageEditPlusPipeline": _edits(
            "QwenImageEditPlusPipeline",
            replace(_EDIT_RULES, most=4, read_area=_READ_AREA),
            each="Picture {}: <|vision_start|><|image_pad|><|vision_end|>",
        ),
    },
    required={
        "guidance_embeds": False,
        "use_additional_t_cond": False,  # of models of several layers
        "use_layer3d_rope": False,
    },
    published={
        name: Published(f"Qwen/{name}", {}, 20_430_401_088, QWEN_2_5_VL_7B + WAN_VAE_2_1, makes="pictures")
        for name in ("Qwen-Image", "Qwen-Image-2512")
    }
    | {
        name: Published(
            f"Qwen/{name}", config, 20_430_401_088, QWEN_2_5_VL_7B + WAN_VAE_2_1, takes=takes, makes="pictures"
        )
        for name, config, takes in (
            ("Qwen-Image-Edit", {}, "text, a picture to change"),
            ("Qwen-Image-Edit-2509", {}, "text, pictures"),
            ("Qwen-Image-Edit-2511", {"zero_cond_t": True}, "text, pictures"),
        )
    },
)
