"""LoRAs: every layout of every family means what it means to diffusers; what is refused; out and in again."""

from __future__ import annotations

import copy
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from alignment import aligned
from diffusers.loaders import lora_conversion_utils as conversions
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videodit import VideoDiT, VideoDiTPipeline
from videodit.adapters import (
    BASE_HASH,
    BASE_MODEL,
    Delta,
    LoRA,
    ModuleMap,
    add_lora,
    find_lora,
    inspect_lora,
    read_lora,
    save_lora,
)
from videodit.adapters.modules import map_rows
from videodit.families import FAMILIES
from videodit.families.parity import FIRST_OF_FAMILY, MEMBERS, Member, randomize

NAMES = (*FIRST_OF_FAMILY.values(), "wan-i2v", "cogvideox-5b-i2v", "pixart-alpha")
every_family = pytest.mark.parametrize("name", NAMES)
Tensors = dict[str, Tensor]
Pairs = Callable[[str], tuple[Member, Any, VideoDiT]]
RANK = 3


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """A tiny member, diffusers' network, and ours with the same weights: fresh copies."""
    made: dict[str, tuple[Any, VideoDiT]] = {}

    def pair(name: str) -> tuple[Member, Any, VideoDiT]:
        if name not in made:
            torch.manual_seed(0)
            theirs = randomize(MEMBERS[name].theirs())
            made[name] = theirs, MEMBERS[name].ours(theirs)
        theirs, ours = made[name]
        return MEMBERS[name], copy.deepcopy(theirs), copy.deepcopy(ours)

    return pair


def distance(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


def layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    kinds = (nn.Linear, nn.Conv2d, nn.Conv3d)
    yield from ((name, module) for name, module in network.named_modules() if isinstance(module, kinds))


def draw(network: nn.Module, *, rank: int = RANK, seed: int = 1) -> Tensors:
    """A LoRA of all layers of one of diffusers' networks, under peft's names."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in layers(network):
        out, *rest = module.weight.shape
        down = torch.randn(rank, *rest, generator=generator) * torch.Size(rest).numel() ** -0.5
        tensors[f"{name}.lora_A.weight"] = down
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=generator) * 0.3
    return tensors


def load_theirs(theirs: Any, tensors: Tensors, **config: Any) -> Any:
    """peft's own way into diffusers' class; not all of them have diffusers' loader."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    names = {key.rsplit(".lora_", 1)[0] for key in tensors}
    target = "|".join(name.replace(".", r"\.") for name in names)
    config = {"r": RANK, "lora_alpha": RANK} | config
    inject_adapter_in_model(LoraConfig(target_modules=target, **config), theirs, adapter_name="default")
    result = set_peft_model_state_dict(theirs, tensors, "default")
    assert result.unexpected_keys == []
    return theirs.eval()


def read(dit: VideoDiT, source: Any, **options: Any) -> LoRA:
    return read_lora(find_lora(source), {"transformer": ModuleMap(dit.config)}, **options)


def load(dit: VideoDiT, source: Any, name: str = "default") -> LoRA:
    lora = read(dit, source)
    add_lora(dit, lora.deltas["transformer"], adapter_name=name)
    return lora


def prefixed(tensors: Tensors, prefix: str = "transformer.") -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


# --- diffusers' layout ---------------------------------------------------------------------------


@torch.no_grad()
@every_family
def test_equals_diffusers(name: str, pairs: Pairs) -> None:
    member, theirs, ours = pairs(name)
    tensors = draw(theirs)
    inputs = member.draw(ours, member.sizes[0])
    before = member.call(theirs, inputs)
    expected = member.call(load_theirs(theirs, tensors), inputs)
    assert distance(before, expected) > 0.1
    lora = load(ours, prefixed(tensors))
    assert lora.info.matched == lora.info.total == len(tensors) // 2
    assert lora.info.layout == "diffusers"
    assert distance(ours(**inputs).sample, expected) <= 1e-5


@torch.no_grad()
@every_family
def test_kohyas_names_with_alpha_equal_diffusers(name: str, pairs: Pairs) -> None:
    _, theirs, ours = pairs(name)
    tensors = draw(theirs)
    flat = {}
    for key, value in tensors.items():
        module, _, end = key.partition(".lora_")
        module = f"lora_unet_{module.replace('.', '_')}"
        flat[f"{module}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = value
        flat[f"{module}.alpha"] = torch.tensor(2.0 * RANK)
    doubled = {key: value * 2 if "lora_B" in key else value for key, value in tensors.items()}
    found, expected = read(ours, flat), read(ours, prefixed(doubled))
    assert found.info.layout == "kohya"
    assert_same(found, expected)


def assert_same(found: LoRA, expected: LoRA) -> None:
    """The same change of the same layers, as seen by a few vectors."""
    ours, theirs = found.deltas["transformer"], expected.deltas["transformer"]
    assert set(ours) == set(theirs)
    for key, delta in theirs.items():
        vectors = torch.randn(delta.down.shape[1], 3, generator=torch.Generator().manual_seed(0))
        assert distance(change(ours[key], vectors), change(delta, vectors)) <= 1e-5, key


def change(delta: Delta, vectors: Tensor) -> Tensor:
    return delta.scale * delta.up @ (delta.down @ vectors)


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "diffusion_model.", "base_model.model.transformer."])
@pytest.mark.parametrize(
    ("down", "up"),
    [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        (".lora_down.weight", ".lora_up.weight"),
    ],
)
def test_other_spellings(prefix: str, down: str, up: str, pairs: Pairs) -> None:
    _, theirs, ours = pairs("hunyuan_video")
    tensors = draw(theirs)
    spelled = {
        prefix + key.replace(".lora_A.weight", down).replace(".lora_B.weight", up): value
        for key, value in tensors.items()
    }
    assert_same(read(ours, spelled), read(ours, prefixed(tensors)))


def test_processors_of_old(pairs: Pairs) -> None:
    _, theirs, ours = pairs("wan")
    tensors = {key: value for key, value in draw(theirs).items() if ".attn1." in key}
    old = {}
    for key, value in tensors.items():
        block, _, rest = key.partition(".attn1.")
        layer, _, end = rest.partition(".lora_")
        side = "down" if end[0] == "A" else "up"
        old[f"transformer.{block}.attn1.processor.{layer.removesuffix('.0')}_lora.{side}.weight"] = value
    assert_same(read(ours, old), read(ours, prefixed(tensors)))


# --- the authors' layouts ------------------------------------------------------------------------


