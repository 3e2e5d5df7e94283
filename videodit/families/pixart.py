"""PixArt-α and PixArt-Σ, text to image: a clip of one frame (Chen et al., 2023 and 2024)."""

from __future__ import annotations

from videodit.errors import InputError
from videodit.families import config_from_shapes, original_layouts
from videodit.families.base import ADALN_SINGLE, OUTPUT, Family, Published, block_rules
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import IMAGE_VAE, T5_XXL
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec

REQUIRED = {
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}
_PIXELS_PER_LATENT = 8


def shared_options(config: Config) -> JsonObject:
    """What Latte and Allegro have in common with PixArt."""
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    if config["cross_attention_dim"] != heads * head_dim:
        raise InputError(f"cross_attention_dim is {config['cross_attention_dim']}; it must be {heads * head_dim}")
    return {
        "patch_size": (1, config["patch_size"], config["patch_size"]),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "text_dim": config["caption_channels"],
        "ffn_dim": 4 * heads * head_dim,
        "num_layers": config["num_layers"],
        "cross_attn_norm": False,
        "qk_norm": None,
        "eps": config["norm_eps"],
    }


def image_positions(config: Config, interpolation_scale: float) -> JsonObject:
    """Sine-cosine positions, stretched so that every size ends where the trained one does."""
    base = config["sample_size"] // config["patch_size"] / interpolation_scale
    return {"rope": None, "position_embedding": "sincos_2d", "position_base": (base, base)}


def options(config: Config) -> JsonObject:
    """Our options."""
    scale = config["interpolation_scale"]
    if scale is None:
        scale = max(config["sample_size"] // 64, 1)
    sized = config["use_additional_conditions"]
    if sized is None:
        sized = config["sample_size"] == 128
    return (
        shared_options(config)
        | image_positions(config, scale)
        | {"size_condition_stride": _PIXELS_PER_LATENT if sized else None}
    )


def _defaults(config: Config) -> JsonObject:
    side = _PIXELS_PER_LATENT * config["family_config"].get("sample_size", 128)
    return always(side, side, 1, 1.0, 20, 4.5)(config)


def _sampling(tokens: int) -> Sampling:
    return Sampling(
        text=TextSpec(max_length=tokens, padding="max_length", clean="lower"),
        vae="AutoencoderKL",
        defaults=_defaults,
        images=True,
    )


_T5 = {"caption_channels": 4096}
_SIGMA = _T5 | {"use_additional_conditions": False}

FAMILY = Family(
    name="pixart",
    title="PixArt",
    class_name="PixArtTransformer2DModel",
    objective="epsilon",
    options=options,
    original=original_layouts.PIXART,
    config_from_shapes=config_from_shapes.pixart,
    rules=(*ADALN_SINGLE, *block_rules("blocks.{n}", "transformer_blocks.{n}"), *OUTPUT),
    required=REQUIRED,
    aliases=("Transformer2DModel",),
    # A config of PixArt-Σ leaves it out, and its size would switch it on.
    settled_by_weights=lambda names: {"use_additional_conditions": any("resolution_embedder" in n for n in names)},
    sampling={"PixArtSigmaPipeline": _sampling(300), "PixArtAlphaPipeline": _sampling(120)},
    published={
        "PixArt-Σ XL 1024": Published(
            "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", _SIGMA, 610_856_096, T5_XXL + IMAGE_VAE, makes="pictures"
        ),
        "PixArt-α XL 512": Published(
            "PixArt-alpha/PixArt-XL-2-512x512",
            _T5 | {"sample_size": 64},
            610_856_096,
            T5_XXL + IMAGE_VAE,
            makes="pictures",
        ),
        "PixArt-α XL 1024": Published(
            "PixArt-alpha/PixArt-XL-2-1024-MS", _T5, 611_349_152, T5_XXL + IMAGE_VAE, makes="pictures"
        ),
    },
)
