"""Layouts of the authors' own files, as far as they do not stand in the file of their family.

Names as in the scripts that diffusers publishes to convert such files (``scripts/convert_*_to_diffusers.py``), and in
ComfyUI's ``supported_models.py``.
"""

from __future__ import annotations

from einops import rearrange

from videodit.families.base import SWAP_HALVES, Original, Rule, Tensors, Transform
from videodit.json_types import Config

_DOUBLE, _SINGLE = "transformer_blocks.{n}", "single_transformer_blocks.{n}"
_REFINER = "context_embedder.token_refiner.refiner_blocks.{n}"
_THEIR_REFINER = "txt_in.individual_token_refiner.blocks.{n}"

HUNYUAN_NORMS = (
    Rule(f"{_REFINER}.norm1.{{rest}}", f"{_THEIR_REFINER}.norm1.{{rest}}"),
    Rule(f"{_REFINER}.norm2.{{rest}}", f"{_THEIR_REFINER}.norm2.{{rest}}"),
    *(
        rule
        for x in "qk"
        for rule in (
            Rule(f"{_DOUBLE}.attn.norm_{x}.weight", f"double_blocks.{{n}}.img_attn_{x}_norm.weight"),
            Rule(f"{_DOUBLE}.attn.norm_added_{x}.weight", f"double_blocks.{{n}}.txt_attn_{x}_norm.weight"),
            Rule(f"{_SINGLE}.attn.norm_{x}.weight", f"single_blocks.{{n}}.{x}_norm.weight"),
        )
    ),
)

_MLP, _CLOCK = r"((?:img|txt)_mlp|refiner\.blocks\.\d+\.mlp)", r"^(time_in|time_r_in|guidance_in|txt_in\.t_embedder)"
HUNYUAN_IN_COMFYUI = (
    (r"_attn\.(qkv|proj)\.", r"_attn_\1."),
    (r"_attn\.norm\.(q|k)(?:uery|ey)_norm\.scale$", r"_attn_\1_norm.weight"),
    (r"^(single_blocks\.\d+)\.norm\.(q|k)(?:uery|ey)_norm\.scale$", r"\1.\2_norm.weight"),
    (r"(_mod|\.modulation)\.lin\.", r"\1.linear."),
    (rf"{_MLP}\.0\.", r"\1.fc1."),
    (rf"{_MLP}\.2\.", r"\1.fc2."),
    (rf"{_CLOCK}\.in_layer\.", r"\1.mlp.0."),
    (rf"{_CLOCK}\.out_layer\.", r"\1.mlp.2."),
    (r"^txt_in\.c_embedder\.in_layer\.", "txt_in.c_embedder.linear_1."),
    (r"^txt_in\.c_embedder\.out_layer\.", "txt_in.c_embedder.linear_2."),
)
"""ComfyUI's spelling of HunyuanVideo's names: patterns, and what the authors write for them."""