def original(sizes: dict[str, tuple[int, int]], style: str, *, alpha: float = 1.0) -> Tensors:
    """A LoRA of rank 2 under the authors' names, dotted or as musubi-tuner writes them."""
    generator = torch.Generator().manual_seed(3)
    tensors: Tensors = {}
    for name, (out, size) in sizes.items():
        down, up = torch.randn(2, size, generator=generator), torch.randn(out, 2, generator=generator)
        if style == "kohya":
            flat = f"lora_unet_{name.replace('.', '_')}"
            tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
            tensors[f"{flat}.alpha"] = torch.tensor(alpha)
        else:
            tensors |= {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
    return tensors


def wan_sizes(*, only_blocks: bool) -> dict[str, tuple[int, int]]:
    sizes = {}
    for i in range(2):
        sizes |= {f"blocks.{i}.{a}_attn.{x}": (32, 32) for a in ("self", "cross") for x in "qkvo"}
        sizes |= {f"blocks.{i}.cross_attn.{x}_img": (32, 32) for x in "kv"}
        sizes |= {f"blocks.{i}.ffn.0": (48, 32), f"blocks.{i}.ffn.2": (32, 48)}
    if not only_blocks:
        sizes |= {
            "time_embedding.0": (32, 16), "time_embedding.2": (32, 32), "text_embedding.0": (32, 12),
            "text_embedding.2": (32, 32), "time_projection.1": (192, 32), "img_emb.proj.1": (10, 10),
            "img_emb.proj.3": (32, 10), "head.head": (16, 32),
        }  # fmt: skip
    return sizes


@pytest.mark.parametrize("style", ["dotted", "kohya"])
def test_wans_own_names_are_what_diffusers_makes_of_them(style: str, pairs: Pairs) -> None:
    _, _, ours = pairs("wan-i2v")
    tensors = original(wan_sizes(only_blocks=style == "kohya"), style)
    convert = {
        "dotted": conversions._convert_non_diffusers_wan_lora_to_diffusers,
        "kohya": conversions._convert_musubi_wan_lora_to_diffusers,
    }[style]
    found = read(ours, tensors)
    assert found.info.layout == ("original" if style == "dotted" else "kohya")
    assert_same(found, read(ours, convert(dict(tensors))))


def test_the_rest_of_wans_names_in_kohyas_form(pairs: Pairs) -> None:
    _, _, ours = pairs("wan-i2v")
    sizes = wan_sizes(only_blocks=False)
    assert_same(read(ours, original(sizes, "kohya", alpha=2)), read(ours, original(sizes, "dotted")))


def meta(family: str, config: dict[str, Any]) -> Any:
    """The layers of a network of its real width, without weights."""
    return ModuleMap(FAMILIES[family].native_config(config))


def deltas(model: ModuleMap, tensors: Tensors) -> LoRA:
    return read_lora(find_lora(tensors), {"transformer": model})


def test_hunyuan_videos_own_names_are_what_diffusers_makes_of_them() -> None:
    """At the width that diffusers' converter is written for."""
    model = meta("hunyuan_video", {"num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1})
    dim = 3072
    refiner = "txt_in.individual_token_refiner.blocks.0"
    sizes = {
        "img_in.proj": (dim, 64), "time_in.mlp.0": (dim, 256), "time_in.mlp.2": (dim, dim),
        "vector_in.in_layer": (dim, 768), "vector_in.out_layer": (dim, dim), "guidance_in.mlp.0": (dim, 256),
        "guidance_in.mlp.2": (dim, dim), "txt_in.input_embedder": (dim, 4096), "txt_in.t_embedder.mlp.0": (dim, 256),
        "txt_in.t_embedder.mlp.2": (dim, dim), "txt_in.c_embedder.linear_1": (dim, 4096),
        "txt_in.c_embedder.linear_2": (dim, dim), f"{refiner}.self_attn_proj": (dim, dim),
        f"{refiner}.mlp.fc1": (4 * dim, dim), f"{refiner}.mlp.fc2": (dim, 4 * dim),
        f"{refiner}.adaLN_modulation.1": (2 * dim, dim), "single_blocks.0.linear1": (7 * dim, dim),
        "single_blocks.0.linear2": (dim, 5 * dim), "single_blocks.0.modulation.linear": (3 * dim, dim),
        "final_layer.linear": (64, dim),
    }  # fmt: skip
    for stream in ("img", "txt"):
        block = f"double_blocks.0.{stream}"
        sizes |= {f"{block}_attn_qkv": (3 * dim, dim), f"{block}_attn_proj": (dim, dim)}
        sizes |= {f"{block}_mlp.fc1": (4 * dim, dim), f"{block}_mlp.fc2": (dim, 4 * dim)}
        sizes[f"{block}_mod.linear"] = (6 * dim, dim)
    tensors = original(sizes, "dotted")
    expected = conversions._convert_hunyuan_video_lora_to_diffusers(dict(tensors))
    assert_same(deltas(model, tensors), deltas(model, expected))
    # What diffusers' converter takes apart wrongly: of a fused refiner and of a final modulation, `lora_A`, too.
    more = {f"{refiner}.self_attn_qkv": (3 * dim, dim), "final_layer.adaLN_modulation.1": (2 * dim, dim)}
    tensors = original(more, "dotted")
    up, down = tensors[f"diffusion_model.{refiner}.self_attn_qkv.lora_B.weight"], "text_embedder.blocks.0.attn"
    found = deltas(model, tensors).deltas["transformer"]
    assert torch.equal(found[f"{down}.to_k"].up, up[dim : 2 * dim])
    # The authors' files have shift before scale, as we do, and diffusers the other way round.
    final = tensors["diffusion_model.final_layer.adaLN_modulation.1.lora_B.weight"]
    assert torch.equal(found["final_modulation"].up, final)
    # kohya's form of all of it
    assert_same(
        deltas(model, original(sizes | more, "kohya", alpha=2)), deltas(model, original(sizes | more, "dotted"))
    )


OF_HUNYUAN_15 = (
    (r"^transformer_blocks\.(\d+)\.attn\.to_(q|k|v)$", r"double_blocks.\1.img_attn_\2"),
    (r"^transformer_blocks\.(\d+)\.attn\.add_(q|k|v)_proj$", r"double_blocks.\1.txt_attn_\2"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_out\.0$", r"double_blocks.\1.img_attn_proj"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_add_out$", r"double_blocks.\1.txt_attn_proj"),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.0\.proj$", r"double_blocks.\1.img_mlp.fc1"),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.2$", r"double_blocks.\1.img_mlp.fc2"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj$", r"double_blocks.\1.txt_mlp.fc1"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.2$", r"double_blocks.\1.txt_mlp.fc2"),
    (r"^transformer_blocks\.(\d+)\.norm1\.linear$", r"double_blocks.\1.img_mod.linear"),
    (r"^transformer_blocks\.(\d+)\.norm1_context\.linear$", r"double_blocks.\1.txt_mod.linear"),
    (r"^context_embedder_2\.linear_(\d)$", r"byt5_in.fc\1"),
    (r"^image_embedder\.linear_1$", "vision_in.proj.1"),
    (r"^image_embedder\.linear_2$", "vision_in.proj.3"),
    (r"^time_embed\.timestep_embedder_r\.linear_1$", "time_r_in.mlp.0"),
    (r"^time_embed\.timestep_embedder\.linear_2$", "time_in.mlp.2"),
    (r"^context_embedder\.proj_in$", "txt_in.input_embedder"),
)
"""diffusers' names of layers, and the authors'."""


@pytest.mark.parametrize("style", ["dotted", "kohya"])
def test_hunyuan_video15s_own_names(style: str, pairs: Pairs) -> None:
    """diffusers' transformer takes its own names alone."""
    _, theirs, ours = pairs("hunyuan_video15-meanflow")
    own, known, used = {}, {}, set()
    for key, value in draw(theirs).items():
        module, _, end = key.partition(".lora_")
        for old, new in OF_HUNYUAN_15:
            if (name := re.sub(old, new, module)) != module:
                used.add(old)
                known[key] = value
                if style == "dotted":
                    own[f"diffusion_model.{name}.lora_{end}"] = value
                else:
                    flat = f"lora_unet_{name.replace('.', '_')}"
                    own[f"{flat}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = value
                    own[f"{flat}.alpha"] = torch.tensor(float(value.shape[0 if end[0] == "A" else 1]))
    assert used == {old for old, _ in OF_HUNYUAN_15}
    assert_same(read(ours, own), read(ours, prefixed(known)))


def test_flux_own_names_are_what_diffusers_makes_of_them() -> None:
    """At the width that diffusers' converter is written for."""
    model = meta("flux", {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True})
    dim = 3072
    blocks = {
        "single_blocks.0.linear1": (7 * dim, dim), "single_blocks.0.linear2": (dim, 5 * dim),
        "single_blocks.0.modulation.lin": (3 * dim, dim),
    }  # fmt: skip
    for stream in ("img", "txt"):
        block = f"double_blocks.0.{stream}"
        blocks |= {f"{block}_attn.qkv": (3 * dim, dim), f"{block}_attn.proj": (dim, dim)}
        blocks |= {f"{block}_mlp.0": (4 * dim, dim), f"{block}_mlp.2": (dim, 4 * dim)}
        blocks[f"{block}_mod.lin"] = (6 * dim, dim)
    sizes = blocks | {
        "img_in": (dim, 64), "txt_in": (dim, 4096), "final_layer.linear": (64, dim),
        "final_layer.adaLN_modulation.1": (2 * dim, dim), "vector_in.in_layer": (dim, 768),
        "vector_in.out_layer": (dim, dim), "time_in.in_layer": (dim, 256), "time_in.out_layer": (dim, dim),
        "guidance_in.in_layer": (dim, 256), "guidance_in.out_layer": (dim, dim),
    }  # fmt: skip
    tensors = original(sizes, "kohya", alpha=2)  # diffusers leaves out the alpha of the last layers
    found = deltas(model, tensors)
    assert found.info.layout == "kohya"
    expected = deltas(model, conversions._convert_kohya_flux_lora_to_diffusers(dict(tensors)))
    assert_same(found, expected)
    assert_same(deltas(model, original(sizes, "dotted")), expected)


def test_ltx_videos_own_names(pairs: Pairs) -> None:
    _, theirs, ours = pairs("ltx")
    tensors = draw(theirs)
    own = {
        f"diffusion_model.{key}".replace("proj_in.", "patchify_proj.").replace(".time_embed.", ".adaln_single."): value
        for key, value in tensors.items()
    }
    assert any("patchify_proj" in key for key in own)
    assert any("adaln_single" in key for key in own)
    assert_same(read(ours, own), read(ours, prefixed(tensors)))


def spelled(tensors: dict[str, Tensor], spelling: str) -> dict[str, Tensor]:
    """Diffusers' tensors in a spelling of other tools: ``"diffusion_model"``, ``"default"`` or ``"lora_unet"``."""
    if spelling == "diffusion_model":
        return prefixed(tensors, "diffusion_model.")
    if spelling == "default":
        return {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}
    written = {}
    for key, value in tensors.items():
        module, _, end = key.partition(".lora_")
        flat = f"lora_unet_{module.replace('.', '_')}"
        written[f"{flat}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = value
        written[f"{flat}.alpha"] = torch.tensor(2.0)
    return written


@pytest.mark.parametrize("spelling", ["diffusion_model", "lora_unet", "default"])
def test_qwen_images_spellings_are_what_diffusers_makes_of_them(spelling: str, pairs: Pairs) -> None:
    _, theirs, ours = pairs("qwen_image")
    tensors = draw(theirs)
    written = spelled(tensors, spelling)
    expected = conversions._convert_non_diffusers_qwen_lora_to_diffusers(dict(written))
    assert set(expected) == set(prefixed(tensors))
    assert_same(read(ours, written), read(ours, expected))


@pytest.mark.parametrize("style", ["dotted", "kohya"])
def test_longcat_images_names_in_comfyui_are_flux1s(style: str, pairs: Pairs) -> None:
    """diffusers has no converter for them: against that of FLUX.1's, at the width that it is written for."""
    model = meta("longcat_image", {"num_layers": 1, "num_single_layers": 1})
    dim = 3072
    sizes = {
        "single_blocks.0.linear1": (7 * dim, dim), "single_blocks.0.linear2": (dim, 5 * dim),
        "single_blocks.0.modulation.lin": (3 * dim, dim), "final_layer.linear": (64, dim),
        "final_layer.adaLN_modulation.1": (2 * dim, dim), "img_in": (dim, 64), "txt_in": (dim, 3584),
    }  # fmt: skip
    for stream in ("img", "txt"):
        block = f"double_blocks.0.{stream}"
        sizes |= {f"{block}_attn.qkv": (3 * dim, dim), f"{block}_attn.proj": (dim, dim)}
        sizes |= {f"{block}_mlp.0": (4 * dim, dim), f"{block}_mlp.2": (dim, 4 * dim)}
        sizes[f"{block}_mod.lin"] = (6 * dim, dim)
    tensors = original(sizes, "kohya", alpha=2)
    expected = deltas(model, conversions._convert_kohya_flux_lora_to_diffusers(dict(tensors)))
    assert_same(deltas(model, original(sizes, style, alpha=2)), expected)
    clock = original({"time_in.in_layer": (dim, 256), "time_in.out_layer": (dim, dim)}, style)
    found = deltas(model, clock).deltas["transformer"]
    assert set(found) == {"time_embedder.linear_1", "time_embedder.linear_2"}


@pytest.mark.parametrize("spelling", ["diffusion_model", "lora_unet", "default"])
def test_z_images_spellings_are_what_diffusers_makes_of_them(spelling: str, pairs: Pairs) -> None:
    _, theirs, ours = pairs("z_image")
    tensors = draw(theirs)
    if spelling == "lora_unet":  # whose dashes and underscores diffusers' converter takes apart
        tensors = {key: value for key, value in tensors.items() if "2-1" not in key}
    written = spelled(tensors, spelling)
    expected = conversions._convert_non_diffusers_z_image_lora_to_diffusers(dict(written))
    found = read(ours, written)
    assert found.info.matched == found.info.total
    assert_same(
        found, read(ours, {f"transformer.{key.removeprefix('transformer.')}": v for key, v in expected.items()})
    )


@pytest.mark.parametrize("style", ["dotted", "kohya"])
def test_z_images_own_names(style: str, pairs: Pairs) -> None:
    """Queries, keys and values in one layer, as its authors have them: against the layers one by one."""
    _, _, ours = pairs("z_image")
    dim = 32
    sizes = {}
    for block in ("layers.0", "layers.1", "noise_refiner.1", "context_refiner.0"):
        sizes |= {f"{block}.attention.qkv": (3 * dim, dim), f"{block}.attention.out": (dim, dim)}
        sizes |= {f"{block}.feed_forward.w{i}": (dim, 85) if i == 2 else (85, dim) for i in (1, 2, 3)}
    tensors = original(sizes, "dotted")
    own = {}
    for key, value in tensors.items():
        key = key.removeprefix("diffusion_model.").replace(".attention.out.", ".attention.to_out.0.")
        parts = value.chunk(3) if "lora_B" in key else [value] * 3
        for x, part in zip("qkv", parts, strict=True):
            own[key.replace("attention.qkv", f"attention.to_{x}")] = part if "qkv" in key else value
    found = read(ours, original(sizes, style, alpha=2))
    assert found.info.matched == found.info.total
    assert_same(found, read(ours, prefixed(own)))


@pytest.mark.parametrize("style", ["dotted", "kohya"])
def test_flux2s_own_names_are_what_diffusers_makes_of_them(style: str, pairs: Pairs) -> None:
    _, _, ours = pairs("flux2-dev")
    dim, hidden = 32, 96
    sizes = {}
    for i in range(2):
        sizes[f"single_blocks.{i}.linear1"] = (3 * dim + 2 * hidden, dim)
        sizes[f"single_blocks.{i}.linear2"] = (dim, dim + hidden)
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            sizes |= {f"{block}_attn.qkv": (3 * dim, dim), f"{block}_attn.proj": (dim, dim)}
            sizes |= {f"{block}_mlp.0": (2 * hidden, dim), f"{block}_mlp.2": (dim, hidden)}
    sizes |= {
        "img_in": (dim, 16), "txt_in": (dim, 12), "time_in.in_layer": (dim, 16), "time_in.out_layer": (dim, dim),
        "guidance_in.in_layer": (dim, 16), "guidance_in.out_layer": (dim, dim), "final_layer.linear": (16, dim),
        "single_stream_modulation.lin": (3 * dim, dim), "double_stream_modulation_img.lin": (6 * dim, dim),
        "double_stream_modulation_txt.lin": (6 * dim, dim),
    }  # fmt: skip
    if style == "kohya":  # diffusers' converter knows no others
        sizes = {name: size for name, size in sizes.items() if "modulation" not in name and "guidance" not in name}
    tensors = original(sizes, style)
    convert = {
        "dotted": conversions._convert_non_diffusers_flux2_lora_to_diffusers,
        "kohya": conversions._convert_kohya_flux2_lora_to_diffusers,
    }[style]
    found = read(ours, tensors)
    assert found.info.layout == ("original" if style == "dotted" else "kohya")
    assert found.info.matched == found.info.total
    assert_same(found, read(ours, convert(dict(tensors))))
    # diffusers' converter leaves the final modulation's halves as they are; the authors' files have shift first, as we.
    final = original({"final_layer.adaLN_modulation.1": (2 * dim, dim)}, "dotted")
    up = final["diffusion_model.final_layer.adaLN_modulation.1.lora_B.weight"]
    assert torch.equal(read(ours, final).deltas["transformer"]["final_modulation"].up, up)


# --- alpha, DoRA, differences --------------------------------------------------------------------


def test_alpha_of_diffusers_metadata(pairs: Pairs, tmp_path: Path) -> None:
    """Of a model's own ``save_lora_adapter``, and of a pipeline's file."""
    from peft import LoraConfig

    _, theirs, ours = pairs("wan")
    theirs.add_adapter(
        LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "proj_out"], alpha_pattern={"proj_out": 8}), "x"
    )
    theirs.save_lora_adapter(tmp_path, adapter_name="x", weight_name="model.safetensors")
    found = read(ours, tmp_path / "model.safetensors").deltas["transformer"]
    assert {delta.scale for name, delta in found.items() if name != "proj_out"} == {0.5}
    assert found["proj_out"].scale == 2.0
    tensors = load_file(tmp_path / "model.safetensors")
    config = {"transformer.r": 4, "transformer.lora_alpha": 16, "transformer.use_rslora": True}
    save_file(prefixed(tensors), tmp_path / "pipe.safetensors", {"lora_adapter_metadata": json.dumps(config)})
    assert read(ours, tmp_path / "pipe.safetensors").deltas["transformer"]["proj_out"].scale == 8.0


def test_alpha_of_a_peft_folder(pairs: Pairs, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    _, theirs, ours = pairs("pixart-sigma")
    model = get_peft_model(theirs, LoraConfig(r=2, lora_alpha=6, target_modules=["to_k"], init_lora_weights=False))
    with warnings.catch_warnings():  # it looks for the base model's config on the hub
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path)
    found = read(ours, tmp_path)
    assert {delta.scale for delta in found.deltas["transformer"].values()} == {3.0}
    assert found.info.matched == 4


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan", "cogvideox-2b", "allegro"])
def test_dora_equals_peft_on_diffusers_class(name: str, pairs: Pairs) -> None:
    member, theirs, ours = pairs(name)
    generator = torch.Generator().manual_seed(5)
    tensors = {k: v for k, v in draw(theirs).items() if v.ndim == 2 and "pos_embed" not in k and "patch_embed" not in k}
    for key in [key for key in tensors if "lora_B" in key]:
        module = key.removesuffix(".lora_B.weight")
        norm = theirs.get_submodule(module).weight.norm(dim=1)
        tensors[f"{module}.lora_magnitude_vector"] = norm * (0.5 + torch.rand(norm.shape, generator=generator))
    inputs = member.draw(ours, member.sizes[0])
    expected = member.call(load_theirs(theirs, tensors, use_dora=True), inputs)
    kohya = {k.replace(".lora_magnitude_vector", ".dora_scale"): v for k, v in tensors.items()}
    kohya = {k: v[:, None] if "dora_scale" in k else v for k, v in kohya.items()}
    for source in (prefixed(tensors), prefixed(kohya)):
        dit = copy.deepcopy(ours)
        assert load(dit, source).info.dora
        assert distance(dit(**inputs).sample, expected) <= 1e-5


@torch.no_grad()
def test_differences_are_added(pairs: Pairs) -> None:
    """`diff` and `diff_b` of some Wan files, beside LoRA whose alpha is not theirs."""
    member, _, ours = pairs("wan")
    changed = copy.deepcopy(ours)
    tensors: Tensors = {
        "diffusion_model.blocks.0.self_attn.q.diff": 0.1 * torch.randn(32, 32),
        "diffusion_model.blocks.0.ffn.0.diff": 0.1 * torch.randn(48, 32),
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.randn(32),
        "diffusion_model.blocks.1.cross_attn.o.diff_b": torch.randn(32),
        "diffusion_model.blocks.1.self_attn.v.lora_down.weight": torch.randn(2, 32),
        "diffusion_model.blocks.1.self_attn.v.lora_up.weight": torch.randn(32, 2),
        "diffusion_model.blocks.1.self_attn.v.alpha": torch.tensor(0.5),
        "diffusion_model.blocks.1.self_attn.v.diff_b": torch.randn(32),
        "diffusion_model.blocks.1.norm3.diff": torch.zeros(32),
        "diffusion_model.patch_embedding.diff": torch.randn(32, 4, 1, 2, 2),
        "diffusion_model.patch_embedding.diff_b": torch.randn(32),
    }
    changed.patch_embed.weight += tensors["diffusion_model.patch_embedding.diff"].flatten(1)
    changed.patch_embed.bias += tensors["diffusion_model.patch_embedding.diff_b"]
    short = {key.removeprefix("diffusion_model.blocks."): value for key, value in tensors.items()}
    first, second = changed.blocks[0], changed.blocks[1]
    first.attn1.to_q.weight += short["0.self_attn.q.diff"]
    first.attn1.to_q.bias += short["0.self_attn.q.diff_b"]
    first.ffn.net[0].proj.weight += short["0.ffn.0.diff"]
    second.attn2.to_out[0].bias += short["1.cross_attn.o.diff_b"]
    second.attn1.to_v.weight += 0.25 * short["1.self_attn.v.lora_up.weight"] @ short["1.self_attn.v.lora_down.weight"]
    second.attn1.to_v.bias += short["1.self_attn.v.diff_b"]
    inputs = member.draw(ours, member.sizes[0])
    expected = changed(**inputs).sample
    lora = load(ours, tensors)
    assert "blocks.1.norm2.weight" in lora.differences["transformer"]
    assert distance(ours(**inputs).sample, expected) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("side", ["norm1", "norm2"])
def test_one_of_two_layers_whose_rows_are_mixed(side: str, pairs: Pairs) -> None:
    """CogVideoX has two modulations, each for both streams; ours are by stream."""
    member, theirs, ours = pairs("cogvideox-2b")
    tensors = {k: v for k, v in draw(theirs).items() if f".{side}.linear" in k}
    inputs = member.draw(ours, member.sizes[0])
    expected = member.call(load_theirs(theirs, tensors), inputs)
    load(ours, tensors)
    assert distance(ours(**inputs).sample, expected) <= 1e-5


@torch.no_grad()
def test_mixed_layers_of_different_alpha_and_with_biases(pairs: Pairs) -> None:
    _, theirs, ours = pairs("cogvideox-2b")
    tensors = {k: v for k, v in draw(theirs).items() if "s.0.norm" in k}
    tensors["transformer_blocks.0.norm1.linear.alpha"] = torch.tensor(6.0)
    tensors["transformer_blocks.0.norm2.linear.lora_B.bias"] = torch.randn(6 * 32)
    first = (
        2
        * tensors["transformer_blocks.0.norm1.linear.lora_B.weight"]
        @ tensors["transformer_blocks.0.norm1.linear.lora_A.weight"]
    )
    found = read(ours, tensors).deltas["transformer"]["blocks.0.text_modulation"]
    assert distance(change(found, torch.eye(20))[: 3 * 32], first[3 * 32 :]) <= 1e-6
    assert found.bias is not None
    assert torch.equal(found.bias[: 3 * 32], torch.zeros(3 * 32))
    assert torch.equal(found.bias[3 * 32 :], tensors["transformer_blocks.0.norm2.linear.lora_B.bias"][3 * 32 :])


# --- out and in again ----------------------------------------------------------------------------


def with_adapter(dit: VideoDiT, **config: Any) -> VideoDiT:
    """A LoRA as training leaves it."""
    from peft import LoraConfig

    targets = [name for name, module in dit.named_modules() if isinstance(module, nn.Linear)]
    pattern = "|".join(name.replace(".", r"\.") for name in targets)
    options = {"r": 4, "lora_alpha": 6, "init_lora_weights": False} | config
    torch.manual_seed(2)
    dit.add_adapter(LoraConfig(target_modules=pattern, **options))
    return dit.eval()


@torch.no_grad()
@pytest.mark.parametrize("layout", ["diffusers", "native"])
@every_family
def test_saved_and_loaded_it_is_the_same(name: str, layout: Any, pairs: Pairs, tmp_path: Path) -> None:
    member, theirs, plain = pairs(name)
    trained = with_adapter(copy.deepcopy(plain), use_dora=name == "latte")
    inputs = member.draw(plain, member.sizes[0])
    expected = trained(**inputs).sample
    file = tmp_path / "lora.safetensors"
    assert save_lora(trained, file, layout=layout, metadata={"modelspec.title": "Test"}) == file
    assert [path.name for path in tmp_path.iterdir()] == ["lora.safetensors"]
    lora = load(plain, file)
    assert lora.info.layout == layout
    assert lora.info.metadata["modelspec.title"] == "Test"
    assert lora.info.matched == lora.info.total
    made = aligned(plain)(**inputs).sample
    layers = dict(plain.named_parameters())
    if any(layer.shape != trained.get_parameter(name).shape for name, layer in layers.items()):
        # parts of one layer became one of all their ranks: zeros are added, in another order
        assert distance(made, expected) <= 1e-6
    else:
        assert torch.equal(made, expected)
    if layout == "diffusers" and hasattr(theirs, "load_lora_adapter"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft finds more layers by the ends of their names, and says so
            metadata = json.loads(lora.info.metadata["lora_adapter_metadata"])
            config = {key.removeprefix("transformer."): value for key, value in metadata.items()}
            theirs.load_lora_adapter(load_file(file), prefix="transformer", metadata=metadata)
        assert config["lora_alpha"] == 6
        assert distance(member.call(theirs, inputs), expected) <= 1e-5


def test_our_own_models_keep_their_names(tmp_path: Path) -> None:
    dit = with_adapter(tiny())
    save_lora(dit, tmp_path / "x.safetensors", metadata={BASE_HASH: "abc"})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert "transformer.blocks.0.attn1.to_out.0.lora_A.weight" in set(file.keys())
        assert file.metadata()[BASE_HASH] == "abc"
    assert read(tiny(), tmp_path / "x.safetensors").info.base_hash == "abc"


def tiny() -> VideoDiT:
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "text_dim": 32}
    return randomize(VideoDiT(**options, ffn_dim=64, num_layers=2)).eval()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.safetensors"
    save_lora(with_adapter(tiny()), file)
    old = file.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("videodit.adapters.saving.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_lora(with_adapter(tiny()), file)
    assert file.read_bytes() == old
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "kohya"}, "layout is 'kohya'; valid values are diffusers, native"),
        ({"adapter_name": "other"}, "adapter_name is 'other'; there are default"),
        ({"metadata": {"modelspec.date": 3}}, "metadata must be texts by name, got 'modelspec.date': 3"),
        ({"metadata": {"videodit.layout": "x"}}, "metadata holds 'videodit.layout', which is written by save_lora"),
    ],
)
def test_saving_refuses(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_lora(with_adapter(tiny()), tmp_path / "x.safetensors", **options)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_lora(tiny(), tmp_path / "x.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_it_did_not_write_is_left_alone(tmp_path: Path) -> None:
    model, file = with_adapter(tiny()), tmp_path / "mine.safetensors"
    save_file({"mine": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"mine\.safetensors' exists and was not written by save_lora"):
        save_lora(model, file)
    assert set(load_file(file)) == {"mine"}
    file.unlink()
    save_lora(model, file)
    save_lora(model, file)  # its own it replaces


def test_gathered_tensors_can_be_given(tmp_path: Path) -> None:
    dit = with_adapter(tiny())
    gathered = {key: value.clone() + 1 for key, value in dit.state_dict().items()}
    save_lora(dit, tmp_path / "x.safetensors", state_dict=gathered)
    saved = load_file(tmp_path / "x.safetensors")["transformer.proj_out.lora_A.weight"]
    assert torch.equal(saved, gathered["proj_out.lora_A.default.weight"])


# --- what is refused, and what is told -----------------------------------------------------------


def some(dit: VideoDiT) -> Tensors:
    """A LoRA of two layers, as diffusers would write it."""
    generator = torch.Generator().manual_seed(7)
    return {
        f"transformer.blocks.{i}.attn1.to_q.lora_{x}.weight": torch.randn(shape, generator=generator)
        for i in (0, 1)
        for x, shape in (("A", (2, 32)), ("B", (32, 2)))
    }


def test_one_that_fits_nothing_is_an_error() -> None:
    tensors = {"transformer.double_blocks.7.img_attn.qkv.lora_A.weight": torch.zeros(2, 32)}
    message = r"fits no module of this VideoDiT: it holds .*double_blocks.7.*expected names such as patch_embed, blocks"
    with pytest.raises(ValueError, match=message):
        read(tiny(), tensors)


def test_a_partial_match_tells_how_much() -> None:
    tensors = some(tiny())
    tensors |= {k.replace("blocks.1", "blocks.9"): v for k, v in tensors.items() if "blocks.1" in k}
    info = read(tiny(), tensors).info
    assert (info.matched, info.total) == (2, 3)
    assert info.notices == (
        "LoRA 'lora': 2/3 modules match; the model lacks transformer.blocks.9.attn1.to_q.lora_A.weight",
    )


def test_text_encoders_are_left_out_aloud() -> None:
    names = ("lora_te1_text_model_x.lora_down.weight", "text_encoder.layers.0.lora_A.weight")
    info = read(tiny(), some(tiny()) | {name: torch.zeros(2, 2) for name in names}).info
    assert (info.matched, info.total) == (2, 2)
    assert info.notices == (f"LoRA 'lora': 2 tensors for text encoders are left out, for example {names[0]}",)


def test_a_lora_of_another_base_is_told() -> None:
    dit, file = tiny(), find_lora(some(tiny()))
    file.metadata.update({BASE_HASH: "abc", BASE_MODEL: "mini"})
    models = {"transformer": ModuleMap(dit.config)}
    assert read_lora(file, models, base_hash="abc").info.notices == ()
    (notice,) = read_lora(file, models, base_hash="def").info.notices
    assert notice == "LoRA 'lora' was made for mini (abc), not for these weights (def)"


QKV = "transformer.blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{QKV}.lora_A.weight": (2, 31)}, r"lora_A of blocks.0.attn1.to_q has shape \[2, 31\], .* needs \[2, 32\]"),
        ({f"{QKV}.lora_B.weight": (33, 2)}, r"lora_B of blocks.0.attn1.to_q has shape \[33, 2\], .* needs \[32, 2\]"),
        ({f"{QKV}.lora_B.weight": None}, "blocks.0.attn1.to_q has one of lora_A and lora_B, both are needed"),
        ({f"{QKV}.dora_scale": (1, 32)}, r"magnitude of blocks.0.attn1.to_q has shape \[1, 32\]"),
        ({f"{QKV}.dora_scale": (32,)}, "is a DoRA for blocks.0.attn1.to_q and none for blocks.1.attn1.to_q"),
        ({f"{QKV}.alpha": ()}, "alpha of blocks.0.attn1.to_q is 0.0; it must be a number above 0"),
        ({f"{QKV}.diff": (32, 32)}, "blocks.0.attn1.to_q has a difference beside LoRA or DoRA"),
        ({f"{QKV}.lora_down.weight": (2, 32)}, "holds blocks.0.attn1.to_q twice"),
        (
            {"blocks.0.attn1.to_k.lokr_w1": (2, 2)},
            "holds LoKr .blocks.0.attn1.to_k.lokr_w1.; valid values are LoRA and DoRA",
        ),
        ({"blocks.0.attn1.to_k.hada_w1_a": (2, 2)}, "holds LoHa"),
        ({"diffusion_model.patch_embed.diff_b": (9,)}, r"bias of patch_embed has shape \[9\], .* needs \[32\]"),
    ],
)
@pytest.mark.parametrize("header_only", [False, True])
def test_a_broken_lora_is_named(change: dict[str, Any], message: str, header_only: bool) -> None:
    tensors = some(tiny())
    for key, shape in change.items():
        tensors.pop(key, None)
        if shape is not None:
            tensors[key] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        read(tiny(), tensors, header_only=header_only)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {f"{QKV}.alpha": torch.zeros(0)},
            r"alpha of blocks.0.attn1.to_q has shape \[0\]; it must be one number",
        ),
        ({f"{QKV}.alpha": torch.ones(2)}, r"alpha of blocks.0.attn1.to_q has shape \[2\]"),
        ({f"{QKV}.lora_A.weight": torch.ones(2, 32, dtype=torch.int8)}, "lora_A.weight holds whole numbers"),
        ({f"{QKV}.lora_A.weight": torch.ones(0, 32)}, r"lora_A.weight is empty, of shape \[0, 32\]"),
    ],
)
@pytest.mark.parametrize("header_only", [False, True])
@pytest.mark.parametrize("from_file", [False, True])
def test_numbers_that_are_no_weights_are_named(
    change: Tensors, message: str, header_only: bool, from_file: bool, tmp_path: Path
) -> None:
    tensors: Any = some(tiny()) | change
    if from_file:
        save_file(tensors, tmp_path / "lora.safetensors")
    source = find_lora(tmp_path / "lora.safetensors" if from_file else tensors)
    with pytest.raises(ValueError, match=f"LoRA 'lora': .*{message}"):
        read_lora(source, {"transformer": ModuleMap(tiny().config)}, header_only=header_only)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_lora_that_is_not_finite_is_refused(value: float) -> None:
    tensors = some(tiny())
    tensors[f"{QKV}.lora_B.weight"][3, 1] = value
    with pytest.raises(ValueError, match=r"LoRA 'lora': .*to_q.lora_B.weight holds numbers that are not finite"):
        read(tiny(), tensors)


