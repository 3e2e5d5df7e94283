"""The layout of FLUX.2's authors' own files."""

from __future__ import annotations

from videodit.families.base import SWAP_HALVES, Original, Rule

_DOUBLE, _SINGLE, _TIME = "transformer_blocks.{n}", "single_transformer_blocks.{n}", "time_guidance_embed"

ORIGINAL = Original(
    rules=(
        Rule("x_embedder.{rest}", "img_in.{rest}"),
        Rule("context_embedder.{rest}", "txt_in.{rest}"),
        *(
            Rule(f"{_TIME}.{name}_embedder.linear_{i + 1}.{{rest}}", f"{theirs}_in.{side}_layer.{{rest}}")
            for name, theirs in (("timestep", "time"), ("guidance", "guidance"))
            for i, side in enumerate(("in", "out"))
        ),
        *(
            Rule(f"{name}.linear.{{rest}}", f"{name}.lin.{{rest}}")
            for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
        ),
        Rule(tuple(f"{_DOUBLE}.attn.to_{x}.{{rest}}" for x in "qkv"), "double_blocks.{n}.img_attn.qkv.{rest}"),
        Rule(tuple(f"{_DOUBLE}.attn.add_{x}_proj.{{rest}}" for x in "qkv"), "double_blocks.{n}.txt_attn.qkv.{rest}"),
        Rule(f"{_DOUBLE}.attn.to_out.0.{{rest}}", "double_blocks.{n}.img_attn.proj.{rest}"),
        Rule(f"{_DOUBLE}.attn.to_add_out.{{rest}}", "double_blocks.{n}.txt_attn.proj.{rest}"),
        *(
            Rule(f"{_DOUBLE}.{ours}.linear_{layer}.{{rest}}", f"double_blocks.{{n}}.{theirs}_mlp.{i}.{{rest}}")
            for ours, theirs in (("ff", "img"), ("ff_context", "txt"))
            for layer, i in (("in", 0), ("out", 2))
        ),
        Rule(f"{_SINGLE}.attn.to_qkv_mlp_proj.{{rest}}", "single_blocks.{n}.linear1.{rest}"),
        Rule(f"{_SINGLE}.attn.to_out.{{rest}}", "single_blocks.{n}.linear2.{rest}"),
        Rule("norm_out.linear.{rest}", "final_layer.adaLN_modulation.1.{rest}", SWAP_HALVES),
        Rule("proj_out.{rest}", "final_layer.linear.{rest}"),
    ),
    whole=tuple(
        Rule(f"{ours}{x}.weight", f"{theirs}.{name}_norm.scale")
        for ours, theirs in (
            (f"{_DOUBLE}.attn.norm_", "double_blocks.{n}.img_attn.norm"),
            (f"{_DOUBLE}.attn.norm_added_", "double_blocks.{n}.txt_attn.norm"),
            (f"{_SINGLE}.attn.norm_", "single_blocks.{n}.norm"),
        )
        for x, name in (("q", "query"), ("k", "key"))
    ),
)
