"""The layouts of FLUX.1's and FLUX.2's authors' own files, and of those of LongCat-Image, whose names are FLUX.1's."""

from __future__ import annotations

from videodit.families.base import ORIGINAL_MMDIT, SWAP_HALVES, Original, Rule

_DOUBLE, _SINGLE = "transformer_blocks.{n}", "single_transformer_blocks.{n}"


def _clocks(ours: str, names: tuple[tuple[str, str], ...]) -> tuple[Rule, ...]:
    """What the condition is made of: two linear layers for each of its parts."""
    return tuple(
        Rule(f"{ours}.{name}_embedder.linear_{i + 1}.{{rest}}", f"{theirs}_in.{side}_layer.{{rest}}")
        for name, theirs in names
        for i, side in enumerate(("in", "out"))
    )


def _mlps(first: str, second: str) -> tuple[Rule, ...]:
    """The MLPs of joint blocks, by diffusers' names of their layers."""
    return tuple(
        Rule(f"{_DOUBLE}.{ours}.{layer}.{{rest}}", f"double_blocks.{{n}}.{theirs}_mlp.{i}.{{rest}}")
        for ours, theirs in (("ff", "img"), ("ff_context", "txt"))
        for layer, i in ((first, 0), (second, 2))
    )


_EMBEDDERS = (Rule("x_embedder.{rest}", "img_in.{rest}"), Rule("context_embedder.{rest}", "txt_in.{rest}"))
_ATTENTION = (
    Rule(tuple(f"{_DOUBLE}.attn.to_{x}.{{rest}}" for x in "qkv"), "double_blocks.{n}.img_attn.qkv.{rest}"),
    Rule(tuple(f"{_DOUBLE}.attn.add_{x}_proj.{{rest}}" for x in "qkv"), "double_blocks.{n}.txt_attn.qkv.{rest}"),
    Rule(f"{_DOUBLE}.attn.to_out.0.{{rest}}", "double_blocks.{n}.img_attn.proj.{rest}"),
    Rule(f"{_DOUBLE}.attn.to_add_out.{{rest}}", "double_blocks.{n}.txt_attn.proj.{rest}"),
)
_NORMS = tuple(
    Rule(f"{ours}{x}.weight", f"{theirs}.{name}_norm.scale")
    for ours, theirs in (
        (f"{_DOUBLE}.attn.norm_", "double_blocks.{n}.img_attn.norm"),
        (f"{_DOUBLE}.attn.norm_added_", "double_blocks.{n}.txt_attn.norm"),
        (f"{_SINGLE}.attn.norm_", "single_blocks.{n}.norm"),
    )
    for x, name in (("q", "query"), ("k", "key"))
)

_BLOCKS = (
    Rule(f"{_DOUBLE}.norm1.linear.{{rest}}", "double_blocks.{n}.img_mod.lin.{rest}"),
    Rule(f"{_DOUBLE}.norm1_context.linear.{{rest}}", "double_blocks.{n}.txt_mod.lin.{rest}"),
    *_ATTENTION,
    *_mlps("net.0.proj", "net.2"),
    Rule(f"{_SINGLE}.norm.linear.{{rest}}", "single_blocks.{n}.modulation.lin.{rest}"),
    *ORIGINAL_MMDIT,
)

FLUX = Original(
    rules=(
        *_EMBEDDERS,
        *_clocks("time_text_embed", (("timestep", "time"), ("text", "vector"), ("guidance", "guidance"))),
        *_BLOCKS,
    ),
    whole=_NORMS,
)

LONGCAT_IMAGE = Original(rules=(*_EMBEDDERS, *_clocks("time_embed", (("timestep", "time"),)), *_BLOCKS), whole=_NORMS)
"""As ComfyUI has it."""

FLUX2 = Original(
    rules=(
        *_EMBEDDERS,
        *_clocks("time_guidance_embed", (("timestep", "time"), ("guidance", "guidance"))),
        *(
            Rule(f"{name}.linear.{{rest}}", f"{name}.lin.{{rest}}")
            for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
        ),
        *_ATTENTION,
        *_mlps("linear_in", "linear_out"),
        Rule(f"{_SINGLE}.attn.to_qkv_mlp_proj.{{rest}}", "single_blocks.{n}.linear1.{rest}"),
        Rule(f"{_SINGLE}.attn.to_out.{{rest}}", "single_blocks.{n}.linear2.{rest}"),
        Rule("norm_out.linear.{rest}", "final_layer.adaLN_modulation.1.{rest}", SWAP_HALVES),
        Rule("proj_out.{rest}", "final_layer.linear.{rest}"),
    ),
    whole=_NORMS,
)
