"""Files of weights alone, as people share them: told by their tensors, read to the bit, or refused by name."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import PROMPT
from torch import Tensor

from videodit import VideoDiT, VideoDiTPipeline
from videodit.cli.main import main
from videodit.errors import InputError, ModelError
from videodit.families import FAMILIES
from videodit.families.base import PREFIXES
from videodit.families.parity import MEMBERS, Member, randomize
from videodit.media import read_recipe
from videodit.pipelines.single_files import complete
from videodit.pipelines.spec import ModelFolder

Tensors = dict[str, Tensor]

# What shapes do not tell is that of published models: heads of 128 channels (or a single one), or so many heads.
_ALONE = {"num_attention_heads": 1, "attention_head_dim": 32}
_SIZED: dict[str, dict[str, Any]] = {
    "wan": _ALONE,
    "wan-i2v": _ALONE,
    "wan-flf2v": _ALONE,
    "skyreels_v2-df": _ALONE,
    "ltx": {"num_attention_heads": 32, "attention_head_dim": 2, "cross_attention_dim": 64},
    "cogvideox-2b": {"num_attention_heads": 30, "attention_head_dim": 8},
    "cogvideox-5b": {},
    "cogvideox-1.5-5b": {},
    "cogvideox-1.5-5b-i2v": {},
    "hunyuan_video": {},
    "hunyuan_video-i2v-33ch": {},
    "latte": {"num_attention_heads": 16, "attention_head_dim": 4, "cross_attention_dim": 64},
    "allegro": {"num_attention_heads": 24, "attention_head_dim": 6, "cross_attention_dim": 144},
    "pixart-sigma": {"num_attention_heads": 16, "attention_head_dim": 4, "cross_attention_dim": 64},
    "pixart-alpha": {"num_attention_heads": 16, "attention_head_dim": 4, "cross_attention_dim": 64},
    "flux-dev": {},
    "flux-schnell": {},
    "mochi": {},
    "qwen_image": {},
    "flux2-dev": {},
    "flux2-klein": {},
    "longcat_image": {},
    "z_image": {},
    "hunyuan_video15": {},
    "hunyuan_video15-meanflow": {},
}


def made(name: str) -> tuple[Member, Any, VideoDiT]:
    """A member of a family whose config its tensors tell, diffusers' network and ours."""
    member = MEMBERS[name]
    member = Member(member.family, {**member.config, **_SIZED[name]}, member.call)
    theirs = randomize(getattr(diffusers, member.class_name)(**member.config))
    return member, theirs, member.ours(theirs)


def same(loaded: VideoDiT, expected: VideoDiT) -> None:
    weights = expected.state_dict()
    assert set(loaded.state_dict()) == set(weights)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, weights[key]), key


def saved(tensors: Tensors, path: Path, prefix: str = "", **metadata: str) -> Path:
    save_file({prefix + key: value.contiguous().clone() for key, value in tensors.items()}, path, metadata)
    return path


# --- the authors' layouts, written down on their own --------------------------------------------


def _moved(weights: Tensors, names: dict[str, str]) -> Tensors:
    """Tensors under other names: whole parts of theirs that are on the left become what is on the right."""
    found = {}
    for key, value in weights.items():
        for old, new in names.items():
            key = re.sub(rf"(?<![\w]){old}(?![\w])", new, key)
        found[key] = value
    return found


def _fused(weights: Tensors, module: str, parts: list[str], fused: str) -> None:
    """One layer in place of several, block by block."""
    for kind in ("weight", "bias"):
        for n in range(9):
            names = [f"{module.format(n)}.{part}.{kind}" for part in parts]
            if names[0] in weights:
                weights[f"{fused.format(n)}.{kind}"] = torch.cat([weights.pop(name) for name in names])


