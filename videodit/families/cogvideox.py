"""CogVideoX 1.0 and 1.5 (Yang et al., "CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer", 2024)."""

from __future__ import annotations

from dataclasses import replace

from einops import rearrange

from videodit.families import cogvideox_1_5 as of_1_5
from videodit.families import config_from_shapes, original_layouts
from videodit.families.base import (
    APACHE,
    CHANNEL_FIRST,
    FIRST,
    Family,
    Published,
    Rule,
    Tensors,
    Transform,
    block_rules,
)
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import COGVIDEOX_VAE, T5_XXL
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec


def _by_stream(x: Tensors, _: Config) -> Tensors:
    """From one layer a norm, each with the video's (shift, scale, gate) and the text's, to one layer a stream."""
    (video1, text1), (video2, text2) = (layer.chunk(2) for layer in x)
    return [rearrange(list(pair), "layer rows ... -> (layer rows) ...") for pair in ((video1, video2), (text1, text2))]


REGROUP = Transform(_by_stream, _by_stream, rows=True)  # a transposition of a 2×2 grid undoes itself


def options(config: Config) -> JsonObject:
    """Our options."""
    heads, head_dim, patch = (config[k] for k in ("num_attention_heads", "attention_head_dim", "patch_size"))
    rows, columns = config["sample_height"] // patch, config["sample_width"] // patch
    of_1_5.check(config)
    frames = config["patch_size_t"]
    positions: JsonObject
    if config["use_rotary_positional_embeddings"]:
        side = head_dim // 8 * 3
        positions = {"rope_axes": (head_dim // 4, side, side)}
        if frames is None:  # 1.5 counts tokens as they are
            positions["position_base"] = (rows, columns)
    else:
        space = 1 / config["spatial_interpolation_scale"]
        positions = {
            "rope": None,
            "position_embedding": "sincos_3d",
            "position_scale": (1 / config["temporal_interpolation_scale"], space, space),
        }
    if config["use_learned_positional_embeddings"]:
        length = (config["sample_frames"] - 1) // config["temporal_compression_ratio"] + 1
        positions |= {
            "position_embedding": "learned",
            "learned_grid": (length, rows, columns),
            "learned_text": config["max_text_seq_length"],
        }
    return {
        "patch_size": (frames or 1, patch, patch),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "text_dim": config["text_embed_dim"],
        "freq_dim": heads * head_dim,
        "time_embed_dim": config["time_embed_dim"],
        "ffn_dim": 4 * heads * head_dim,
        "num_layers": config["num_layers"],
        "block": "tied_joint",
        "qk_norm": "layer_norm",
        "qk_norm_eps": 1e-6,
        "eps": config["norm_eps"],
        "norm_affine": config["norm_elementwise_affine"],
        "text_embedding": "linear",
        "final_layer": "linear",
        "final_layer_norm": True,
        **positions,
        **of_1_5.constant(config),
    }


_LARGE = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}

_DEFAULTS = always(480, 720, 49, 8.0, 50, 6.0)

_SAMPLING = Sampling(
    text=TextSpec(max_length=226, padding="max_length", encoder_mask=False, model_mask=False),
    vae="AutoencoderKLCogVideoX",
    defaults=lambda config: (of_1_5.DEFAULTS if config["patch_size"][0] > 1 else _DEFAULTS)(config),
    frames_first=True,
    in_front="whole_patches",
)

_LICENCE = "CogVideoX License"

FAMILY = Family(
    name="cogvideox",
    title="CogVideoX",
    class_name="CogVideoXTransformer3DModel",
    objective="v",
    options=options,
    original=original_layouts.COGVIDEOX,
    config_from_shapes=config_from_shapes.cogvideox,
    rules=(
        Rule("patch_embed.weight", "patch_embed.proj.weight", of_1_5.PATCHES),
        Rule("patch_embed.bias", "patch_embed.proj.bias"),
        Rule("learned_positions", "patch_embed.pos_embedding"),
        Rule("text_embedder.{rest}", "patch_embed.text_proj.{rest}"),
        Rule("time_embedder.{rest}", "time_embedding.{rest}"),
        Rule("constant_embedder.{rest}", "ofs_embedding.{rest}"),
        Rule(
            ("blocks.{n}.modulation.{rest}", "blocks.{n}.text_modulation.{rest}"),
            ("transformer_blocks.{n}.norm1.linear.{rest}", "transformer_blocks.{n}.norm2.linear.{rest}"),
            REGROUP,
        ),
        Rule("blocks.{n}.norm1.{rest}", "transformer_blocks.{n}.norm1.norm.{rest}"),
        Rule("blocks.{n}.norm2.{rest}", "transformer_blocks.{n}.norm2.norm.{rest}"),
        Rule("blocks.{n}.attn.{rest}", "transformer_blocks.{n}.attn1.{rest}"),
        *block_rules("blocks.{n}", "transformer_blocks.{n}"),
        Rule("norm_final.{rest}", "norm_final.{rest}"),
        Rule("norm_out.{rest}", "norm_out.norm.{rest}"),
        Rule("final_modulation.{rest}", "norm_out.linear.{rest}"),
        Rule("proj_out.weight", "proj_out.weight", CHANNEL_FIRST),
        Rule("proj_out.bias", "proj_out.bias", CHANNEL_FIRST),
    ),
    sampling={
        "CogVideoXPipeline": _SAMPLING,
        "CogVideoXImageToVideoPipeline": replace(_SAMPLING, image_condition=("latents", "drawn_image")),
        "CogVideoXFunControlPipeline": replace(_SAMPLING, image_condition=("latents", "control")),
    },
    required={
        "attention_bias": True,
        "norm_elementwise_affine": True,
        "activation_fn": "gelu-approximate",
        "timestep_activation_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    },
    published={
        "CogVideoX 2B": Published("zai-org/CogVideoX-2b", {}, 1_693_783_872, T5_XXL + COGVIDEOX_VAE, APACHE),
        "CogVideoX 5B": Published("zai-org/CogVideoX-5b", _LARGE, 5_570_283_072, T5_XXL + COGVIDEOX_VAE, _LICENCE),
        "CogVideoX 5B I2V": Published(
            "zai-org/CogVideoX-5b-I2V",
            _LARGE | {"in_channels": 32, "use_learned_positional_embeddings": True},
            5_570_479_680,
            T5_XXL + COGVIDEOX_VAE,
            _LICENCE,
            FIRST,
        ),
        **of_1_5.published(_LARGE, _LICENCE),
    },
)
