"""FLUX.2: a picture from a text, and from other pictures: a clip of one frame (Black Forest Labs, "FLUX.2", 2025)."""

from __future__ import annotations

from typing import Any

from videodit.control.reference_rules import ReferenceRules
from videodit.errors import InputError
from videodit.families import config_from_shapes, flux_original
from videodit.families.base import ITS_CARD, SWAP_HALVES, Family, Published, Rule, Tensors, Transform
from videodit.families.sampling import Sampling
from videodit.families.sizes import FLUX2_VAE, MISTRAL_3_SMALL, QWEN_3_4B, QWEN_3_8B
from videodit.json_types import Config, JsonObject
from videodit.text_spec import Chat, TextSpec


def options(config: Config) -> JsonObject:
    """Our options. Their pipeline packs 2×2 latents into channels; here the autoencoder's record says so."""
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    if len(config["axes_dims_rope"]) != 4:
        raise InputError(f"FLUX.2: axes_dims_rope is {config['axes_dims_rope']}; it must be four numbers")
    return {
        "patch_size": (1, 1, 1),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"] or config["in_channels"],
        "text_dim": config["joint_attention_dim"],
        "freq_dim": config["timestep_guidance_channels"],
        "ffn_dim": int(config["mlp_ratio"] * heads * head_dim),
        "num_layers": config["num_layers"],
        "num_single_layers": config["num_single_layers"],
        "block": "shared_joint",
        "qk_norm": "rms_norm",
        "eps": config["eps"],
        "text_embedding": "linear",
        "final_layer": "linear",
        "guidance_embeds": config["guidance_embeds"],
        "rope": "text_axis",
        "rope_axes": tuple(config["axes_dims_rope"]),
        "rope_theta": float(config["rope_theta"]),
    }


def _split(x: Tensors, config: Config) -> Tensors:
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    *qkv, gated = x[0].split([dim, dim, dim, len(x[0]) - 3 * dim])
    return [*qkv, *SWAP_HALVES.load([gated], config)]


def _join(x: Tensors, config: Config) -> Tensors:
    import torch

    *qkv, gated = x
    return [torch.cat([*qkv, *SWAP_HALVES.save([gated], config)])]


FUSED = Transform(_split, _join, rows=True)
"""Queries, keys, values, and gate and value of the MLP in one layer; here the MLP has its value first."""


def _messages(prompt: str) -> list[dict[str, Any]]:
    """The conversation that FLUX.2 dev reads a prompt in; diffusers has it, and its weights know no other."""
    from videodit._diffusers import format_input

    (messages,) = format_input([prompt])
    return list(messages)


_DEV = Chat(messages=_messages)
_KLEIN = Chat(options={"add_generation_prompt": True, "enable_thinking": False})


def _defaults(config: Config) -> JsonObject:
    distilled = bool(config.get("is_distilled"))
    return {
        "height": 1024,
        "width": 1024,
        "num_frames": 1,
        "fps": 1.0,
        "num_inference_steps": 4 if distilled else 50,
        "guidance_scale": 1.0 if distilled else 4.0,
    }


REFERENCES = ReferenceRules("apart", largest=1024 * 1024, smallest=64, longest=8)
"""Larger pictures are made smaller, and their sides cut to whole tokens (diffusers: pipeline_flux2)."""


def _sampling(chat: Chat, layers: tuple[int, ...], **more: Any) -> Sampling:
    return Sampling(
        text=TextSpec(max_length=512, padding="max_length", model_mask=False, hidden_layer=layers, chat=chat),
        vae="AutoencoderKLFlux2",
        defaults=_defaults,
        images=True,
        sigmas="to_last_step",
        shift="by_steps",
        references=REFERENCES,
        **more,
    )


_TIME, _DOUBLE = "time_guidance_embed", "transformer_blocks.{n}"
_SHARED = (("video", "double_stream_modulation_img"), ("text", "double_stream_modulation_txt"))
_S = "single_transformer_blocks.{s}"
_KLEIN_OF = {"guidance_embeds": False, "num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32}
_KLEIN_9B = {**_KLEIN_OF, "joint_attention_dim": 12288}
_KLEIN_4B = {**_KLEIN_OF, "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24} | {
    "joint_attention_dim": 7680
}

FAMILY = Family(
    name="flux2",
    title="FLUX.2",
    class_name="Flux2Transformer2DModel",
    objective="flow",
    options=options,
    rules=(
        Rule("patch_embed.{rest}", "x_embedder.{rest}"),
        Rule("text_embedder.{rest}", "context_embedder.{rest}"),
        Rule("time_embedder.{rest}", f"{_TIME}.timestep_embedder.{{rest}}"),
        Rule("guidance_embedder.{rest}", f"{_TIME}.guidance_embedder.{{rest}}"),
        *(Rule(f"time_proj.{ours}.{{rest}}", f"{theirs}.linear.{{rest}}") for ours, theirs in _SHARED),
        Rule("time_proj.single.{rest}", "single_stream_modulation.linear.{rest}"),
        Rule("blocks.{n}.ffn.net.0.proj.weight", "transformer_blocks.{n}.ff.linear_in.weight", SWAP_HALVES),
        Rule("blocks.{n}.ffn.net.2.{rest}", "transformer_blocks.{n}.ff.linear_out.{rest}"),
        Rule("blocks.{n}.text_ffn.net.0.proj.weight", f"{_DOUBLE}.ff_context.linear_in.weight", SWAP_HALVES),
        Rule("blocks.{n}.text_ffn.net.2.{rest}", f"{_DOUBLE}.ff_context.linear_out.{{rest}}"),
        Rule("blocks.{n}.{rest}", "transformer_blocks.{n}.{rest}"),
        Rule(
            (*(f"blocks.{{s}}.attn.to_{x}.weight" for x in "qkv"), "blocks.{s}.proj_mlp.weight"),
            f"{_S}.attn.to_qkv_mlp_proj.weight",
            FUSED,
        ),
        Rule("blocks.{s}.proj_out.{rest}", f"{_S}.attn.to_out.{{rest}}"),
        Rule("blocks.{s}.{rest}", f"{_S}.{{rest}}"),
        Rule("final_modulation.weight", "norm_out.linear.weight", SWAP_HALVES),
        Rule("proj_out.{rest}", "proj_out.{rest}"),
    ),
    original=flux_original.FLUX2,
    config_from_shapes=config_from_shapes.flux2,
    sampling={
        "Flux2Pipeline": _sampling(_DEV, (10, 20, 30), guided=False),
        "Flux2KleinPipeline": _sampling(
            _KLEIN, (9, 18, 27), by_config=lambda config: {"guided": False} if config.get("is_distilled") else {}
        ),
    },
    required={"patch_size": 1},
    published={
        title: Published(
            f"black-forest-labs/{title.replace(' ', '-')}",
            config,
            count,
            companions,
            ITS_CARD,
            "text, maybe pictures",
            makes="pictures",
        )
        for title, config, count, companions in (
            ("FLUX.2 dev", {}, 32_223_281_152, MISTRAL_3_SMALL + FLUX2_VAE),
            ("FLUX.2 klein 9B", _KLEIN_9B, 9_078_581_248, QWEN_3_8B + FLUX2_VAE),
            ("FLUX.2 klein 4B", _KLEIN_4B, 3_875_544_576, QWEN_3_4B + FLUX2_VAE),
        )
    },
)