def _swapped(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def flux_of_authors(weights: Tensors) -> Tensors:
    qkv = ["to_q", "to_k", "to_v"]
    _fused(weights, "transformer_blocks.{}.attn", qkv, "double_blocks.{}.img_attn.qkv")
    _fused(weights, "transformer_blocks.{}.attn", [f"add_{x}_proj" for x in "qkv"], "double_blocks.{}.txt_attn.qkv")
    _fused(
        weights,
        "single_transformer_blocks.{}",
        [*(f"attn.{part}" for part in qkv), "proj_mlp"],
        "single_blocks.{}.linear1",
    )
    for kind in ("weight", "bias"):
        weights[f"final_layer.adaLN_modulation.1.{kind}"] = _swapped(weights.pop(f"norm_out.linear.{kind}"))
    found = {}
    for key, value in weights.items():
        for old, new in (
            ("single_transformer_blocks", "single_blocks"), ("transformer_blocks", "double_blocks"),
            (".norm1_context.linear", ".txt_mod.lin"), (".norm1.linear", ".img_mod.lin"),
            ("attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"),
            ("attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"),
            ("attn.to_out.0", "img_attn.proj"), ("attn.to_add_out", "txt_attn.proj"),
            ("ff_context.net.0.proj", "txt_mlp.0"), ("ff_context.net.2", "txt_mlp.2"),
            ("ff.net.0.proj", "img_mlp.0"), ("ff.net.2", "img_mlp.2"),
            ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
            ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
            ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
            ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
            ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
            ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
            ("x_embedder", "img_in"), ("context_embedder", "txt_in"),
            ("time_embed.timestep_embedder.linear_1", "time_in.in_layer"),
            ("time_embed.timestep_embedder.linear_2", "time_in.out_layer"),
        ):  # fmt: skip
            key = key.replace(old, new)
        key = re.sub(r"^proj_out", "final_layer.linear", key)
        if key.startswith("single_blocks"):
            key = key.replace(".norm.linear.", ".modulation.lin.").replace("proj_out", "linear2")
            key = key.replace("attn.norm_q.weight", "norm.query_norm.scale")
            key = key.replace("attn.norm_k.weight", "norm.key_norm.scale")
        key = key.replace("attn.norm_q.weight", "img_attn.norm.query_norm.scale")
        found[key.replace("attn.norm_k.weight", "img_attn.norm.key_norm.scale")] = value
    return found


def flux2_of_authors(weights: Tensors) -> Tensors:
    _fused(weights, "transformer_blocks.{}.attn", ["to_q", "to_k", "to_v"], "double_blocks.{}.img_attn.qkv")
    _fused(weights, "transformer_blocks.{}.attn", [f"add_{x}_proj" for x in "qkv"], "double_blocks.{}.txt_attn.qkv")
    weights["norm_out.linear.weight"] = _swapped(weights["norm_out.linear.weight"])
    names = {
        r"single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight": r"single_blocks.\1.norm.query_norm.scale",
        r"single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight": r"single_blocks.\1.norm.key_norm.scale",
        r"single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj": r"single_blocks.\1.linear1",
        r"single_transformer_blocks\.(\d+)\.attn\.to_out": r"single_blocks.\1.linear2",
        r"transformer_blocks\.(\d+)": r"double_blocks.\1", r"attn\.norm_q\.weight": "img_attn.norm.query_norm.scale",
        r"attn\.norm_k\.weight": "img_attn.norm.key_norm.scale", r"attn\.to_out\.0": "img_attn.proj",
        r"attn\.norm_added_q\.weight": "txt_attn.norm.query_norm.scale", r"attn\.to_add_out": "txt_attn.proj",
        r"attn\.norm_added_k\.weight": "txt_attn.norm.key_norm.scale", r"ff\.linear_in": "img_mlp.0",
        r"ff\.linear_out": "img_mlp.2", r"ff_context\.linear_in": "txt_mlp.0", r"ff_context\.linear_out": "txt_mlp.2",
        r"time_guidance_embed\.timestep_embedder\.linear_1": "time_in.in_layer",
        r"time_guidance_embed\.timestep_embedder\.linear_2": "time_in.out_layer",
        r"time_guidance_embed\.guidance_embedder\.linear_1": "guidance_in.in_layer",
        r"time_guidance_embed\.guidance_embedder\.linear_2": "guidance_in.out_layer",
        r"(\w+_modulation(_\w+)?)\.linear": r"\1.lin", r"norm_out\.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear", "x_embedder": "img_in", "context_embedder": "txt_in",
    }  # fmt: skip
    return _moved(weights, names)


def z_image_of_authors(weights: Tensors) -> Tensors:
    for block in ("layers", "noise_refiner", "context_refiner"):
        _fused(weights, block + ".{}.attention", ["to_q", "to_k", "to_v"], block + ".{}.attention.qkv")
    names = {
        r"all_x_embedder\.2-1": "x_embedder", r"all_final_layer\.2-1": "final_layer",
        r"attention\.norm_(q|k)": r"attention.\1_norm", r"attention\.to_out\.0": "attention.out",
    }  # fmt: skip
    return _moved(weights, names) | {"norm_final.weight": torch.ones(32)}


def hunyuan_of_comfyui(weights: Tensors) -> Tensors:
    """ComfyUI's spelling, which is that of FLUX but for the embedders."""
    refiner = "context_embedder.token_refiner.refiner_blocks"
    theirs = "txt_in.individual_token_refiner.blocks"
    _fused(weights, refiner + ".{}.attn", ["to_q", "to_k", "to_v"], theirs + ".{}.self_attn.qkv")
    found: Tensors = {}
    for key in list(weights):
        new = key
        for old, text in (
            (f"{refiner}.", f"{theirs}."), ("attn.to_out.0", "self_attn.proj"),
            ("norm_out.linear", "adaLN_modulation.1"), ("ff.net.0.proj", "mlp.0"), ("ff.net.2", "mlp.2"),
        ):  # fmt: skip
            if key.startswith(("context_embedder.token_refiner", "txt_in.")):
                new = new.replace(old, text)
        for old, text in (
            ("context_embedder.time_text_embed.timestep_embedder.linear_1", "txt_in.t_embedder.in_layer"),
            ("context_embedder.time_text_embed.timestep_embedder.linear_2", "txt_in.t_embedder.out_layer"),
            ("context_embedder.time_text_embed.text_embedder.linear_1", "txt_in.c_embedder.in_layer"),
            ("context_embedder.time_text_embed.text_embedder.linear_2", "txt_in.c_embedder.out_layer"),
            ("context_embedder.proj_in", "txt_in.input_embedder"),
        ):
            new = new.replace(old, text)
        if new != key or key.startswith("txt_in."):
            found[new] = weights.pop(key)
    return flux_of_authors(weights) | found


def hunyuan_of_authors(weights: Tensors) -> Tensors:
    """The authors' own spelling."""
    found = {}
    for key, value in hunyuan_of_comfyui(weights).items():
        for old, new in (
            ("txt_in.t_embedder.in_layer", "txt_in.t_embedder.mlp.0"),
            ("txt_in.t_embedder.out_layer", "txt_in.t_embedder.mlp.2"),
            ("txt_in.c_embedder.in_layer", "txt_in.c_embedder.linear_1"),
            ("txt_in.c_embedder.out_layer", "txt_in.c_embedder.linear_2"),
            ("time_in.in_layer", "time_in.mlp.0"), ("time_in.out_layer", "time_in.mlp.2"),
            ("guidance_in.in_layer", "guidance_in.mlp.0"), ("guidance_in.out_layer", "guidance_in.mlp.2"),
            ("_mod.lin.", "_mod.linear."), ("modulation.lin.", "modulation.linear."),
            ("_attn.qkv.", "_attn_qkv."), ("_attn.proj.", "_attn_proj."),
            ("_attn.norm.query_norm.scale", "_attn_q_norm.weight"),
            ("_attn.norm.key_norm.scale", "_attn_k_norm.weight"),
            (".norm.query_norm.scale", ".q_norm.weight"), (".norm.key_norm.scale", ".k_norm.weight"),
        ):  # fmt: skip
            key = key.replace(old, new)
        if "_mlp." in key or "refiner.blocks" in key:
            key = key.replace("mlp.0.", "mlp.fc1.").replace("mlp.2.", "mlp.fc2.")
        found[key] = value
    return found


def hunyuan15_of_authors(weights: Tensors) -> Tensors:
    refiner, theirs = "context_embedder.token_refiner.refiner_blocks", "txt_in.individual_token_refiner.blocks"
    _fused(weights, refiner + ".{}.attn", ["to_q", "to_k", "to_v"], theirs + ".{}.self_attn_qkv")
    for kind in ("weight", "bias"):
        weights[f"final_layer.adaLN_modulation.1.{kind}"] = _swapped(weights.pop(f"norm_out.linear.{kind}"))
    own, block = r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)\.", r"transformer_blocks\.(\d+)\."
    embedded, double = rf"{theirs}.\1.", r"double_blocks.\1."
    names = {
        own + r"attn\.to_out\.0": embedded + "self_attn_proj", own + r"ff\.net\.0\.proj": embedded + "mlp.fc1",
        own + r"norm_out\.linear": embedded + "adaLN_modulation.1", own + r"ff\.net\.2": embedded + "mlp.fc2",
        own + "norm1": embedded + "norm1", own + "norm2": embedded + "norm2",
        r"context_embedder\.time_text_embed\.timestep_embedder\.linear_1": "txt_in.t_embedder.mlp.0",
        r"context_embedder\.time_text_embed\.timestep_embedder\.linear_2": "txt_in.t_embedder.mlp.2",
        r"context_embedder\.time_text_embed\.text_embedder": "txt_in.c_embedder",
        r"context_embedder\.proj_in": "txt_in.input_embedder", r"context_embedder_2\.norm": "byt5_in.layernorm",
        r"context_embedder_2\.linear_(\d)": r"byt5_in.fc\1", r"image_embedder\.norm_in": "vision_in.proj.0",
        r"image_embedder\.linear_1": "vision_in.proj.1", r"image_embedder\.linear_2": "vision_in.proj.3",
        r"image_embedder\.norm_out": "vision_in.proj.4", "x_embedder": "img_in", "cond_type_embed":
        "cond_type_embedding", r"time_embed\.timestep_embedder\.linear_1": "time_in.mlp.0",
        r"time_embed\.timestep_embedder\.linear_2": "time_in.mlp.2",
        r"time_embed\.timestep_embedder_r\.linear_1": "time_r_in.mlp.0",
        r"time_embed\.timestep_embedder_r\.linear_2": "time_r_in.mlp.2",
        block + r"attn\.to_(q|k|v)": double + r"img_attn_\2", block + r"attn\.add_(q|k|v)_proj": double +
        r"txt_attn_\2", block + r"attn\.norm_(q|k)": double + r"img_attn_\2_norm",
        block + r"attn\.norm_added_(q|k)": double + r"txt_attn_\2_norm",
        block + r"attn\.to_out\.0": double + "img_attn_proj", block + r"attn\.to_add_out": double + "txt_attn_proj",
        block + r"ff\.net\.0\.proj": double + "img_mlp.fc1", block + r"ff\.net\.2": double + "img_mlp.fc2",
        block + r"ff_context\.net\.0\.proj": double + "txt_mlp.fc1",
        block + r"ff_context\.net\.2": double + "txt_mlp.fc2", block + r"norm1\.linear": double + "img_mod.linear",
        block + r"norm1_context\.linear": double + "txt_mod.linear", "proj_out": "final_layer.linear",
    }  # fmt: skip
    return _moved(weights, names)