def test_alpha_in_a_config_is_named_with_its_lora() -> None:
    for alpha in ("x", 10**400):
        source = find_lora(some(tiny()))
        source.metadata["lora_adapter_metadata"] = json.dumps({"transformer.lora_alpha": alpha})
        with pytest.raises(ValueError, match=r"LoRA 'lora': lora_alpha of .* it must be a number"):
            read_lora(source, {"transformer": ModuleMap(tiny().config)})


def test_sources_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\x80")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    cases: list[tuple[Any, str]] = [
        (tmp_path / "x.bin", "is a pickle, which can run code"),
        (tmp_path / "cut.safetensors", "not a whole safetensors file"),
        (
            tmp_path / "missing.safetensors",
            "does not exist; .*expected a .safetensors file, a folder, or a hub id",
        ),
        ("missing.safetensors", "does not exist; "),
        ("missing/x.safetensors", "does not exist; "),
        (tmp_path, "holds 2 .safetensors files; name one of them: b.safetensors, cut.safetensors"),
        ("", "a LoRA is a .safetensors file, a folder, or a hub id"),
        ("~nobody-is-called-so/x.safetensors", "does not exist; "),
        ("x" * 5000, "does not exist; "),
        ("a\0b", "does not exist; "),
        ({"a": 3}, "must be of tensors by name, got 'a': int"),
        ({}, "holds no tensors"),
    ]
    for source, message in cases:
        with pytest.raises(ValueError, match=message):
            find_lora(source)
    assert find_lora(tmp_path, weight_name="b.safetensors").name == "b"
    with pytest.raises(ValueError, match=r"holds no 'c\.safetensors'"):
        find_lora(tmp_path, weight_name="c.safetensors")
    with pytest.raises(ValueError, match="is no LoRA: it holds a"):
        inspect_lora(find_lora(tmp_path / "b.safetensors"))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_lora_weights.bin").write_bytes(b"\x80")
    with pytest.raises(ValueError, match=r"holds a LoRA as a pickle .pytorch_lora_weights.bin"):
        find_lora(tmp_path / "pickled")


