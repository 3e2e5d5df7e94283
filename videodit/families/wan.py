"""Wan 2.1 and 2.2 (Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025)."""

from __future__ import annotations

from videodit.control.reference_rules import ReferenceRules
from videodit.errors import InputError
from videodit.families import config_from_shapes
from videodit.families.base import (
    CONV3D,
    LEADING_AXIS,
    Family,
    Original,
    Rule,
)
from videodit.families.sampling import Sampling, always
from videodit.families.wan_published import PUBLISHED
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec

RULES = (
    Rule("patch_embed.weight", "patch_embedding.weight", CONV3D),
    Rule("patch_embed.bias", "patch_embedding.bias"),
    Rule("control_embedder.proj.{rest}", "control_adapter.conv.{rest}"),
    Rule("control_embedder.conv1.{rest}", "control_adapter.residual_blocks.0.conv1.{rest}"),
    Rule("control_embedder.conv2.{rest}", "control_adapter.residual_blocks.0.conv2.{rest}"),
    Rule("reference_embedder.proj.{rest}", "ref_conv.{rest}"),
    Rule("time_embedder.{rest}", "condition_embedder.time_embedder.{rest}"),
    Rule("time_proj.{rest}", "condition_embedder.time_proj.{rest}"),
    Rule("text_embedder.{rest}", "condition_embedder.text_embedder.{rest}"),
    Rule("image_embedder.{rest}", "condition_embedder.image_embedder.{rest}"),
    Rule("blocks.{n}.scale_shift_table", "blocks.{n}.scale_shift_table", LEADING_AXIS),
    Rule("blocks.{n}.{rest}", "blocks.{n}.{rest}"),
    Rule("scale_shift_table", "scale_shift_table", LEADING_AXIS),
    Rule("proj_out.{rest}", "proj_out.{rest}"),
)

_SAME = (
    "patch_size", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_dim", "freq_dim",
    "ffn_dim", "num_layers", "cross_attn_norm", "qk_norm", "eps", "image_dim",
)  # fmt: skip

_ADAPTER = ("add_control_adapter", "in_dim_control_adapter", "downscale_factor_control_adapter")
"""Entries of VideoX-Fun's: a camera's rays, their channels at the size of pixels, and pixels a latent."""
_LEAD = ("add_ref_conv", "in_dim_ref_conv")
"""Likewise: a reference picture as one more frame in front, and its latent channels."""


def options(config: Config) -> JsonObject:
    """Our options."""
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    added = config["added_kv_proj_dim"]
    if (config["image_dim"] is None) != (added is None) or added not in (None, dim):
        raise InputError(f"Wan: added_kv_proj_dim is {added!r}; it must be {dim} where image_dim is set, else None")
    own: JsonObject = {}
    if config.get(_ADAPTER[0]):
        channels, factor = (config.get(name, value) for name, value in zip(_ADAPTER[1:], (24, 8), strict=True))
        own["block_options"] = {"patch_control": channels * factor**2}
    if config.get(_LEAD[0]):
        channels = config.get(_LEAD[1], config["out_channels"])
        own["block_options"] = own.get("block_options", {}) | {"reference_patch": channels}
    return {name: config[name] for name in _SAME} | {"image_tokens": config["pos_embed_seq_len"]} | own


_EMBEDDER, _IMAGE_EMBEDDER = "condition_embedder", "condition_embedder.image_embedder"
_PROJECTIONS = {
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "add_k_proj": "k_img", "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img", "norm_q": "norm_q", "norm_k": "norm_k",
}  # fmt: skip

