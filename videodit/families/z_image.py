"""Z-Image and Z-Image-Turbo, text to image: a clip of one frame (Tongyi-MAI, "Z-Image", 2025).

Both have the same configs, so that nothing tells a folder of Turbo, which was distilled to few steps without guidance.
"""

from __future__ import annotations

from einops import rearrange

from videodit.errors import InputError
from videodit.families import config_from_shapes
from videodit.families.base import Family, Original, Published, Rule, Tensors, Transform
from videodit.families.mochi import NEGATED
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import FLUX_VAE, QWEN_3_4B
from videodit.json_types import Config, JsonObject
from videodit.text_spec import Chat, TextSpec

_FILL_TO = 32
"""Tokens of text and picture are filled up to multiples of so many (diffusers: SEQ_MULTI_OF)."""
_CONDITION, _TIME_HIDDEN = 256, 1024
"""Widths of the condition and of its hidden layer (diffusers: ADALN_EMBED_DIM, TimestepEmbedder)."""


def options(config: Config) -> JsonObject:
    """Our options. It predicts the way from noise to clean, and counts time that way."""
    patches = list(zip(config["all_f_patch_size"], config["all_patch_size"], strict=True))
    if patches != [(1, 2)]:
        raise InputError(
            f"Z-Image: all_f_patch_size and all_patch_size are {config['all_f_patch_size']} and "
            f"{config['all_patch_size']}; valid values are [1] and [2]"
        )
    dim, heads = config["dim"], config["n_heads"]
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": config["in_channels"],
        "text_dim": config["cap_feat_dim"],
        "ffn_dim": int(dim / 3 * 8),
        "num_layers": config["n_refiner_layers"],
        "num_single_layers": config["n_layers"],
        "block": "tied_sandwich",
        "block_norm": "rms_norm",
        "eps": config["norm_eps"],
        "qk_norm": "rms_norm",
        "qk_norm_eps": 1e-5,
        "text_embedding": "filled",
        "num_refiner_layers": config["n_refiner_layers"],
        "time_embed_dim": min(dim, _CONDITION),
        "final_layer": "scale",
        "rope": "text_first",
        "rope_axes": tuple(config["axes_dims"]),
        "rope_theta": float(config["rope_theta"]),
        "block_options": {"fill_to": _FILL_TO, "reversed_time": True, "time_hidden": _TIME_HIDDEN},
    }


def _channels_first(x: Tensors, _: Config) -> Tensors:
    return [rearrange(x[0], "d (p c) -> d (c p)", p=4)]


def _channels_last(x: Tensors, _: Config) -> Tensors:
    return [rearrange(x[0], "d (c p) -> d (p c)", p=4)]


PATCHES = Transform(_channels_first, _channels_last, columns=True)
"""Columns in the order place in the patch, channel; here the channel comes first."""


def _joined(x: Tensors, _: Config) -> Tensors:
    import torch

    return [torch.cat(x)]


VALUE_AND_GATE = Transform(_joined, lambda x, _: list(x[0].chunk(2)), rows=True)
"""Value and gate of the MLP, which are one layer here."""


def _block(ours: str, theirs: str) -> tuple[Rule, ...]:
    norms = (("norm1", "attention_norm1"), ("norm1_out", "attention_norm2"), ("norm2", "ffn_norm1"))
    return (
        *(Rule(f"{ours}.{a}.weight", f"{theirs}.{b}.weight") for a, b in (*norms, ("norm2_out", "ffn_norm2"))),
        Rule(f"{ours}.attn.{{rest}}", f"{theirs}.attention.{{rest}}"),
        Rule(
            f"{ours}.ffn.net.0.proj.weight",
            (f"{theirs}.feed_forward.w3.weight", f"{theirs}.feed_forward.w1.weight"),
            VALUE_AND_GATE,
        ),
        Rule(f"{ours}.ffn.net.2.weight", f"{theirs}.feed_forward.w2.weight"),
        Rule(f"{ours}.modulation.{{rest}}", f"{theirs}.adaLN_modulation.0.{{rest}}"),
    )


_BLOCKS = ("noise_refiner.{n}", "context_refiner.{n}", "layers.{n}")
_EMBEDDER, _FINAL = "all_x_embedder.2-1", "all_final_layer.2-1"

FAMILY = Family(
    name="z_image",
    title="Z-Image",
    class_name="ZImageTransformer2DModel",
    objective="flow",
    options=options,
    rules=(
        Rule("patch_embed.weight", f"{_EMBEDDER}.weight", PATCHES),
        Rule("patch_embed.bias", f"{_EMBEDDER}.bias"),
        Rule("fill.token", "x_pad_token"),
        Rule("text_embedder.token", "cap_pad_token"),
        Rule("text_embedder.norm.{rest}", "cap_embedder.0.{rest}"),
        Rule("text_embedder.proj.{rest}", "cap_embedder.1.{rest}"),
        Rule("time_embedder.linear_1.{rest}", "t_embedder.mlp.0.{rest}"),
        Rule("time_embedder.linear_2.{rest}", "t_embedder.mlp.2.{rest}"),
        *_block("text_embedder.blocks.{n}", "context_refiner.{n}"),
        *_block("blocks.{n}", "noise_refiner.{n}"),
        *_block("blocks.{s}", "layers.{s}"),
        Rule("final_modulation.{rest}", f"{_FINAL}.adaLN_modulation.1.{{rest}}"),
        Rule("proj_out.{rest}", f"{_FINAL}.linear.{{rest}}", NEGATED),
    ),
    original=Original(
        rules=(
            *(
                Rule(tuple(f"{block}.attention.to_{x}.weight" for x in "qkv"), f"{block}.attention.qkv.weight")
                for block in _BLOCKS
            ),
            *(Rule(f"{block}.attention.to_out.0.{{rest}}", f"{block}.attention.out.{{rest}}") for block in _BLOCKS),
            Rule(f"{_EMBEDDER}.{{rest}}", "x_embedder.{rest}"),
            Rule(f"{_FINAL}.{{rest}}", "final_layer.{rest}"),
        ),
        whole=tuple(
            Rule(f"{block}.attention.norm_{x}.weight", f"{block}.attention.{x}_norm.weight")
            for block in _BLOCKS
            for x in "qk"
        ),
        dropped=r"norm_final\.weight$",
    ),
    config_from_shapes=config_from_shapes.z_image,
    sampling={
        "ZImagePipeline": Sampling(
            text=TextSpec(
                max_length=512,
                hidden_layer=-2,
                chat=Chat(options={"add_generation_prompt": True, "enable_thinking": True}),
            ),
            vae="AutoencoderKL",
            defaults=always(1024, 1024, 1, 1.0, 50, 5.0),
            images=True,
            sigmas="to_last_step",
            guided_above=0.0,
        )
    },
    required={"siglip_feat_dim": None, "qk_norm": True, "t_scale": 1000.0},
    published={
        name: Published(f"Tongyi-MAI/{name}", {}, 6_154_908_736, QWEN_3_4B + FLUX_VAE, makes="pictures")
        for name in ("Z-Image", "Z-Image-Turbo")
    },
)