def test_a_hub_without_a_connection_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    # What the library lets through, httpx's or requests' by its version.
    (base,) = [kind for kind in HfHubHTTPError.__mro__ if kind.__name__ in ("HTTPError", "RequestException")][:1]

    def offline(*_: Any, **__: Any) -> None:
        raise base("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", offline)
    with pytest.raises(
        ValueError, match="'owner/name' does not exist here and could not be fetched from the hub: Name or serv"
    ):
        find_lora("owner/name")


def test_the_hub_is_asked_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    save_file(some(tiny()), tmp_path / "style.safetensors")
    asked: list[Any] = []
    listed = ["README.md", "style.safetensors", "old/x.safetensors", "x.bin"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name, **_: listed)

    def download(name: str, file: str, **options: Any) -> str:
        asked.append((name, file, options))
        return str(tmp_path / "style.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find_lora("owner/name", revision="v1").name == "style"
    find_lora("owner/name/old/x.safetensors")
    find_lora("owner/name", weight_name="old/x.safetensors")
    assert asked == [
        ("owner/name", "style.safetensors", {"revision": "v1"}),
        ("owner/name", "old/x.safetensors", {}),
        ("owner/name", "old/x.safetensors", {}),
    ]
    listed.append("other.safetensors")
    with pytest.raises(ValueError, match=r"name one of them: other\.safetensors, style\.safetensors"):
        find_lora("owner/name")


def test_what_the_header_tells(tmp_path: Path) -> None:
    metadata = {"modelspec.trigger_phrase": "zorb, a zorb", "ss_base_model_version": "wan2.1"}
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(4, 8)}, tmp_path / "a.safetensors", metadata)
    info = inspect_lora(find_lora(tmp_path / "a.safetensors"))
    assert (info.layout, info.modules, info.ranks, info.dora) == ("kohya", 1, (4,), False)
    assert (info.base_model, info.trigger_words) == ("wan2.1", ("zorb", "a zorb"))