ORIGINAL = Original(
    rules=(
        *(
            Rule(f"{_EMBEDDER}.{part}_embedder.linear_{i + 1}.{{rest}}", f"{part}_embedding.{2 * i}.{{rest}}")
            for part in ("time", "text")
            for i in (0, 1)
        ),
        Rule(f"{_EMBEDDER}.time_proj.{{rest}}", "time_projection.1.{rest}"),
        Rule(f"{_IMAGE_EMBEDDER}.norm1.{{rest}}", "img_emb.proj.0.{rest}"),
        Rule(f"{_IMAGE_EMBEDDER}.ff.net.0.proj.{{rest}}", "img_emb.proj.1.{rest}"),
        Rule(f"{_IMAGE_EMBEDDER}.ff.net.2.{{rest}}", "img_emb.proj.3.{rest}"),
        Rule(f"{_IMAGE_EMBEDDER}.norm2.{{rest}}", "img_emb.proj.4.{rest}"),
        Rule(f"{_IMAGE_EMBEDDER}.pos_embed", "img_emb.emb_pos"),
        Rule("scale_shift_table", "head.modulation"),
        Rule("proj_out.{rest}", "head.head.{rest}"),
        Rule("blocks.{n}.scale_shift_table", "blocks.{n}.modulation"),
        Rule("blocks.{n}.ffn.net.0.proj.{rest}", "blocks.{n}.ffn.0.{rest}"),
        Rule("blocks.{n}.ffn.net.2.{rest}", "blocks.{n}.ffn.2.{rest}"),
        Rule("blocks.{n}.norm2.{rest}", "blocks.{n}.norm3.{rest}"),  # the affine one; no other has weights
        *(
            Rule(f"blocks.{{n}}.{attention}.{name}.{{rest}}", f"blocks.{{n}}.{theirs}.{short}.{{rest}}")
            for attention, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
            for name, short in _PROJECTIONS.items()
        ),
    ),
)

# Padding is zero and attended to, as in training.
TEXT = TextSpec(max_length=512, padding="max_length", clean="whitespace", zero_padding=True, model_mask=False)
_LATENT_CHANNELS_OF_2_2, _MASK = 48, 4


def _defaults(config: Config) -> JsonObject:
    if config["in_channels"] == _LATENT_CHANNELS_OF_2_2:
        return always(704, 1280, 121, 24.0, 50, 5.0)(config)
    if config.get("boundary_ratio") is not None:  # 2.2 A14B; image to video has more channels
        return always(720, 1280, 81, 16.0, 40, 4.0 if config["in_channels"] == config["out_channels"] else 3.5)(config)
    return always(480, 832, 81, 16.0, 50, 5.0)(config)


def _of_fun(config: Config) -> JsonObject:
    """Fun-Control-Camera sees its control by other layers than those of its latents; Wan 2.2 sees which frames are
    given; and some have a layer for a reference picture."""
    layers, latents = config.get("block_options") or {}, config.get("out_channels") or config["in_channels"]
    found: JsonObject = {"references": ReferenceRules("lead")} if layers.get("reference_patch") else {}
    if layers.get("patch_control"):
        return found | {"image_condition": ("latents", "image")}
    if config["in_channels"] == 3 * latents + _MASK:
        return found | {"image_condition": ("latents", "control", "mask4", "frames")}
    return found


FAMILY = Family(
    name="wan",
    title="Wan",
    class_name="WanTransformer3DModel",
    objective="flow",
    options=options,
    rules=RULES,
    ignored="norm_added_q|^vace_",  # the one is in some files, and used by nobody; the other is a control branch
    branch="vace_",
    ignored_entries=("vace_layers", "vace_in_channels"),
    further_entries=_ADAPTER + _LEAD,
    aliases=("WanVACETransformer3DModel",),
    pipeline_aliases={"WanVACEPipeline": "WanPipeline"},
    original=ORIGINAL,
    config_from_shapes=config_from_shapes.wan,
    sampling={
        "WanPipeline": Sampling(text=TEXT, vae="AutoencoderKLWan", defaults=_defaults),
        # With expand_timesteps (2.2 TI2V 5B) the image is kept at the first frame instead.
        "WanImageToVideoPipeline": Sampling(
            text=TEXT, vae="AutoencoderKLWan", defaults=_defaults, image_condition=("latents", "mask4", "frames")
        ),
        # diffusers has no such class; VideoX-Fun's pipeline has this name.
        "WanFunControlPipeline": Sampling(
            text=TEXT,
            vae="AutoencoderKLWan",
            defaults=_defaults,
            image_condition=("latents", "control", "image"),
            by_config=_of_fun,
        ),
        "LucyEditPipeline": Sampling(
            text=TEXT,
            vae="AutoencoderKLWan",
            defaults=always(480, 832, 81, 24.0, 50, 5.0),
            image_condition=("latents", "clip"),
        ),
    },
    published=PUBLISHED,
)