def hunyuan15_of_comfyui(weights: Tensors) -> Tensors:
    """ComfyUI's spelling; queries, keys and values are one layer."""
    found = hunyuan15_of_authors(weights)
    for stream in ("img", "txt"):
        parts = [f"{stream}_attn_{x}" for x in "qkv"]
        _fused(found, "double_blocks.{}", parts, f"double_blocks.{{}}.{stream}_attn.qkv")
    spelled = {}
    for key, value in found.items():
        for old, new in (
            ("_attn_proj.", "_attn.proj."), ("_attn_qkv.", "_attn.qkv."), ("_mod.linear.", "_mod.lin."),
            ("_attn_q_norm.weight", "_attn.norm.query_norm.scale"),
            ("_attn_k_norm.weight", "_attn.norm.key_norm.scale"), ("mlp.fc1.", "mlp.0."), ("mlp.fc2.", "mlp.2."),
            ("time_in.mlp.0", "time_in.in_layer"), ("time_in.mlp.2", "time_in.out_layer"),
            ("time_r_in.mlp.0", "time_r_in.in_layer"), ("time_r_in.mlp.2", "time_r_in.out_layer"),
            ("t_embedder.mlp.0", "t_embedder.in_layer"), ("t_embedder.mlp.2", "t_embedder.out_layer"),
            ("c_embedder.linear_1", "c_embedder.in_layer"), ("c_embedder.linear_2", "c_embedder.out_layer"),
        ):  # fmt: skip
            key = key.replace(old, new)
        spelled[key] = value
    return spelled