# --- in a pipeline -------------------------------------------------------------------------------


@pytest.fixture
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def lora_of(pipe: VideoDiTPipeline, seed: int, rank: int = 2) -> Tensors:
    return prefixed(draw(VideoDiT.from_config(pipe.transformer.config), rank=rank, seed=seed))


def run(pipe: VideoDiTPipeline, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    return pipe("a red ball", generator=generator, num_inference_steps=2, output_type="latent", **options)


@torch.no_grad()
def test_two_loras_with_weights_are_their_sum(pipe: VideoDiTPipeline) -> None:
    """Against weights summed by hand in float64."""
    one, two = lora_of(pipe, 1), lora_of(pipe, 2, rank=5)
    by_hand = copy.deepcopy(pipe.transformer).double()
    for name, module in layers(by_hand):
        for tensors, weight in ((one, 0.7), (two, -0.4)):
            up, down = (tensors[f"transformer.{name}.lora_{x}.weight"].double() for x in "BA")
            module.weight += weight * up @ down
    inputs = MEMBERS["wan"].draw(pipe.transformer, (2, 4, 4))
    plain = pipe.transformer(**inputs).sample
    pipe.load_lora_weights(one, adapter_name="one")
    pipe.load_lora_weights(two, adapter_name="two")
    assert pipe.get_active_adapters() == ["two"]
    pipe.set_adapters(["one", "two"], [0.7, -0.4])
    assert pipe.get_active_adapters() == ["one", "two"]
    assert pipe.get_list_adapters() == {"transformer": ["one", "two"]}
    wide = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
    expected = by_hand(**wide).sample.float()
    assert distance(plain, expected) > 0.1
    assert distance(pipe.transformer(**inputs).sample, expected) <= 1e-5


@torch.no_grad()
def test_switched_off_deleted_and_unloaded_it_is_the_model_as_it_was(pipe: VideoDiTPipeline) -> None:
    before, plain = dict(pipe.transformer.state_dict()), run(pipe)
    pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="one")
    changed = run(pipe)
    assert not torch.equal(changed.frames, plain.frames)
    pipe.load_lora_weights(lora_of(pipe, 2))
    assert pipe.get_active_adapters() == ["lora"]
    pipe.disable_lora()
    off = run(pipe)
    assert torch.equal(off.frames, plain.frames)
    assert "loras" not in off.recipes[0]
    pipe.enable_lora()
    pipe.set_adapters("one")
    assert torch.equal(run(pipe).frames, changed.frames)
    pipe.set_adapters("one", 0.0)
    assert distance(run(pipe).frames, plain.frames) <= 1e-6
    pipe.set_adapters([])
    assert torch.equal(run(pipe).frames, plain.frames)
    pipe.set_adapters("one")
    pipe.delete_adapters("lora")
    assert pipe.get_active_adapters() == ["one"]
    assert torch.equal(run(pipe).frames, changed.frames)
    pipe.delete_adapters("one")
    assert (pipe.get_active_adapters(), pipe.get_list_adapters()) == ([], {})
    pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="one")
    pipe.unload_lora_weights()
    after = pipe.transformer.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(run(pipe).frames, plain.frames)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_fused_and_unfused_weights_are_what_they_were_up_to_rounding(
    pipe: VideoDiTPipeline, dtype: torch.dtype, error: float
) -> None:
    pipe.transformer.to(dtype)
    weight = pipe.transformer.proj_out.weight.clone()
    pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="one")
    pipe.set_adapters("one", 0.5)
    beside = run(pipe)
    pipe.fuse_lora(lora_scale=0.5)
    layer = pipe.transformer.proj_out.base_layer
    assert not torch.equal(layer.weight, weight)
    assert run(pipe).recipes[0]["loras"][0]["weight"] == 0.25
    for change in (lambda: pipe.set_adapters("one"), lambda: pipe.fuse_lora(), lambda: pipe.delete_adapters("one")):
        with pytest.raises(ValueError, match="while one is fused; call unfuse_lora"):
            change()
    pipe.unfuse_lora()
    assert float((layer.weight - weight).abs().max()) <= error * float(weight.abs().max())
    again = run(pipe)
    assert again.recipes[0]["loras"] == beside.recipes[0]["loras"]
    if dtype == torch.float32:
        assert distance(again.frames, beside.frames) <= 1e-5


