"""HunyuanVideo (Kong et al., "HunyuanVideo: A Systematic Framework For Large Video Generative Models", 2024)."""

from __future__ import annotations

from videodit.families import config_from_shapes, original_layouts
from videodit.families import hunyuan_video_i2v as i2v
from videodit.families.base import (
    CONV3D,
    MMDIT,
    ORIGINAL_MMDIT,
    Family,
    Original,
    Published,
    Rule,
    block_rules,
)
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import CLIP_L, HUNYUAN_VAE, LLAMA_3_8B
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec


def _template() -> str:
    """What the language model is told to do with the prompt; diffusers has it, and its weights know no other."""
    from videodit._diffusers import HUNYUAN_TEMPLATE

    template: str = HUNYUAN_TEMPLATE["template"]
    return template


_TEMPLATE_TOKENS = 95  # of the template, dropped again

_REFINER = "context_embedder.token_refiner.refiner_blocks"


def options(config: Config) -> JsonObject:
    """Our options."""
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    i2v.check(config)
    return {
        "patch_size": (config["patch_size_t"], config["patch_size"], config["patch_size"]),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "text_dim": config["text_embed_dim"],
        "ffn_dim": int(config["mlp_ratio"] * heads * head_dim),
        "num_layers": config["num_layers"],
        "num_single_layers": config["num_single_layers"],
        "num_refiner_layers": config["num_refiner_layers"],
        "block": "joint",
        "qk_norm": config["qk_norm"],
        "text_embedding": "refiner",
        "final_layer": "linear",
        "pooled_dim": config["pooled_projection_dim"],
        "guidance_embeds": config["guidance_embeds"],
        "rope_axes": tuple(config["rope_axes_dim"]),
        "rope_theta": config["rope_theta"],
        **i2v.options(config),
    }


_SINGLE, _TIME = "single_transformer_blocks.{n}", "time_text_embed"

ORIGINAL = Original(
    rules=(
        Rule("x_embedder.{rest}", "img_in.{rest}"),
        *original_layouts.embedder(f"{_TIME}.timestep_embedder", "time_in"),
        *original_layouts.embedder(f"{_TIME}.guidance_embedder", "guidance_in"),
        Rule(f"{_TIME}.text_embedder.linear_1.{{rest}}", "vector_in.in_layer.{rest}"),
        Rule(f"{_TIME}.text_embedder.linear_2.{{rest}}", "vector_in.out_layer.{rest}"),
        *original_layouts.HUNYUAN_REFINER,
        *original_layouts.HUNYUAN_DOUBLE,
        Rule(f"{_SINGLE}.norm.linear.{{rest}}", "single_blocks.{n}.modulation.linear.{rest}"),
        *ORIGINAL_MMDIT,
    ),
    whole=original_layouts.HUNYUAN_NORMS,
    respelled=original_layouts.HUNYUAN_IN_COMFYUI,
)

SAMPLING = Sampling(
    text=TextSpec(
        max_length=256, padding="max_length", hidden_layer=-3, template=_template, template_tokens=_TEMPLATE_TOKENS
    ),
    vae="AutoencoderKLHunyuanVideo",
    defaults=always(720, 1280, 129, 24.0, 50, 6.0),
    guided=False,
    sigmas="to_zero",
    pooled_component="text_encoder_2",
    by_config=i2v.text_alone,
)

FAMILY = Family(
    name="hunyuan_video",
    title="HunyuanVideo",
    class_name="HunyuanVideoTransformer3DModel",
    objective="flow",
    options=options,
    rules=(
        Rule("patch_embed.weight", "x_embedder.proj.weight", CONV3D),
        Rule("patch_embed.bias", "x_embedder.proj.bias"),
        Rule("text_embedder.time_embedder.{rest}", "context_embedder.time_text_embed.timestep_embedder.{rest}"),
        Rule("text_embedder.pooled_embedder.{rest}", "context_embedder.time_text_embed.text_embedder.{rest}"),
        Rule("text_embedder.proj_in.{rest}", "context_embedder.proj_in.{rest}"),
        Rule("text_embedder.blocks.{n}.modulation.{rest}", f"{_REFINER}.{{n}}.norm_out.linear.{{rest}}"),
        *block_rules("text_embedder.blocks.{n}", f"{_REFINER}.{{n}}"),
        *MMDIT,
    ),
    original=ORIGINAL,
    config_from_shapes=config_from_shapes.hunyuan_video,
    sampling={
        "HunyuanVideoPipeline": SAMPLING,
        "HunyuanVideoImageToVideoPipeline": i2v.sampling(SAMPLING),
    },
    published={
        "HunyuanVideo": Published(
            "hunyuanvideo-community/HunyuanVideo",
            {},
            12_821_012_544,
            LLAMA_3_8B + CLIP_L + HUNYUAN_VAE,
            i2v.LICENCE,
        ),
        **i2v.PUBLISHED,
    },
)