def pixart_of_authors(weights: Tensors) -> Tensors:
    _fused(weights, "transformer_blocks.{}.attn1", ["to_q", "to_k", "to_v"], "blocks.{}.attn.qkv")
    _fused(weights, "transformer_blocks.{}.attn2", ["to_k", "to_v"], "blocks.{}.cross_attn.kv_linear")
    names = {
        r"transformer_blocks\.(\d+)": r"blocks.\1", r"attn1\.to_out\.0": "attn.proj",
        r"attn2\.to_q": "cross_attn.q_linear", r"attn2\.to_out\.0": "cross_attn.proj",
        r"ff\.net\.0\.proj": "mlp.fc1", r"ff\.net\.2": "mlp.fc2",
        r"pos_embed\.proj": "x_embedder.proj", r"caption_projection\.linear_(\d)": r"y_embedder.y_proj.fc\1",
        r"adaln_single\.linear": "t_block.1", "proj_out": "final_layer.linear",
        r"adaln_single\.emb\.timestep_embedder": "t_embedder", r"adaln_single\.emb\.resolution_embedder":
        "csize_embedder", r"adaln_single\.emb\.aspect_ratio_embedder": "ar_embedder", "linear_1": "mlp.0",
        "linear_2": "mlp.2",
    }  # fmt: skip
    found = _moved(weights, names)
    found["final_layer.scale_shift_table"] = found.pop("scale_shift_table")
    return found | {"pos_embed": torch.zeros(1, 64, 64), "y_embedder.y_embedding": torch.zeros(120, 12)}


def mochi_of_authors(weights: Tensors) -> Tensors:
    _fused(weights, "transformer_blocks.{}.attn1", ["to_q", "to_k", "to_v"], "blocks.{}.attn.qkv_x")
    _fused(weights, "transformer_blocks.{}.attn1", [f"add_{x}_proj" for x in "qkv"], "blocks.{}.attn.qkv_y")
    for key in list(weights):
        if ".net.0.proj." in key or key.startswith("norm_out.linear"):
            weights[key] = _swapped(weights[key])
    names = {
        r"transformer_blocks\.(\d+)": r"blocks.\1", r"norm1\.linear": "mod_x", r"norm1_context\.linear(_1)?": "mod_y",
        r"attn1\.to_out\.0": "attn.proj_x", r"attn1\.to_add_out": "attn.proj_y",
        r"attn1\.norm_(q|k)": r"attn.\1_norm_x",
        r"attn1\.norm_added_(q|k)": r"attn.\1_norm_y", r"ff\.net\.0\.proj": "mlp_x.w1", r"ff\.net\.2": "mlp_x.w2",
        r"ff_context\.net\.0\.proj": "mlp_y.w1", r"ff_context\.net\.2": "mlp_y.w2", r"patch_embed\.proj":
        "x_embedder.proj", r"time_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
        r"time_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2", r"time_embed\.caption_proj": "t5_yproj",
        r"time_embed\.pooler": "t5_y_embedder", r"norm_out\.linear": "final_layer.mod",
        "proj_out": "final_layer.linear",
    }  # fmt: skip
    return _moved(weights, names)