@torch.no_grad()
def test_fused_equals_beside_and_stays_for_good(pipe: VideoDiTPipeline) -> None:
    pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="one")
    pipe.set_adapters("one", 0.5)
    beside = run(pipe)
    pipe.fuse_lora()
    fused = run(pipe)
    assert distance(fused.frames, beside.frames) <= 1e-5
    pipe.unload_lora_weights()
    left = run(pipe)
    assert torch.equal(left.frames, fused.frames)
    assert left.recipes[0]["loras"] == [entry | {"fused": True} for entry in beside.recipes[0]["loras"]]
    pipe.load_lora_weights(lora_of(pipe, 2), adapter_name="two")
    assert [entry["name"] for entry in run(pipe).recipes[0]["loras"]] == ["one", "two"]


def test_a_pipeline_tells_what_it_loads(
    pipe: VideoDiTPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "my style.v2.safetensors"
    tensors = lora_of(pipe, 1) | {"transformer.nowhere.lora_A.weight": torch.zeros(1, 1)}
    save_file(tensors, file, {BASE_HASH: "0123", "modelspec.trigger_phrase": "zorb"})
    with caplog.at_level(logging.WARNING):
        pipe.load_lora_weights(file)
        pipe.load_lora_weights(file)
    text = caplog.text
    count = len(list(layers(tiny())))
    assert f"{count}/{count + 1} modules match; the model lacks transformer.nowhere.lora_A.weight" in text
    assert "was made for another model (0123), not for these weights" in text
    assert pipe.get_list_adapters() == {"transformer": ["my_style_v2", "my_style_v2_2"]}
    info = pipe.lora_info("my_style_v2")
    assert info.trigger_words == ("zorb",)
    assert info.content_hash == find_lora(file).content_hash
    assert len(info.content_hash) == 64


def test_pipelines_refuse_by_name(pipe: VideoDiTPipeline) -> None:
    pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="one")
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="one"), "there is a LoRA 'one' already"),
        (lambda: pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="a.b"), "without dots"),
        (lambda: pipe.load_lora_weights({}, adapter="x"), "options adapter are unknown"),
        (lambda: pipe.load_lora_weights({}, load_into_transformer_2=True), "this model has one transformer"),
        (lambda: pipe.set_adapters("two"), "LoRA 'two' is not in the list of present adapters: one"),
        (lambda: pipe.set_adapters(["one", "one"]), "named twice"),
        (lambda: pipe.set_adapters("one", [1, 2]), "2 weights for 1 LoRAs"),
        (lambda: pipe.set_adapters("one", float("nan")), "the weight of LoRA 'one' is nan"),
        (lambda: pipe.set_adapters("one", "strong"), "the weight of LoRA 'one' is 'strong'"),
        (
            lambda: pipe.set_adapters("one", {"transformer_2": 1}),
            "has no weights for transformer_2; valid values are transformer",
        ),
        (lambda: pipe.lora_info("two"), "LoRA 'two' is not in the list"),
        (lambda: pipe.delete_adapters("two"), "LoRA 'two' is not in the list"),
        (lambda: pipe.save_pretrained("x"), "a model's folder holds no LoRAs, and one is loaded"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    assert pipe.get_active_adapters() == ["one"]


@torch.no_grad()
def test_two_experts(pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture) -> None:
    """Wan 2.2 A14B's."""
    both = VideoDiTPipeline(
        **pipe.components | {"transformer_2": copy.deepcopy(pipe.transformer)}, boundary_ratio=0.5,
    )  # fmt: skip
    high, low = lora_of(pipe, 1), lora_of(pipe, 2)
    both.load_lora_weights(high, adapter_name="high")
    assert "changes transformer alone; the other expert stays as it is" in caplog.text
    both.load_lora_weights(low, adapter_name="low", load_into_transformer_2=True)
    named = high | {key.replace("transformer.", "transformer_2."): value for key, value in low.items()}
    both.load_lora_weights(named, adapter_name="pair")
    assert both.get_list_adapters() == {"transformer": ["high", "pair"], "transformer_2": ["low", "pair"]}
    inputs = MEMBERS["wan"].draw(pipe.transformer, (2, 4, 4))

    def outputs() -> list[Tensor]:
        return [network(**inputs).sample for network in (both.transformer, both.transformer_2)]

    both.set_adapters(["high", "low"], [0.5, 2.0])
    separate = outputs()
    both.set_adapters("pair", {"transformer": 0.5, "transformer_2": 2.0})
    assert all(torch.equal(a, b) for a, b in zip(outputs(), separate, strict=True))
    both.set_adapters("low")
    one, two = both._lora_entries()[0], both.lora_info("pair")
    assert one["networks"] == ["transformer_2"]
    assert two.networks == ("transformer", "transformer_2")


@pytest.mark.parametrize("before", [False, True])
def test_a_load_that_fails_halfway_leaves_the_networks_as_they_were(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    both = VideoDiTPipeline(
        **pipe.components | {"transformer_2": copy.deepcopy(pipe.transformer)}, boundary_ratio=0.5,
    )  # fmt: skip
    high = lora_of(pipe, 1)
    if before:
        both.load_lora_weights(high, adapter_name="before")
    keys = set(both.transformer.state_dict())

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(both.transformer_2, "load_lora_adapter", fail)
    named = high | {key.replace("transformer.", "transformer_2."): value for key, value in high.items()}
    with pytest.raises(MemoryError):
        both.load_lora_weights(named, adapter_name="pair")
    assert set(both.transformer.state_dict()) == keys
    assert both.get_active_adapters() == (["before"] if before else [])
    monkeypatch.undo()
    both.load_lora_weights(named, adapter_name="pair")
    assert both.get_active_adapters() == ["pair"]


@torch.no_grad()
def test_in_bf16_adapters_have_the_layers_type(pipe: VideoDiTPipeline) -> None:
    transformer = pipe.transformer.to(torch.bfloat16)
    transformer.time_embedder.float()
    pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="one")
    assert transformer.proj_out.lora_A["one"].weight.dtype == torch.bfloat16
    assert transformer.time_embedder.linear_1.lora_A["one"].weight.dtype == torch.float32


# --- each network by itself, adapters of others' making, differences, hostile files ---------------


def two_experts(pipe: VideoDiTPipeline) -> VideoDiTPipeline:
    parts = pipe.components | {"transformer_2": copy.deepcopy(pipe.transformer)}
    return VideoDiTPipeline(**parts, boundary_ratio=0.5)


@torch.no_grad()
def test_loading_into_one_expert_leaves_the_other_as_it_is(pipe: VideoDiTPipeline) -> None:
    both = two_experts(pipe)
    inputs = MEMBERS["wan"].draw(pipe.transformer, (1, 4, 4))
    both.load_lora_weights(lora_of(pipe, 1), adapter_name="x")
    both.set_adapters("x", 0.5)
    high = both.transformer(**inputs).sample
    both.load_lora_weights(lora_of(pipe, 2), adapter_name="x", load_into_transformer_2=True)
    assert torch.equal(both.transformer(**inputs).sample, high)
    entries = both._lora_entries()
    assert [(entry["weight"], entry.get("networks")) for entry in entries] == [(0.5, None), (1.0, ["transformer_2"])]
    assert entries[0]["hash"] != entries[1]["hash"]
    both.delete_adapters("x")
    assert both.get_list_adapters() == {}
    assert both.get_active_adapters() == []


def direct(pipe: VideoDiTPipeline, name: str = "direct") -> None:
    from peft import LoraConfig

    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), name)


