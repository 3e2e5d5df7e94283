"""diffusers' configs from the shapes of tensors, for files that hold weights and nothing else.

What shapes do not tell is that of the published models: the size of a head where no norm has it, and what the class
takes by default. Each function raises ``KeyError``, ``IndexError`` or ``ValueError`` for another network's tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from videodit.families.base import count_blocks
from videodit.json_types import JsonObject

Shapes = Mapping[str, list[int]]

_JOINT, _SINGLE = "transformer_blocks", "single_transformer_blocks"
_WAN_HEAD, _LTX_HEADS, _PIXART_HEADS, _ALLEGRO_HEADS = 128, 32, 16, 24  # of every published one
_2B_HEADS = 30  # of the one CogVideoX whose positions are not rotary
_OF_1_5 = {
    "patch_size_t": 2,
    "sample_frames": 81,
    "sample_height": 300,
    "sample_width": 300,
    "patch_bias": False,
}


def _out(shapes: Shapes, *patch: int) -> int:
    """Channels of the final projection."""
    return shapes["proj_out.weight"][0] // prod(patch)


def _axes(head_dim: int) -> tuple[int, int, int]:
    """How a head is divided between time and the two axes of space."""
    side = 2 * (head_dim * 7 // 32)
    return head_dim - 2 * side, side, side


def wan(shapes: Shapes) -> JsonObject:
    """Of Wan, and of whatever has its tensors."""
    dim, channels, *patch = shapes["patch_embedding.weight"]
    image = shapes.get("condition_embedder.image_embedder.norm1.weight", [None])[0]
    positions = shapes.get("condition_embedder.image_embedder.pos_embed")
    head_dim = min(_WAN_HEAD, dim)
    steered: JsonObject = {"add_control_adapter": True} if "control_adapter.conv.weight" in shapes else {}
    if (lead := shapes.get("ref_conv.weight")) is not None:
        steered |= {"add_ref_conv": True, "in_dim_ref_conv": lead[1]}
    return steered | {
        "patch_size": tuple(patch),
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "in_channels": channels,
        "out_channels": _out(shapes, *patch),
        "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
        "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
        "num_layers": count_blocks(shapes, "blocks"),
        "image_dim": image,
        "added_kv_proj_dim": None if image is None else dim,
        "pos_embed_seq_len": None if positions is None else positions[1],
    }


def skyreels(shapes: Shapes) -> JsonObject:
    """Of a SkyReels-V2 that is told the rate; the others have Wan's tensors, and load as Wan."""
    if "fps_embedding.weight" not in shapes:
        raise KeyError("fps_embedding.weight")
    return wan(shapes) | {"inject_sample_info": True}


def ltx(shapes: Shapes) -> JsonObject:
    """Of LTX-Video 0.9."""
    dim, channels = shapes["proj_in.weight"]
    return {
        "in_channels": channels,
        "out_channels": _out(shapes),
        "num_attention_heads": _LTX_HEADS,
        "attention_head_dim": dim // _LTX_HEADS,
        "cross_attention_dim": dim,
        "num_layers": count_blocks(shapes, _JOINT),
        "caption_channels": shapes["caption_projection.linear_1.weight"][1],
    }


def _of_flux(shapes: Shapes) -> JsonObject:
    """What FLUX.1, FLUX.2 and LongCat-Image have alike."""
    dim, channels = shapes["x_embedder.weight"]
    (head_dim,) = shapes[f"{_JOINT}.0.attn.norm_q.weight"]
    out = _out(shapes)
    return {
        "in_channels": channels,
        "out_channels": None if out == channels else out,
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": count_blocks(shapes, _JOINT),
        "num_single_layers": count_blocks(shapes, _SINGLE),
        "joint_attention_dim": shapes["context_embedder.weight"][1],
    }


def flux(shapes: Shapes) -> JsonObject:
    """Of FLUX.1."""
    alike = _of_flux(shapes)
    return alike | {
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        "axes_dims_rope": _axes(alike["attention_head_dim"]),
    }


def longcat_image(shapes: Shapes) -> JsonObject:
    """Of LongCat-Image."""
    alike = _of_flux(shapes)
    if "time_embed.timestep_embedder.linear_1.weight" not in shapes or alike.pop("out_channels") is not None:
        raise KeyError("time_embed.timestep_embedder.linear_1.weight")
    return alike | {"axes_dims_rope": _axes(alike["attention_head_dim"])}