def cogvideox_of_authors(weights: Tensors) -> Tensors:
    """As SwissArmyTransformer has it: norms of all blocks in lists, twelve parts of a modulation in one layer."""
    layers = "transformer.layers.{}"
    _fused(weights, "transformer_blocks.{}.attn1", ["to_q", "to_k", "to_v"], layers + ".attention.query_key_value")
    for kind in ("weight", "bias"):
        for n in range(9):
            names = [f"transformer_blocks.{n}.norm{i}.linear.{kind}" for i in (1, 2)]
            if names[0] in weights:
                first, second = (weights.pop(name).chunk(6) for name in names)
                parts = [*first[:3], *second[:3], *first[3:], *second[3:]]
                weights[f"mixins.adaln_layer.adaLN_modulations.{n}.1.{kind}"] = torch.cat(parts)
    names = {
        r"transformer_blocks\.(\d+)\.attn1\.norm_q": r"mixins.adaln_layer.query_layernorm_list.\1",
        r"transformer_blocks\.(\d+)\.attn1\.norm_k": r"mixins.adaln_layer.key_layernorm_list.\1",
        r"transformer_blocks\.(\d+)\.attn1\.to_out\.0": r"transformer.layers.\1.attention.dense",
        r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj": r"transformer.layers.\1.mlp.dense_h_to_4h",
        r"transformer_blocks\.(\d+)\.ff\.net\.2": r"transformer.layers.\1.mlp.dense_4h_to_h",
        r"transformer_blocks\.(\d+)\.norm1\.norm": r"transformer.layers.\1.input_layernorm",
        r"transformer_blocks\.(\d+)\.norm2\.norm": r"transformer.layers.\1.post_attention_layernorm",
        r"norm_final": "transformer.final_layernorm", r"(time|ofs)_embedding\.linear_1": r"\1_embed.0",
        r"(time|ofs)_embedding\.linear_2": r"\1_embed.2", r"^patch_embed": "mixins.patch_embed",
        r"norm_out\.norm": "mixins.final_layer.norm_final",
        r"norm_out\.linear": "mixins.final_layer.adaLN_modulation.1",
        r"^proj_out": "mixins.final_layer.linear",
    }  # fmt: skip
    found = {}
    for key, value in weights.items():
        for old, new in names.items():
            key = re.sub(old, new, key)
        found[key] = value
    return found | {"mixins.pos_embed.freqs_sin": torch.zeros(2, 2)}


WAN_NAMES = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0", "condition_embedder.time_embedder.linear_2":
    "time_embedding.2", "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2", "condition_embedder.time_proj":
    "time_projection.1", "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3", "condition_embedder.image_embedder.norm2":
    "img_emb.proj.4", "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos", "attn1": "self_attn",
    "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "add_k_proj": "k_img",
    "add_v_proj": "v_img", "norm_added_k": "norm_k_img", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
    "fps_projection.net.0.proj": "fps_projection.0", "fps_projection.net.2": "fps_projection.2",
}  # fmt: skip
LTX_NAMES = {"proj_in": "patchify_proj", "time_embed": "adaln_single", "norm_q": "q_norm", "norm_k": "k_norm"}


def original_name(family: str, name: str) -> str:
    """The authors' name of a tensor, written down on its own."""
    if family == "ltx":
        for ours, theirs in LTX_NAMES.items():
            name = re.sub(rf"\b{ours}\b", theirs, name)
        return name
    if name == "scale_shift_table":
        return "head.modulation"
    if name.startswith("proj_out"):
        return name.replace("proj_out", "head.head")
    name = name.replace("norm2", "norm3") if ".norm2." in name and name.startswith("blocks") else name
    for ours, theirs in WAN_NAMES.items():
        name = re.sub(rf"(^|\.){re.escape(ours)}(\.|$)", lambda m, t=theirs: f"{m[1]}{t}{m[2]}", name)
    return name.replace("scale_shift_table", "modulation")


AUTHORS: dict[str, Callable[[Tensors], Tensors]] = {
    "flux-dev": flux_of_authors,
    "flux-schnell": flux_of_authors,
    "longcat_image": flux_of_authors,
    "z_image": z_image_of_authors,
    "hunyuan_video": hunyuan_of_authors,
    "hunyuan_video-i2v-33ch": hunyuan_of_authors,
    "pixart-sigma": pixart_of_authors,
    "pixart-alpha": pixart_of_authors,
    "mochi": mochi_of_authors,
    "flux2-dev": flux2_of_authors,
    "flux2-klein": flux2_of_authors,
    "hunyuan_video15": hunyuan15_of_authors,
    "hunyuan_video15-meanflow": hunyuan15_of_authors,
    "cogvideox-2b": cogvideox_of_authors,
    "cogvideox-5b": cogvideox_of_authors,
    "cogvideox-1.5-5b-i2v": cogvideox_of_authors,
}