@torch.no_grad()
def test_an_adapter_that_was_added_directly_is_seen(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    inputs = MEMBERS["wan"].draw(pipe.transformer, (1, 4, 4))
    bare = pipe.transformer(**inputs).sample
    direct(pipe)
    alone = pipe.transformer(**inputs).sample
    assert pipe.get_active_adapters() == ["direct"]
    assert pipe._lora_entries() == [{"name": "direct", "hash": None, "weight": 1.0}]
    for save in (pipe.save_pretrained, pipe.transformer.save_pretrained):
        with pytest.raises(ValueError, match=r"holds no .*, and direct is"):
            save(tmp_path)
    pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="file")
    assert pipe.get_active_adapters() == ["direct", "file"]
    pipe.delete_adapters("file")
    assert torch.equal(pipe.transformer(**inputs).sample, alone)
    pipe.fuse_lora(lora_scale=0.5)
    assert pipe.fused_loras == {"direct"}
    assert pipe.num_fused_loras == 1
    assert pipe._lora_entries()[0]["weight"] == 0.5
    pipe.unfuse_lora()
    assert distance(pipe.transformer(**inputs).sample, alone) <= 1e-5
    pipe.delete_adapters("direct")
    assert distance(pipe.transformer(**inputs).sample, bare) <= 1e-5


@torch.no_grad()
def test_a_scale_for_one_call_leaves_weights_as_they_were(pipe: VideoDiTPipeline) -> None:
    inputs = MEMBERS["wan"].draw(pipe.transformer, (1, 4, 4))
    bare = pipe.transformer(**inputs).sample
    pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="one")
    pipe.set_adapters("one", 0.7)
    before = pipe.transformer(**inputs).sample
    assert torch.equal(pipe.transformer(**inputs, attention_kwargs={"scale": 0.0}).sample, bare)
    assert torch.equal(pipe.transformer(**inputs).sample, before)
    with pytest.raises(ValueError, match="scale='much'; it must be a finite number"):
        pipe.transformer(**inputs, attention_kwargs={"scale": "much"})


@torch.no_grad()
def test_layers_of_a_training_script_are_written_and_loaded(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    from peft.utils import get_peft_model_state_dict

    inputs = MEMBERS["wan"].draw(pipe.transformer, (1, 4, 4))
    direct(pipe)
    expected = pipe.transformer(**inputs).sample
    layers = get_peft_model_state_dict(pipe.transformer, adapter_name="direct")
    settings = pipe.transformer.peft_config["direct"].to_dict()
    with pytest.raises(ValueError, match="not as a pickle"):
        VideoDiTPipeline.save_lora_weights(tmp_path, layers, safe_serialization=False)
    VideoDiTPipeline.save_lora_weights(tmp_path, layers, transformer_lora_adapter_metadata=settings)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path)
    assert distance(pipe.transformer(**inputs).sample, expected) <= 1e-5
    tensors, stored = VideoDiTPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    assert set(tensors) == {f"transformer.{key}" for key in layers}
    assert stored["transformer.lora_alpha"] == settings["lora_alpha"]


@torch.no_grad()
@pytest.mark.parametrize("ready", [False, True])
def test_one_is_swapped_for_another_of_another_rank(pipe: VideoDiTPipeline, ready: bool) -> None:
    inputs = MEMBERS["wan"].draw(pipe.transformer, (1, 4, 4))
    pipe.load_lora_weights(lora_of(pipe, 2, rank=5), adapter_name="x")
    expected = pipe.transformer(**inputs).sample
    pipe.unload_lora_weights()
    if ready:
        pipe.enable_lora_hotswap(target_rank=8)
    pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="x")
    pipe.load_lora_weights(lora_of(pipe, 2, rank=5), adapter_name="x", hotswap=True)
    assert distance(pipe.transformer(**inputs).sample, expected) <= 1e-5
    assert pipe._lora_entries()[0]["weight"] == 1.0
    with pytest.raises(ValueError, match="there is no LoRA 'y' in transformer to be replaced"):
        pipe.load_lora_weights(lora_of(pipe, 1), adapter_name="y", hotswap=True)


WAN_DIFFERENCES = {
    "blocks.0.self_attn.norm_q.diff": ("blocks.0.attn1.norm_q.weight", [32]),
    "blocks.0.norm3.diff": ("blocks.0.norm2.weight", [32]),
    "blocks.0.norm3.diff_b": ("blocks.0.norm2.bias", [32]),
    "blocks.1.modulation.diff": ("blocks.1.scale_shift_table", [1, 6, 32]),
    "blocks.0.diff_m": ("blocks.0.scale_shift_table", [1, 6, 32]),
    "head.modulation.diff": ("scale_shift_table", [1, 2, 32]),
}