def z_image(shapes: Shapes) -> JsonObject:
    """Of Z-Image; a head is divided as that of the published one."""
    dim, columns = shapes["all_x_embedder.2-1.weight"]
    (head_dim,) = shapes["layers.0.attention.norm_q.weight"]
    side = 2 * (head_dim * 3 // 16)
    return {
        "in_channels": columns // 4,
        "dim": dim,
        "n_heads": dim // head_dim,
        "n_kv_heads": dim // head_dim,
        "n_layers": count_blocks(shapes, "layers"),
        "n_refiner_layers": count_blocks(shapes, "noise_refiner"),
        "cap_feat_dim": shapes["cap_embedder.1.weight"][1],
        "axes_dims": [head_dim - 2 * side, side, side],
    }


def flux2(shapes: Shapes) -> JsonObject:
    """Of FLUX.2; a head is divided evenly between its four axes."""
    alike = _of_flux(shapes)
    return alike | {
        "timestep_guidance_channels": shapes["time_guidance_embed.timestep_embedder.linear_1.weight"][1],
        "mlp_ratio": shapes[f"{_JOINT}.0.ff.linear_out.weight"][1] / shapes["x_embedder.weight"][0],
        "axes_dims_rope": (alike["attention_head_dim"] // 4,) * 4,
        "guidance_embeds": "time_guidance_embed.guidance_embedder.linear_1.weight" in shapes,
    }


def qwen_image(shapes: Shapes) -> JsonObject:
    """Of Qwen-Image."""
    dim, channels = shapes["img_in.weight"]
    (head_dim,) = shapes[f"{_JOINT}.0.attn.norm_q.weight"]
    patch = 2
    return {
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": _out(shapes, patch, patch),
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": count_blocks(shapes, _JOINT),
        "joint_attention_dim": shapes["txt_norm.weight"][0],
        "axes_dims_rope": _axes(head_dim),
    }


def _of_hunyuan(shapes: Shapes) -> JsonObject:
    """What HunyuanVideo and 1.5 have alike."""
    dim, channels, *patch = shapes["x_embedder.proj.weight"]
    (head_dim,) = shapes[f"{_JOINT}.0.attn.norm_q.weight"]
    return {
        "in_channels": channels,
        "out_channels": _out(shapes, *patch),
        "patch_size_t": patch[0],
        "patch_size": patch[1],
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": count_blocks(shapes, _JOINT),
        "num_refiner_layers": count_blocks(shapes, "context_embedder.token_refiner.refiner_blocks"),
        "mlp_ratio": shapes[f"{_JOINT}.0.ff.net.0.proj.weight"][0] / dim,
        "text_embed_dim": shapes["context_embedder.proj_in.weight"][1],
        "rope_axes_dim": _axes(head_dim),
    }


def hunyuan_video(shapes: Shapes) -> JsonObject:
    """Of HunyuanVideo; where it keeps a picture clean among the latents, no shape tells it."""
    alike = _of_hunyuan(shapes)
    return alike | {
        "num_single_layers": count_blocks(shapes, _SINGLE),
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        "image_condition_type": "latent_concat" if alike["in_channels"] == 2 * alike["out_channels"] + 1 else None,
    }


def hunyuan_video15(shapes: Shapes) -> JsonObject:
    """Of HunyuanVideo-1.5; whether it starts from a picture no shape tells."""
    return _of_hunyuan(shapes) | {
        "text_embed_2_dim": shapes["context_embedder_2.norm.weight"][0],
        "image_embed_dim": shapes["image_embedder.norm_in.weight"][0],
        "use_meanflow": "time_embed.timestep_embedder_r.linear_1.weight" in shapes,
    }


def cogvideox(shapes: Shapes) -> JsonObject:
    """Of CogVideoX 1.0 and 1.5."""
    dim, columns, *patch = shapes["patch_embed.proj.weight"]
    (head_dim,) = shapes[f"{_JOINT}.0.attn1.norm_q.weight"]
    constant = shapes.get("ofs_embedding.linear_1.weight")
    side, frames = (patch[0], 1) if patch else (2, 2)
    return {
        "in_channels": columns if patch else columns // (frames * side * side),
        "out_channels": _out(shapes, frames, side, side),
        "patch_size": side,
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": count_blocks(shapes, _JOINT),
        "time_embed_dim": shapes["time_embedding.linear_1.weight"][0],
        "text_embed_dim": shapes["patch_embed.text_proj.weight"][1],
        "use_rotary_positional_embeddings": dim // head_dim != _2B_HEADS,
        "use_learned_positional_embeddings": "patch_embed.pos_embedding" in shapes,
        "ofs_embed_dim": None if constant is None else constant[1],
        **({} if patch else _OF_1_5),
    }


def mochi(shapes: Shapes) -> JsonObject:
    """Of Mochi 1."""
    dim, channels, patch, _ = shapes["patch_embed.proj.weight"]
    (head_dim,) = shapes[f"{_JOINT}.0.attn1.norm_q.weight"]
    pooled, text = shapes["time_embed.caption_proj.weight"]
    return {
        "in_channels": channels,
        "out_channels": _out(shapes, patch, patch),
        "patch_size": patch,
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": count_blocks(shapes, _JOINT),
        "pooled_projection_dim": pooled,
        "text_embed_dim": text,
        "time_embed_dim": shapes["time_embed.timestep_embedder.linear_1.weight"][1],
    }


def _with_captions(shapes: Shapes, heads: int) -> JsonObject:
    """What PixArt, Latte and Allegro have alike."""
    dim, channels, patch, _ = shapes["pos_embed.proj.weight"]
    return {
        "in_channels": channels,
        "out_channels": _out(shapes, patch, patch),
        "patch_size": patch,
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "cross_attention_dim": dim,
        "caption_channels": shapes["caption_projection.linear_1.weight"][1],
        "num_layers": count_blocks(shapes, _JOINT),
    }


def pixart(shapes: Shapes) -> JsonObject:
    """Of PixArt; how far its positions are stretched no shape tells."""
    sized = "adaln_single.emb.resolution_embedder.linear_1.weight" in shapes
    if f"{_JOINT}.0.attn1.to_q.weight" not in shapes or "temporal_transformer_blocks.0.scale_shift_table" in shapes:
        raise KeyError(f"{_JOINT}.0.attn1.to_q.weight")
    return _with_captions(shapes, _PIXART_HEADS) | {"use_additional_conditions": sized}


def latte(shapes: Shapes) -> JsonObject:
    """Of Latte-1."""
    if "temporal_transformer_blocks.0.scale_shift_table" not in shapes:
        raise KeyError("temporal_transformer_blocks.0.scale_shift_table")
    return _with_captions(shapes, _PIXART_HEADS) | {
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "num_embeds_ada_norm": 1000,
    }


def allegro(shapes: Shapes) -> JsonObject:
    """Of Allegro."""
    return _with_captions(shapes, _ALLEGRO_HEADS)
