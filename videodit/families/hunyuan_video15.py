"""HunyuanVideo-1.5 (Tencent Hunyuan, "HunyuanVideo 1.5 Technical Report", 2025)."""

from __future__ import annotations

from videodit.families import config_from_shapes, hunyuan_video15_sampling, original_layouts
from videodit.families.base import CONV3D, FIRST, MMDIT, Family, Published, Rule, block_rules
from videodit.families.hunyuan_video_i2v import LICENCE
from videodit.families.sizes import GLYPH_BYT5, HUNYUAN_15_VAE, QWEN_2_5_TEXT_7B, SIGLIP_VISION
from videodit.json_types import Config, JsonObject

_REFINER = "context_embedder.token_refiner.refiner_blocks"
_TIME = "context_embedder.time_text_embed"


def options(config: Config) -> JsonObject:
    """Our options. Each text token has a channel more than theirs, which says which encoder it is of."""
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    return {
        "patch_size": (config["patch_size_t"], config["patch_size"], config["patch_size"]),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"] or config["in_channels"],
        "text_dim": config["text_embed_dim"] + 1,
        "image_dim": config["image_embed_dim"],
        "ffn_dim": int(config["mlp_ratio"] * heads * head_dim),
        "num_layers": config["num_layers"],
        "num_refiner_layers": config["num_refiner_layers"],
        "block": "joint",
        "qk_norm": config["qk_norm"],
        "text_embedding": "sources",
        "final_layer": "linear",
        "rope_axes": tuple(config["rope_axes_dim"]),
        "rope_theta": float(config["rope_theta"]),
        "block_options": {
            "second_text_dim": config["text_embed_2_dim"],
            **({"target_time": True} if config["use_meanflow"] else {}),
        },
    }


_ENCODERS = QWEN_2_5_TEXT_7B + GLYPH_BYT5 + HUNYUAN_15_VAE
_CHECKPOINTS: dict[str, tuple[str, JsonObject]] = {
    "T2V 480p": ("480p_t2v", {"task_type": "t2v"}),
    "T2V 720p": ("720p_t2v", {"task_type": "t2v", "target_size": 960}),
    "I2V 480p": ("480p_i2v", {}),
    "I2V 720p": ("720p_i2v", {"target_size": 960}),
    "I2V 480p step-distilled": ("480p_i2v_step_distilled", {"use_meanflow": True}),
}
"""What their configs say beyond the class defaults. Those that were distilled from guidance alone say the same."""

FAMILY = Family(
    name="hunyuan_video15",
    title="HunyuanVideo-1.5",
    class_name="HunyuanVideo15Transformer3DModel",
    objective="flow",
    options=options,
    rules=(
        Rule("patch_embed.weight", "x_embedder.proj.weight", CONV3D),
        Rule("patch_embed.bias", "x_embedder.proj.bias"),
        Rule("image_embedder.norm1.{rest}", "image_embedder.norm_in.{rest}"),
        Rule("image_embedder.ff.net.0.proj.{rest}", "image_embedder.linear_1.{rest}"),
        Rule("image_embedder.ff.net.2.{rest}", "image_embedder.linear_2.{rest}"),
        Rule("image_embedder.norm2.{rest}", "image_embedder.norm_out.{rest}"),
        Rule("time_embedder.{rest}", "time_embed.timestep_embedder.{rest}"),
        Rule("target_time_embedder.{rest}", "time_embed.timestep_embedder_r.{rest}"),
        Rule("text_embedder.time_embedder.{rest}", f"{_TIME}.timestep_embedder.{{rest}}"),
        Rule("text_embedder.pooled_embedder.{rest}", f"{_TIME}.text_embedder.{{rest}}"),
        Rule("text_embedder.proj_in.{rest}", "context_embedder.proj_in.{rest}"),
        Rule("text_embedder.blocks.{n}.modulation.{rest}", f"{_REFINER}.{{n}}.norm_out.linear.{{rest}}"),
        *block_rules("text_embedder.blocks.{n}", f"{_REFINER}.{{n}}"),
        Rule("text_embedder.second.{rest}", "context_embedder_2.{rest}"),
        Rule("text_embedder.source_embedding", "cond_type_embed.weight"),
        *MMDIT,
    ),
    original=original_layouts.HUNYUAN_15,
    config_from_shapes=config_from_shapes.hunyuan_video15,
    sampling={
        "HunyuanVideo15Pipeline": hunyuan_video15_sampling.OF_TEXT,
        "HunyuanVideo15ImageToVideoPipeline": hunyuan_video15_sampling.OF_PICTURES,
    },
    published={
        f"HunyuanVideo-1.5 {title}": Published(
            f"hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-{name}",
            config,
            8_331_330_848 if "use_meanflow" in config else 8_326_608_160,
            _ENCODERS + (0 if "task_type" in config else SIGLIP_VISION),
            LICENCE,
            "text" if "task_type" in config else FIRST,
        )
        for title, (name, config) in _CHECKPOINTS.items()
    },
)