@torch.no_grad()
@pytest.mark.parametrize("linear", [False, True])
def test_differences_of_all_parameters_come_and_go(linear: bool, pairs: Pairs, tmp_path: Path) -> None:
    _, _, ours = pairs("wan-i2v")
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    tensors = {f"diffusion_model.{name}": torch.randn(shape) for name, (_, shape) in WAN_DIFFERENCES.items()}
    tensors["diffusion_model.nowhere.norm.diff"] = torch.ones(3)
    if linear:
        tensors |= original({"blocks.0.self_attn.q": (32, 32)}, "dotted")
    lora = read(ours, tensors)
    assert lora.info.matched == len(WAN_DIFFERENCES) - 1 + linear  # norm3 has two
    assert any("the model lacks diffusion_model.nowhere.norm.diff" in notice for notice in lora.info.notices)
    add = {"deltas": lora.deltas.get("transformer", {}), "differences": lora.differences["transformer"]}
    add_lora(ours, adapter_name="x", **add)

    def check(scale: float) -> None:
        parameters = dict(ours.named_parameters())
        for name, (parameter, shape) in WAN_DIFFERENCES.items():
            change = tensors[f"diffusion_model.{name}"].reshape(before[parameter].shape)
            assert torch.allclose(parameters[parameter], before[parameter] + scale * change, atol=1e-6), (name, shape)
            assert scale or torch.equal(parameters[parameter], before[parameter])

    check(1)
    ours.set_adapters("x", 0.5)
    check(0.5)
    ours.disable_lora()
    check(0)
    ours.enable_lora()
    check(0.5)
    ours.fuse_lora()
    check(0.5)
    ours.unfuse_lora()
    add_lora(ours, adapter_name="y", **add)
    ours.set_adapters(["x", "y"], [1.0, 2.0])
    check(3)
    ours.delete_adapters("y")
    check(1)
    again = read(ours, save_lora(ours, tmp_path / "x.safetensors", adapter_name="x"))
    for name, value in lora.differences["transformer"].items():
        assert torch.equal(again.differences["transformer"][name], value)
    ours.unload_lora()
    assert set(ours.state_dict()) == set(before)
    changed = {parameter for parameter, _ in WAN_DIFFERENCES.values()}
    assert all(torch.equal(ours.state_dict()[name], before[name]) for name in changed)
    # A linear layer that was fused and unfused is what it was up to rounding.
    assert all(torch.allclose(value, before[name], atol=1e-5) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("name", ["wan-i2v", "wan"])
def test_a_lora_for_fewer_channels_gets_zeros_and_one_for_more_is_left_out(name: str, pairs: Pairs) -> None:
    _, _, ours = pairs(name)
    channels = ours.config.in_channels
    for count in (channels - 1, channels + 1):
        tensors = {
            "diffusion_model.patch_embedding.lora_A.weight": torch.randn(2, count, 1, 2, 2),
            "diffusion_model.patch_embedding.lora_B.weight": torch.randn(32, 2, 1, 1, 1),
        } | original({"blocks.0.self_attn.q": (32, 32)}, "dotted")
        lora = read(ours, tensors)
        if count > channels:
            assert "patch_embed" not in lora.deltas["transformer"]
            assert any("is left out: it is for" in notice for notice in lora.info.notices)
        else:
            down = lora.deltas["transformer"]["patch_embed"].down
            assert torch.equal(
                down[:, : count * 4], tensors["diffusion_model.patch_embedding.lora_A.weight"].flatten(1)
            )
            assert not down[:, count * 4 :].any()


def test_eight_bits_are_cast_before_arithmetic(pairs: Pairs) -> None:
    _, _, ours = pairs("wan")
    tensors = original({"blocks.0.self_attn.q": (32, 32)}, "kohya", alpha=0.5)
    tensors["lora_unet_blocks_0_self_attn_q.diff_b"] = torch.randn(32)
    small = {k: v if k.endswith("alpha") else v.to(torch.float8_e4m3fn) for k, v in tensors.items()}
    load(ours, small)


@every_family
@pytest.mark.parametrize(
    "prefix",
    [
        "lora_unet.",
        "lora_unet__",
        "lora_transformer_",
        "pipe.dit.",
        "dit.",
        "model.",
        "module.",
        "base_model.model.model.",
    ],
)
def test_more_prefixes(prefix: str, name: str, pairs: Pairs) -> None:
    _, theirs, ours = pairs(name)
    tensors = draw(theirs)
    spelled = {}
    for key, value in tensors.items():
        module, end = key.split(".lora_")
        module = module.replace(".", "_") if prefix.endswith("_") else module
        spelled[f"{prefix}{module}.lora_{end}"] = value
    assert_same(read(ours, spelled), read(ours, prefixed(tensors)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"x{i}": torch.ones(1) for i in range(60_000)}, "no more than 50000"),
        ({"a\x1b[31m": torch.ones(1)}, r"a tensor named 'a\\x1b"),
        ({"blocks.0.attn1.to_q.alpha": torch.tensor(-1.0)}, "it must be a number above 0"),
        ({"blocks.0.attn1.to_q.alpha": torch.tensor(float("nan"))}, "alpha of .* is nan"),
        ({"blocks.0.attn1.to_q.lora_A.weight": torch.zeros(100_000, 1).expand(-1, 32)}, "rank 100000|needs"),
    ],
)
def test_hostile_loras_are_refused(change: Tensors, message: str, pairs: Pairs) -> None:
    _, theirs, ours = pairs("wan")
    with pytest.raises(ValueError, match=message):
        read(ours, draw(theirs) | change)


def test_numbers_that_the_layers_type_does_not_hold(pairs: Pairs) -> None:
    _, theirs, ours = pairs("wan")
    huge = {key: value * 1e30 for key, value in draw(theirs).items()}
    with pytest.raises(ValueError, match=r"numbers that torch\.float16 does not hold"):
        load(ours.half(), huge)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_unequal_scales_of_mixed_layers_are_multiplied_before_they_are_rounded(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)

    def delta(alpha: float) -> Delta:
        down, up = torch.randn(3, 8, generator=generator), torch.randn(4, 3, generator=generator)
        return Delta(down.to(dtype), up.to(dtype), alpha, torch.randn(4, generator=generator).to(dtype))

    deltas: list[Delta | None] = [delta(0.7), delta(1.9)]

    def change(one: Delta) -> Tensor:
        assert one.bias is not None
        return torch.cat([one.up.double() @ one.down.double(), one.bias.double()[:, None]], 1) * one.scale

    def interleave(rows: list[Tensor], config: Any) -> list[Tensor]:
        return [torch.stack([rows[0][:2], rows[1][:2]], 1).flatten(0, 1), torch.cat([rows[0][2:], rows[1][2:]])]

    expected = interleave([change(one) for one in deltas if one is not None], None)
    for actual, wanted in zip(map_rows(deltas, [4, 4], interleave, {}), expected, strict=True):
        assert distance(change(actual), wanted) < 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_differences_follow_adapters_of_the_transformer_itself(pairs: Pairs) -> None:
    from peft import LoraConfig

    _, _, ours = pairs("wan-i2v")
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    name, (parameter, shape) = next(iter(WAN_DIFFERENCES.items()))
    lora = read(ours, {f"diffusion_model.{name}": torch.ones(shape)})
    add_lora(ours, {}, adapter_name="x", differences=lora.differences["transformer"])
    ours.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "y")  # active alone
    assert torch.equal(ours.get_parameter(parameter), before[parameter])
    for names, weights, scale in ((["x", "y"], [0.5, 1.0], 0.5), ("y", None, 0.0), ("x", None, 1.0)):
        ours.set_adapters(names, weights)
        assert torch.allclose(ours.get_parameter(parameter), before[parameter] + scale)
    with pytest.raises(ValueError, match=f"cannot load {parameter} while a LoRA changes it"):
        ours.load_state_dict({parameter: before[parameter]}, strict=False)
    ours.delete_adapters("x")
    ours.load_state_dict({parameter: before[parameter] + 7}, strict=False)
    ours.set_adapters("y", 0.5)
    assert torch.equal(ours.get_parameter(parameter), before[parameter] + 7)


@torch.no_grad()
@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("first", ["lora", "hooks"])
def test_differences_of_offloaded_layers(buffers: bool, first: str, pairs: Pairs) -> None:
    import accelerate

    member, _, ours = pairs("wan-i2v")
    inputs = member.draw(ours, (1, 4, 4))
    tensors = {f"diffusion_model.{name}": torch.full(shape, 0.1) for name, (_, shape) in WAN_DIFFERENCES.items()}
    lora = read(ours, tensors)

    def add(network: Any) -> None:
        add_lora(network, {}, adapter_name="x", differences=lora.differences["transformer"])

    plain = copy.deepcopy(ours)
    bare = plain(**inputs).sample
    add(plain)
    expected = plain(**inputs).sample
    assert not torch.equal(bare, expected)
    if first == "lora":
        add(ours)
    accelerate.cpu_offload(ours, execution_device="cpu", offload_buffers=buffers)
    if first == "hooks":
        add(ours)
    assert torch.equal(ours(**inputs).sample, expected)
    ours.set_adapters("x", 0.0)
    assert torch.equal(ours(**inputs).sample, bare)
    ours.set_adapters("x", 1.0)
    assert torch.equal(ours(**inputs).sample, expected)