def embedder(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Two linear layers, which the authors number with what stands between them."""
    return tuple(Rule(f"{ours}.linear_{i + 1}.{{rest}}", f"{theirs}.mlp.{2 * i}.{{rest}}") for i in (0, 1))


def _mlp(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The MLP of a block."""
    parts = (("net.0.proj", "fc1"), ("net.2", "fc2"))
    return tuple(Rule(f"{ours}.{layer}.{{rest}}", f"{theirs}.{short}.{{rest}}") for layer, short in parts)


_TIME = "time_text_embed"
HUNYUAN_REFINER = (
    *embedder(f"context_embedder.{_TIME}.timestep_embedder", "txt_in.t_embedder"),
    Rule(f"context_embedder.{_TIME}.text_embedder.{{rest}}", "txt_in.c_embedder.{rest}"),
    Rule("context_embedder.proj_in.{rest}", "txt_in.input_embedder.{rest}"),
    Rule(tuple(f"{_REFINER}.attn.to_{x}.{{rest}}" for x in "qkv"), f"{_THEIR_REFINER}.self_attn_qkv.{{rest}}"),
    Rule(f"{_REFINER}.attn.to_out.0.{{rest}}", f"{_THEIR_REFINER}.self_attn_proj.{{rest}}"),
    Rule(f"{_REFINER}.norm_out.linear.{{rest}}", f"{_THEIR_REFINER}.adaLN_modulation.1.{{rest}}"),
    *_mlp(f"{_REFINER}.ff", f"{_THEIR_REFINER}.mlp"),
)
"""The text's refiner, in HunyuanVideo and in 1.5."""

HUNYUAN_DOUBLE = (
    *_mlp(f"{_DOUBLE}.ff", "double_blocks.{n}.img_mlp"),
    *_mlp(f"{_DOUBLE}.ff_context", "double_blocks.{n}.txt_mlp"),
    Rule(f"{_DOUBLE}.norm1.linear.{{rest}}", "double_blocks.{n}.img_mod.linear.{rest}"),
    Rule(f"{_DOUBLE}.norm1_context.linear.{{rest}}", "double_blocks.{n}.txt_mod.linear.{rest}"),
    Rule(tuple(f"{_DOUBLE}.attn.to_{x}.{{rest}}" for x in "qkv"), "double_blocks.{n}.img_attn_qkv.{rest}"),
    Rule(tuple(f"{_DOUBLE}.attn.add_{x}_proj.{{rest}}" for x in "qkv"), "double_blocks.{n}.txt_attn_qkv.{rest}"),
    Rule(f"{_DOUBLE}.attn.to_out.0.{{rest}}", "double_blocks.{n}.img_attn_proj.{rest}"),
    Rule(f"{_DOUBLE}.attn.to_add_out.{{rest}}", "double_blocks.{n}.txt_attn_proj.{rest}"),
)
"""Blocks of two streams, likewise."""

HUNYUAN_15 = Original(
    rules=(
        Rule("x_embedder.{rest}", "img_in.{rest}"),
        *embedder("time_embed.timestep_embedder", "time_in"),
        *embedder("time_embed.timestep_embedder_r", "time_r_in"),
        *HUNYUAN_REFINER,
        *(Rule(f"context_embedder_2.linear_{i}.{{rest}}", f"byt5_in.fc{i}.{{rest}}") for i in (1, 2, 3)),
        *(Rule(f"image_embedder.linear_{i + 1}.{{rest}}", f"vision_in.proj.{2 * i + 1}.{{rest}}") for i in (0, 1)),
        *(
            rule
            for x in "qkv"
            for rule in (
                Rule(f"{_DOUBLE}.attn.to_{x}.{{rest}}", f"double_blocks.{{n}}.img_attn_{x}.{{rest}}"),
                Rule(f"{_DOUBLE}.attn.add_{x}_proj.{{rest}}", f"double_blocks.{{n}}.txt_attn_{x}.{{rest}}"),
            )
        ),
        *HUNYUAN_DOUBLE,  # ComfyUI has queries, keys and values in one layer
        Rule("norm_out.linear.{rest}", "final_layer.adaLN_modulation.1.{rest}", SWAP_HALVES),
        Rule("proj_out.{rest}", "final_layer.linear.{rest}"),
    ),
    whole=(
        *HUNYUAN_NORMS,
        Rule("context_embedder_2.norm.{rest}", "byt5_in.layernorm.{rest}"),
        Rule("image_embedder.norm_in.{rest}", "vision_in.proj.0.{rest}"),
        Rule("image_embedder.norm_out.{rest}", "vision_in.proj.4.{rest}"),
        Rule("cond_type_embed.weight", "cond_type_embedding.weight"),
    ),
    respelled=HUNYUAN_IN_COMFYUI,
)
_ADALN = "adaln_single.emb"
PIXART = Original(
    rules=(),
    whole=(
        Rule("pos_embed.proj.{rest}", "x_embedder.proj.{rest}"),
        Rule("caption_projection.linear_1.{rest}", "y_embedder.y_proj.fc1.{rest}"),
        Rule("caption_projection.linear_2.{rest}", "y_embedder.y_proj.fc2.{rest}"),
        *embedder(f"{_ADALN}.timestep_embedder", "t_embedder"),
        *embedder(f"{_ADALN}.resolution_embedder", "csize_embedder"),
        *embedder(f"{_ADALN}.aspect_ratio_embedder", "ar_embedder"),
        Rule("adaln_single.linear.{rest}", "t_block.1.{rest}"),
        Rule("scale_shift_table", "final_layer.scale_shift_table"),
        Rule("proj_out.{rest}", "final_layer.linear.{rest}"),
        Rule(tuple(f"{_DOUBLE}.attn1.to_{x}.{{rest}}" for x in "qkv"), "blocks.{n}.attn.qkv.{rest}"),
        Rule(f"{_DOUBLE}.attn1.to_out.0.{{rest}}", "blocks.{n}.attn.proj.{rest}"),
        Rule(f"{_DOUBLE}.attn2.to_q.{{rest}}", "blocks.{n}.cross_attn.q_linear.{rest}"),
        Rule(tuple(f"{_DOUBLE}.attn2.to_{x}.{{rest}}" for x in "kv"), "blocks.{n}.cross_attn.kv_linear.{rest}"),
        Rule(f"{_DOUBLE}.attn2.to_out.0.{{rest}}", "blocks.{n}.cross_attn.proj.{rest}"),
        Rule(f"{_DOUBLE}.ff.net.0.proj.{{rest}}", "blocks.{n}.mlp.fc1.{rest}"),
        Rule(f"{_DOUBLE}.ff.net.2.{{rest}}", "blocks.{n}.mlp.fc2.{rest}"),
        Rule(f"{_DOUBLE}.scale_shift_table", "blocks.{n}.scale_shift_table"),
    ),
    dropped=r"pos_embed$|y_embedder\.y_embedding$",  # a table that is computed, and what stands for no caption
)

MOCHI = Original(
    rules=(),
    whole=(
        Rule("patch_embed.proj.{rest}", "x_embedder.proj.{rest}"),
        *embedder("time_embed.timestep_embedder", "t_embedder"),
        Rule("time_embed.caption_proj.{rest}", "t5_yproj.{rest}"),
        Rule("time_embed.pooler.{rest}", "t5_y_embedder.{rest}"),
        Rule(f"{_DOUBLE}.norm1.linear.{{rest}}", "blocks.{n}.mod_x.{rest}"),
        Rule(f"{_DOUBLE}.norm1_context.linear.{{rest}}", "blocks.{n}.mod_y.{rest}"),
        Rule(tuple(f"{_DOUBLE}.attn1.to_{x}.{{rest}}" for x in "qkv"), "blocks.{n}.attn.qkv_x.{rest}"),
        Rule(tuple(f"{_DOUBLE}.attn1.add_{x}_proj.{{rest}}" for x in "qkv"), "blocks.{n}.attn.qkv_y.{rest}"),
        Rule(f"{_DOUBLE}.attn1.to_out.0.{{rest}}", "blocks.{n}.attn.proj_x.{rest}"),
        Rule(f"{_DOUBLE}.attn1.to_add_out.{{rest}}", "blocks.{n}.attn.proj_y.{rest}"),
        *(
            Rule(f"{_DOUBLE}.attn1.norm_{added}{x}.{{rest}}", f"blocks.{{n}}.attn.{x}_norm_{stream}.{{rest}}")
            for added, stream in (("", "x"), ("added_", "y"))
            for x in "qk"
        ),
        *(
            rule
            for ours, stream in (("ff", "x"), ("ff_context", "y"))
            for rule in (
                Rule(f"{_DOUBLE}.{ours}.net.0.proj.{{rest}}", f"blocks.{{n}}.mlp_{stream}.w1.{{rest}}", SWAP_HALVES),
                Rule(f"{_DOUBLE}.{ours}.net.2.{{rest}}", f"blocks.{{n}}.mlp_{stream}.w2.{{rest}}"),
            )
        ),
        Rule("norm_out.linear.{rest}", "final_layer.mod.{rest}", SWAP_HALVES),
        Rule("proj_out.{rest}", "final_layer.linear.{rest}"),
    ),
    last=(Rule(f"{_DOUBLE}.norm1_context.linear_1.{{rest}}", "blocks.{n}.mod_y.{rest}"),),
)


def _of_norms(x: Tensors, _: Config) -> Tensors:
    """Of twelve parts, 0 to 2 and 6 to 8 (the video's and the text's before attention), and the rest."""
    return list(rearrange(x[0], "(stream norm part) ... -> norm (stream part) ...", stream=2, norm=2))


def _of_streams(x: Tensors, _: Config) -> Tensors:
    return [rearrange(list(x), "norm (stream part) ... -> (stream norm part) ...", stream=2)]


_SAT = "transformer.layers.{n}"
_MIXINS = "mixins"
_NORM_LISTS = f"{_MIXINS}.adaln_layer"

COGVIDEOX = Original(
    rules=(),
    whole=(
        Rule("norm_final.{rest}", "transformer.final_layernorm.{rest}"),
        *(
            Rule(f"{ours}_embedding.linear_{i + 1}.{{rest}}", f"{ours}_embed.{2 * i}.{{rest}}")
            for ours in ("time", "ofs")
            for i in (0, 1)
        ),
        Rule("patch_embed.pos_embedding", f"{_MIXINS}.pos_embed.pos_embedding"),
        Rule("patch_embed.{rest}", f"{_MIXINS}.patch_embed.{{rest}}"),
        Rule("norm_out.norm.{rest}", f"{_MIXINS}.final_layer.norm_final.{{rest}}"),
        Rule("norm_out.linear.{rest}", f"{_MIXINS}.final_layer.adaLN_modulation.1.{{rest}}"),
        Rule("proj_out.{rest}", f"{_MIXINS}.final_layer.linear.{{rest}}"),
        Rule(
            (f"{_DOUBLE}.norm1.linear.{{rest}}", f"{_DOUBLE}.norm2.linear.{{rest}}"),
            f"{_NORM_LISTS}.adaLN_modulations.{{n}}.1.{{rest}}",
            Transform(_of_norms, _of_streams, rows=True),
        ),
        *(
            Rule(f"{_DOUBLE}.attn1.norm_{x}.{{rest}}", f"{_NORM_LISTS}.{name}_layernorm_list.{{n}}.{{rest}}")
            for x, name in (("q", "query"), ("k", "key"))
        ),
        Rule(tuple(f"{_DOUBLE}.attn1.to_{x}.{{rest}}" for x in "qkv"), f"{_SAT}.attention.query_key_value.{{rest}}"),
        Rule(f"{_DOUBLE}.attn1.to_out.0.{{rest}}", f"{_SAT}.attention.dense.{{rest}}"),
        Rule(f"{_DOUBLE}.ff.net.0.proj.{{rest}}", f"{_SAT}.mlp.dense_h_to_4h.{{rest}}"),
        Rule(f"{_DOUBLE}.ff.net.2.{{rest}}", f"{_SAT}.mlp.dense_4h_to_h.{{rest}}"),
        Rule(f"{_DOUBLE}.norm1.norm.{{rest}}", f"{_SAT}.input_layernorm.{{rest}}"),
        Rule(f"{_DOUBLE}.norm2.norm.{{rest}}", f"{_SAT}.post_attention_layernorm.{{rest}}"),
    ),
    dropped=r".*(embed_tokens|freqs_sin|freqs_cos|position_embedding)",
)
"""As SwissArmyTransformer writes it."""