# --- read to the bit -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", _SIZED)
def test_a_file_of_diffusers_names_is_told_by_its_tensors(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    member, theirs, ours = made(name)
    path = saved(theirs.state_dict(), tmp_path / "model.safetensors")
    loaded = VideoDiT.from_single_file(path)
    assert loaded.config.family == member.family
    same(loaded, ours)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name", AUTHORS)
def test_a_file_of_the_authors_names_is_told_by_its_tensors(name: str, prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    member, theirs, ours = made(name)
    path = saved(AUTHORS[name](dict(theirs.state_dict())), tmp_path / "model.safetensors", prefix)
    assert not any("transformer_blocks" in key for key in load_file(path))
    loaded = VideoDiT.from_single_file(path)
    assert loaded.config.family == member.family
    same(loaded, ours)


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize("name", ["wan", "wan-i2v", "wan-flf2v", "ltx", "skyreels_v2-df"])
def test_loads_the_authors_own_file(name: str, prefix: str, tmp_path: Path) -> None:
    member, theirs, ours = made(name)
    tensors = {prefix + original_name(member.family, k): v.clone() for k, v in theirs.state_dict().items()}
    if name == "ltx":
        tensors |= {"vae.decoder.conv_in.conv.weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    same(VideoDiT.from_single_file(tmp_path / "model.safetensors"), ours)


def test_a_file_of_comfyui_has_its_own_spelling(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, theirs, ours = made("hunyuan_video")
    weights = hunyuan_of_comfyui(dict(theirs.state_dict()))
    assert "double_blocks.0.img_attn.norm.query_norm.scale" in weights
    assert "txt_in.individual_token_refiner.blocks.0.self_attn.qkv.weight" in weights
    same(VideoDiT.from_single_file(saved(weights, tmp_path / "model.safetensors", "model.model.")), ours)
    _, theirs, ours = made("hunyuan_video15-meanflow")
    weights = hunyuan15_of_comfyui(dict(theirs.state_dict()))
    assert {"double_blocks.0.img_attn.qkv.weight", "time_r_in.in_layer.weight"} < weights.keys()
    same(VideoDiT.from_single_file(saved(weights, tmp_path / "1.5.safetensors")), ours)


@pytest.mark.parametrize(
    "name", ["cogvideox-5b-i2v", "hunyuan_video15", "hunyuan_video-i2v", "pixart-alpha-512", "skyreels_v2", "wan"]
)
def test_a_config_says_what_tensors_do_not(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    member = MEMBERS[name]
    theirs = randomize(member.theirs())
    path = saved(theirs.state_dict(), tmp_path / "model.safetensors", PREFIXES[0])
    theirs.save_config(tmp_path)
    for config in (dict(theirs.config) | {"_class_name": member.class_name}, tmp_path, tmp_path / "config.json"):
        loaded = VideoDiT.from_single_file(path, config=config)
        for key, value in member.ours(theirs).config.items():
            if key != "family_config":  # which has lists for tuples, and the defaults of the class
                assert json.dumps(loaded.config[key]) == json.dumps(value), key
        same(loaded, member.ours(theirs))


def test_a_file_that_may_be_of_two_models_is_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HunyuanVideo's image-to-video model has the tensors of the other, and is another function."""
    torch.manual_seed(0)
    _, theirs, _ = made("hunyuan_video")
    sizes = sum(value.numel() for value in theirs.state_dict().values())
    family = FAMILIES["hunyuan_video"]
    for title in ("HunyuanVideo", "HunyuanVideo I2V"):
        config = dict(MEMBERS["hunyuan_video"].config) | dict(family.published[title].config)
        one = family.published[title]._replace(parameters=sizes, config=config)
        monkeypatch.setitem(family.published, title, one)
    with caplog.at_level(logging.WARNING):
        VideoDiT.from_single_file(saved(theirs.state_dict(), tmp_path / "model.safetensors"))
    assert "is read as HunyuanVideo; its tensors may be those of HunyuanVideo I2V as well" in caplog.text


# --- what is refused -----------------------------------------------------------------------------


def test_a_branch_in_the_same_file_is_not_left_out_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    branch = {"vace_blocks.0.proj_out.weight": torch.zeros(8, 8), "vace_patch_embedding.bias": torch.zeros(8)}
    path = saved(wan_weights() | branch, tmp_path / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        VideoDiT.from_single_file(path)
    assert "holds a control branch, too (2 tensors, such as vace_" in caplog.text
    assert "which is left out" in caplog.text


def wan_weights() -> Tensors:
    torch.manual_seed(0)
    return dict(made("wan")[1].state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("proj_out.bias"),
            r"Wan in diffusers' names \(1 missing, for example proj_out.bias\)",
        ),
        (
            lambda t: t.update(extra=torch.zeros(1)),
            r"Wan in diffusers' names \(1 unknown, for example extra\)",
        ),
        (
            lambda t: t.update({"proj_out.bias": torch.zeros(3)}),
            r"1 of another shape, for example proj_out.bias has shape \[3\] instead of \[16\]",
        ),
        (lambda t: t.pop("patch_embedding.weight"), r"Nearest: Wan in diffusers' names \(.*patch_embedding.weight"),
    ],
)
def test_a_file_that_is_nearly_a_familys_is_told_what_it_lacks(
    change: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    weights = wan_weights()
    change(weights)
    with pytest.raises(ModelError, match=message):
        VideoDiT.from_single_file(saved(weights, tmp_path / "model.safetensors"))


def test_a_file_of_something_else_names_the_families(tmp_path: Path) -> None:
    path = saved({"otter.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no whole transformer of Wan, .*; the first of its tensors is 'otter"):
        VideoDiT.from_single_file(path)


def test_a_config_of_another_model_is_refused(tmp_path: Path) -> None:
    path = saved(wan_weights(), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="of another shape"):
        VideoDiT.from_single_file(path, config={"_class_name": "WanTransformer3DModel", **MEMBERS["wan"].config,
                                                "num_attention_heads": 1, "attention_head_dim": 16})  # fmt: skip
    with pytest.raises(ModelError, match="is of class 'Otter'"):
        VideoDiT.from_single_file(path, config={"_class_name": "Otter"})


@pytest.mark.parametrize("name", ["a\x1b[31mred", "long" * 200])
def test_names_that_would_steer_a_terminal_are_escaped(name: str, tmp_path: Path) -> None:
    path = saved(wan_weights() | {name: torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"holds a tensor named .*; valid names have up to 512") as raised:
        VideoDiT.from_single_file(path)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300 + len(str(path))


def test_rows_that_cannot_be_divided_are_named(tmp_path: Path) -> None:
    weights = flux_of_authors(dict(made("flux-dev")[1].state_dict()))
    weights["double_blocks.0.img_attn.qkv.weight"] = torch.zeros(97, 32)
    with pytest.raises(ModelError, match=r"img_attn.qkv.weight has 97 rows, which cannot be divided by 3"):
        VideoDiT.from_single_file(saved(weights, tmp_path / "model.safetensors"))


# --- whole pipelines around a file ---------------------------------------------------------------


@pytest.fixture
def wan_file(folder: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """A model folder, and its transformer's weights in the authors' names in a file elsewhere."""
    weights = load_file(folder("wan") / "transformer" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    named = {original_name("wan", key): value for key, value in weights.items()}
    return folder("wan"), saved(named, tmp_path / "elsewhere" / "deep" / "wan.safetensors", PREFIXES[0])


def clip_of(pipe: VideoDiTPipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2}
    generator = torch.Generator().manual_seed(1)
    return torch.as_tensor(pipe(PROMPT, **size, generator=generator, output_type="pt").frames[0])


def test_a_pipeline_around_a_file_makes_the_clips_of_its_folder(wan_file: tuple[Path, Path]) -> None:
    model, file = wan_file
    pipe, whole = VideoDiTPipeline.from_single_file(file, base=model), VideoDiTPipeline.from_pretrained(model)
    assert torch.equal(clip_of(pipe), clip_of(whole))
    assert pipe.model_hash not in (None, whole.model_hash)
    assert pipe.model_hash == ModelFolder(str(file), model, {}, pipe.spec, {"transformer": file}).weights_hash


def test_a_base_of_the_hub_is_fetched_without_what_nobody_reads(
    wan_file: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = wan_file
    names = ["whole.safetensors", "model_index.json"]
    for part in ("transformer", "vae"):
        names += [f"{part}/config.json", f"{part}/model.safetensors", f"{part}/model.bin"]
    fetched: list[str] = []

    def snapshot(hub_id: str, *, allow_patterns: Any = None, ignore_patterns: Any = None) -> str:
        patterns = {"allow_patterns": allow_patterns, "ignore_patterns": ignore_patterns}
        fetched.extend(huggingface_hub.utils.filter_repo_objects(names, **patterns))
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name: str(model / name))
    assert complete(file, base="owner/wan-base") == (model, {"transformer": file})
    assert fetched == ["model_index.json", "transformer/config.json", "vae/config.json", "vae/model.safetensors"]


def test_what_a_file_lacks_is_found_beside_it(wan_file: tuple[Path, Path], tmp_path: Path) -> None:
    model, file = wan_file
    home = tmp_path / "home"
    shutil.copytree(model, home)
    (home / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    expected = clip_of(VideoDiTPipeline.from_pretrained(model))
    for place in (home / "wan.safetensors", home / "transformer" / "wan.safetensors"):
        shutil.copy(file, place)
        assert ModelFolder.find(place).path == home
        assert torch.equal(clip_of(VideoDiTPipeline.from_pretrained(place)), expected)
        place.unlink()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], Path]:
    """Puts a model into the hub's cache, without the weights of its transformer."""
    import huggingface_hub.constants

    home = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))

    def put(hub_id: str, model: Path) -> Path:
        place = home / f"models--{hub_id.replace('/', '--')}"
        shutil.copytree(model, place / "snapshots" / ("0" * 40))
        (place / "snapshots" / ("0" * 40) / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("0" * 40)
        return place / "snapshots" / ("0" * 40)

    return put


def publish(monkeypatch: pytest.MonkeyPatch, file: Path, *titles: str) -> None:
    """Pretend that checkpoints of Wan have the size of a file."""
    total = sum(value.numel() for value in load_file(file).values())
    published = FAMILIES["wan"].published
    for title in titles:
        config = {**MEMBERS["wan"].config}
        monkeypatch.setitem(published, title, published[title]._replace(parameters=total, config=config))


def test_what_a_file_lacks_is_found_in_the_hubs_cache(
    wan_file: tuple[Path, Path], cache: Callable[[str, Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = wan_file
    publish(monkeypatch, file, "Wan 2.1 T2V 1.3B", "Wan 2.1 T2V 14B")
    with pytest.raises(InputError, match=r"hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --exclude 'tr") as error:
        ModelFolder.find(file)
    assert "alone; fetch the text encoder, the tokenizer and the autoencoder by" in str(error.value)
    home = cache("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", model)
    assert ModelFolder.find(file).path == home
    assert torch.equal(
        clip_of(VideoDiTPipeline.from_single_file(file)), clip_of(VideoDiTPipeline.from_pretrained(model))
    )
    cache("Wan-AI/Wan2.1-T2V-14B-Diffusers", model)
    with pytest.raises(InputError, match=r"may belong to any of Wan-AI/.*1.3B-Diffusers .*, Wan-AI/Wan2.1-T2V-14B"):
        ModelFolder.find(file)


def test_a_size_that_was_not_published_must_lie_in_its_folder(wan_file: tuple[Path, Path]) -> None:
    _, file = wan_file
    saved(wan_weights(), file)
    with pytest.raises(InputError, match="holds a transformer of Wan in a size that was not published; put it into"):
        ModelFolder.find(file)


def test_a_file_of_another_model_than_its_folders_is_refused(folder: Callable[[str], Path], tmp_path: Path) -> None:
    file = saved(dict(made("wan-i2v")[1].state_dict()), tmp_path / "wan.safetensors")
    with pytest.raises(ModelError, match=r"Nearest: Wan in diffusers' names .*of another shape"):
        VideoDiTPipeline.from_single_file(file, base=folder("wan"))
    with pytest.raises(ModelError, match="Nearest: FLUX"):
        VideoDiTPipeline.from_single_file(file, base=folder("flux-dev"))


def test_a_model_of_two_transformers_takes_two_files(folder: Callable[[str], Path], tmp_path: Path) -> None:
    model, files = folder("wan-two-experts"), []
    for name in ("transformer", "transformer_2"):
        files.append(tmp_path / f"{name}.safetensors")
        shutil.copy(model / name / "diffusion_pytorch_model.safetensors", files[-1])
    with pytest.raises(InputError, match="has two transformers, for higher and for lower noise"):
        VideoDiTPipeline.from_single_file(files[0], base=model)
    whole = VideoDiTPipeline.from_pretrained(model)
    for second in (files[1], whole.transformer_2):
        pipe = VideoDiTPipeline.from_single_file(files[0], base=model, transformer_2=second)
        same(pipe.transformer, whole.transformer)
        same(pipe.transformer_2, whole.transformer_2)


def test_a_lora_is_no_model(tmp_path: Path) -> None:
    file = saved({"transformer.proj_out.lora_A.weight": torch.zeros(1, 4)}, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match="is a LoRA: use it with --lora"):
        ModelFolder.find(file)


# --- commands ------------------------------------------------------------------------------------


def test_generate_plans_and_makes_a_clip_of_a_file(
    wan_file: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = wan_file
    home = tmp_path / "home"
    shutil.copytree(model, home)
    (home / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.copy(file, home / "wan.safetensors")
    command = ["generate", PROMPT, "-m", str(home / "wan.safetensors"), "--size", "32x32", "--frames", "5"]
    assert main([*command, "--dry-run", "-o", str(tmp_path / "ball.mp4")]) == 0
    assert re.search(r"model\s+\S*wan.safetensors", capsys.readouterr().out)
    assert main([*command, "--steps", "2", "--seed", "1", "-o", str(tmp_path / "ball.mp4")]) == 0
    recipe = read_recipe(tmp_path / "ball.mp4")
    assert recipe is not None
    assert recipe["model"] == "wan.safetensors"
    assert recipe["model_hash"] == ModelFolder.find(home / "wan.safetensors").weights_hash
    capsys.readouterr()
    again = ["remake", str(tmp_path / "ball.mp4"), "-m", str(home / "wan.safetensors"), "-o", str(tmp_path / "2.mp4")]
    assert main(again) == 0  # its recipe names the file, and not where it is
    assert "differ" not in capsys.readouterr().err
    assert (tmp_path / "2.mp4").read_bytes() == (tmp_path / "ball.mp4").read_bytes()


def test_info_says_whose_weights_a_file_holds(
    wan_file: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, file = wan_file
    assert main(["info", str(file)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"family\s+Wan\n", out)
    assert re.search(r"names\s+the authors', behind model.diffusion_model\.\n", out)
    assert re.search(r"dtype\s+F32\n", out)
    other = saved({"otter.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert main(["info", str(other)]) == 3
    assert "holds no whole transformer" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["native", "diffusers"])
def test_convert_makes_a_folder_of_a_file(to: str, wan_file: tuple[Path, Path], tmp_path: Path) -> None:
    model, file = wan_file
    expected = VideoDiT.from_pretrained(model / "transformer")
    assert main(["convert", str(file), str(tmp_path / "made"), "--to", to]) == 0
    loaded = VideoDiT.from_pretrained(tmp_path / "made")
    same(loaded, expected)
    if to == "diffusers":
        theirs = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / "made")
        assert set(theirs.state_dict()) == set(load_file(model / "transformer" / "diffusion_pytorch_model.safetensors"))
