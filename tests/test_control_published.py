"""Published control branches beside the classes that they were published for: same weights, same predictions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    CogVideoXTransformer3DModel,
    FluxControlNetModel,
    FluxTransformer2DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videodit import VideoDiT
from videodit.control.branch import ControlBranch
from videodit.control.hints import ControlHint
from videodit.control.layouts import read_branch_config
from videodit.control.published import save_published
from videodit.errors import InputError, ModelError
from videodit.families.parity import MEMBERS, randomize

# Their class uses a class of diffusers' that has moved.
pytestmark = pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")
WAN = MEMBERS["wan"].config
VACE = {**WAN, "num_layers": 4, "vace_layers": [0, 2], "vace_in_channels": 12}


def same_files(one: Path, other: Path) -> None:
    """Two folders hold the same tensors, to the bit."""
    found, expected = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (one, other))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def check_round_trip(branch: ControlBranch, source: Path, tmp_path: Path, base: VideoDiT) -> ControlBranch:
    """Saved in our layout and loaded again it is the same; written in theirs, so are the files."""
    branch.save_pretrained(tmp_path / "own")
    again = ControlBranch.from_pretrained(tmp_path / "own", base=base)
    assert again.state_dict().keys() == branch.state_dict().keys()
    assert all(torch.equal(tensor, branch.state_dict()[name]) for name, tensor in again.state_dict().items())
    save_published(again, tmp_path / "theirs", base=base)
    same_files(tmp_path / "theirs", source)
    return again


# ---- VACE ----------------------------------------------------------------------------------------


def vace(tmp_path: Path) -> tuple[WanVACETransformer3DModel, VideoDiT, ControlBranch]:
    """diffusers' network, and a base and a branch of the same folder."""
    theirs = randomize(WanVACETransformer3DModel(**VACE).eval())
    theirs.save_pretrained(tmp_path / "vace")
    base = VideoDiT.from_pretrained(tmp_path / "vace")
    return theirs, base, ControlBranch.from_pretrained(tmp_path / "vace", base=base)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 0.4, (0.7, -1.3)])
def test_vace(scale, tmp_path, deviation) -> None:
    theirs, base, branch = vace(tmp_path)
    assert (branch.config.start, branch.config.layout, list(branch.places)) == ("hidden", "vace", [[0], [2]])
    for size in MEMBERS["wan"].sizes:
        x, control = MEMBERS["wan"].draw(base, size), torch.randn(2, 12, *size)
        scales = torch.tensor(scale if isinstance(scale, tuple) else [scale] * 2)
        expected = theirs(
            x["hidden_states"], x["timestep"], x["encoder_hidden_states"],
            control_hidden_states=control, control_hidden_states_scale=scales, return_dict=False,
        )[0]  # fmt: skip
        found = base(**x, control=[ControlHint(branch, control, scale)]).sample
        assert deviation(found, expected) <= 2e-5


def test_vace_files_are_the_same_again(tmp_path) -> None:
    _, base, branch = vace(tmp_path)
    check_round_trip(branch, tmp_path / "vace", tmp_path, base)
    with pytest.raises(InputError, match="hold the base, too; pass base"):
        save_published(branch, tmp_path / "alone")


# ---- FLUX.1 --------------------------------------------------------------------------------------

FLUX = {
    "in_channels": 16, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 12,
    "pooled_projection_dim": 10, "axes_dims_rope": (4, 6, 6), "guidance_embeds": True,
}  # fmt: skip


def packed(latents: Tensor) -> Tensor:
    """``[B, C, 1, H, W]`` as FLUX.1 has it, ``[B, S, 4·C]``."""
    _, _, _, height, width = latents.shape
    x = latents[:, :, 0].unflatten(3, (width // 2, 2)).unflatten(2, (height // 2, 2))
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def flux_output(tokens: Tensor, height: int, width: int) -> Tensor:
    tokens = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height // 2, width // 2))
    return tokens.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)[:, :, None]


@torch.no_grad()
@pytest.mark.parametrize("mode", [None, 2])
@pytest.mark.parametrize(("joint", "single"), [(2, 0), (4, 0), (1, 2), (5, 10)])
def test_flux(joint, single, mode, tmp_path, deviation) -> None:
    """One for each block and one for several, of which the last may be for none.

    Of one kind, and Union, whose kinds are tokens before the text.
    """
    theirs = randomize(FluxTransformer2DModel(**FLUX, num_layers=5, num_single_layers=10).eval())
    modes = None if mode is None else 7
    net = randomize(FluxControlNetModel(**FLUX, num_layers=joint, num_single_layers=single, num_mode=modes).eval())
    theirs.save_pretrained(tmp_path / "base")
    net.save_pretrained(tmp_path / "net")
    base = VideoDiT.from_pretrained(tmp_path / "base")
    branch = ControlBranch.from_pretrained(tmp_path / "net", base=base)
    assert list(branch.config.kinds) == (
        [] if mode is None else ["edges", "tile", "depth", "blur", "pose", "grey", "low_res"]
    )
    for height, width in ((4, 4), (6, 10)):
        x = MEMBERS["flux-dev"].draw(base, (1, height, width))
        control = torch.randn(2, 4, 1, height, width)
        ids = torch.cartesian_prod(torch.arange(1), torch.arange(height // 2), torch.arange(width // 2))
        shared = {
            "hidden_states": packed(x["hidden_states"]), "encoder_hidden_states": x["encoder_hidden_states"],
            "pooled_projections": x["pooled_projections"], "timestep": x["timestep"] / 1000, "img_ids": ids,
            "txt_ids": torch.zeros(x["encoder_hidden_states"].shape[1], 3), "guidance": x["guidance"],
            "return_dict": False,
        }  # fmt: skip
        more = {} if mode is None else {"controlnet_mode": torch.full((2, 1), mode)}
        samples, singles = net(controlnet_cond=packed(control), conditioning_scale=0.6, **shared, **more)
        expected = theirs(controlnet_block_samples=samples, controlnet_single_block_samples=singles, **shared)[0]
        hint = ControlHint(branch, control, 0.6, None if mode is None else "depth")
        found = base(**x, control=[hint]).sample
        assert deviation(found, flux_output(expected, height, width)) <= 2e-5
    check_round_trip(branch, tmp_path / "net", tmp_path, base)


def test_a_flux_branch_with_an_encoder_of_its_own_is_refused(tmp_path) -> None:
    FluxControlNetModel(**FLUX, num_layers=1, num_single_layers=0, conditioning_embedding_channels=4).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError, match="conditioning_embedding_channels is 4; it must be None"):
        read_branch_config(tmp_path)


# ---- ControlNets for CogVideoX and Wan, whose classes are in no library --------------------------


def save(folder: Path, class_name: str, config: dict[str, Any], module: nn.Module) -> None:
    """A folder as diffusers' classes write it."""
    import json

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": class_name, **config}))
    save_file(module.state_dict(), folder / "diffusion_pytorch_model.safetensors")


class CogVideoXReference(nn.Module):
    """What the ControlNet for CogVideoX computes, of diffusers' own blocks."""

    def __init__(self, config: dict[str, Any], project: bool) -> None:
        super().__init__()
        wide = 3 * 8 * 8
        trunk = CogVideoXTransformer3DModel(**config, in_channels=4 + wide // 4)
        self.controlnet_encode_first = nn.Sequential(
            nn.Conv2d(wide, wide // 2, 1), nn.GroupNorm(2, wide // 2), nn.ReLU()
        )
        self.controlnet_encode_second = nn.Sequential(
            nn.Conv2d(wide // 2, wide // 4, 1), nn.GroupNorm(2, wide // 4), nn.ReLU()
        )
        self.patch_embed, self.time_embedding = trunk.patch_embed, trunk.time_embedding
        self.transformer_blocks, self.sinusoids = trunk.transformer_blocks, trunk.time_proj
        if project:
            self.out_projectors = nn.ModuleList(nn.Linear(32, 32) for _ in trunk.transformer_blocks)

    @staticmethod
    def halved(x: Tensor) -> Tensor:
        """Means of two along time ``[B, T, …]``; an odd first one stays alone."""
        lone = x.shape[1] % 2
        return torch.cat([x[:, :lone], (x[:, lone::2] + x[:, lone + 1 :: 2]) / 2], dim=1)

    def forward(self, latents: Tensor, text: Tensor, pixels: Tensor, timestep: Tensor, rotary: Any) -> list[Tensor]:
        batch, _, frames = pixels.shape[:3]
        x = F.pixel_unshuffle(pixels.transpose(1, 2).flatten(0, 1), 8)
        x = self.halved(self.controlnet_encode_first(x).unflatten(0, (batch, frames)))
        x = self.halved(self.controlnet_encode_second(x.flatten(0, 1)).unflatten(0, (batch, -1)))
        tokens = self.patch_embed(text, torch.cat([latents.transpose(1, 2), x], dim=2))
        text, video = tokens.split([text.shape[1], tokens.shape[1] - text.shape[1]], dim=1)
        time = self.time_embedding(self.sinusoids(timestep))
        found = []
        for i, block in enumerate(self.transformer_blocks):
            video, text = block(video, text, time, image_rotary_emb=rotary)
            found.append(self.out_projectors[i](video) if hasattr(self, "out_projectors") else video)
        return found


def with_hints(blocks: nn.ModuleList, hints: dict[int, Tensor]) -> list[Any]:
    """Let diffusers' blocks add hints to what they return."""

    def add(i: int) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            if isinstance(out, tuple):
                return (out[0] + hints[i], *out[1:])
            return out + hints[i]

        return hook

    return [blocks[i].register_forward_hook(add(i)) for i in hints]


@torch.no_grad()
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox-5b"])
def test_cogvideox(name, project, tmp_path, deviation) -> None:
    from videodit._diffusers import get_3d_rotary_pos_embed, get_resize_crop_region_for_grid

    member = MEMBERS[name]
    config = dict(member.config)
    theirs = randomize(member.theirs())
    base = member.ours(theirs)
    own = {key: value for key, value in config.items() if key not in ("in_channels", "out_channels", "text_embed_dim")}
    trunk = own | {"num_layers": 1, "text_embed_dim": 12, "out_channels": 4}
    net = randomize(CogVideoXReference(trunk, project).eval())
    saved = own | {
        "num_layers": 1, "in_channels": 3, "vae_channels": 4, "downscale_coef": 8, "text_embed_dim": 12,
        "out_proj_dim": 32 if project else None,
    }  # fmt: skip
    save(tmp_path / "net", "CogVideoXControlnet", saved, net)
    branch = ControlBranch.from_pretrained(tmp_path / "net", base=base)
    for size in ((3, 6, 10), (1, 4, 4)):
        x = member.draw(base, size)
        pixels = torch.rand(2, 3, 4 * (size[0] - 1) + 1, 8 * size[1], 8 * size[2]) * 2 - 1
        rotary = None
        if config.get("use_rotary_positional_embeddings"):
            grid = (size[1] // 2, size[2] // 2)
            crops = get_resize_crop_region_for_grid(grid, config["sample_width"] // 2, config["sample_height"] // 2)
            rotary = get_3d_rotary_pos_embed(config["attention_head_dim"], crops, grid, size[0])
        hints = net(x["hidden_states"], x["encoder_hidden_states"], pixels, x["timestep"], rotary)
        handles = with_hints(theirs.transformer_blocks, {0: 0.8 * hints[0]})
        expected = member.call(theirs, x)
        for handle in handles:
            handle.remove()
        found = base(**x, control=[ControlHint(branch, branch.encode(pixels), 0.8)]).sample
        assert deviation(found, expected) <= 2e-5
    check_round_trip(branch, tmp_path / "net", tmp_path, base)


class WanReference(nn.Module):
    """What the ControlNet for Wan computes, of diffusers' own blocks."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        wide = 3 * 8 * 8
        trunk = WanTransformer3DModel(**config)
        self.control_encoder = nn.ModuleList(
            nn.Sequential(nn.Conv3d(i, o, k, s, p), nn.GELU(approximate="tanh"), nn.GroupNorm(2, o))
            for i, o, k, s, p in (
                (3, wide, (3, 9, 9), (1, 8, 8), (1, 4, 4)),
                (wide, wide // 2, 3, (2, 1, 1), 1),
                (wide // 2, wide // 4, 3, (2, 1, 1), 1),
            )
        )
        self.patch_embedding, self.condition_embedder = trunk.patch_embedding, trunk.condition_embedder
        self.blocks, self.rope = trunk.blocks, trunk.rope
        self.controlnet_blocks = nn.ModuleList(nn.Linear(32, 32) for _ in trunk.blocks)

    def forward(self, latents: Tensor, text: Tensor, pixels: Tensor, timestep: Tensor) -> list[Tensor]:
        rotary = self.rope(latents)
        for layer in self.control_encoder:
            pixels = layer(pixels)
        x = self.patch_embedding(torch.cat([latents, pixels], dim=1)).flatten(2).transpose(1, 2)
        _, time, text, _ = self.condition_embedder(timestep, text, None)
        found = []
        for block, after in zip(self.blocks, self.controlnet_blocks, strict=True):
            x = block(x, text, time.unflatten(1, (6, -1)), rotary)
            found.append(after(x))
        return found


@torch.no_grad()
def test_wan(tmp_path, deviation) -> None:
    member, config = MEMBERS["wan"], {**WAN, "num_layers": 8}
    theirs = randomize(WanTransformer3DModel(**config).eval())
    theirs.save_pretrained(tmp_path / "base")
    base = VideoDiT.from_pretrained(tmp_path / "base")
    net = randomize(WanReference({**WAN, "in_channels": 4 + 48, "num_layers": 2}).eval())
    saved = {key: value for key, value in WAN.items() if key != "out_channels"} | {
        "num_layers": 2, "in_channels": 3, "vae_channels": 4, "downscale_coef": 8, "out_proj_dim": 32,
    }  # fmt: skip
    names = {name for name in net.state_dict() if not name.startswith("rope")}
    module = nn.Module()
    module.state_dict = lambda: {name: net.state_dict()[name] for name in names}  # type: ignore[method-assign]
    save(tmp_path / "net", "WanControlnet", saved, module)
    branch = ControlBranch.from_pretrained(tmp_path / "net", base=base)
    assert list(branch.places) == [[0], [4]]
    for size in member.sizes:
        x = member.draw(base, size)
        pixels = torch.rand(2, 3, 4 * (size[0] - 1) + 1, 8 * size[1], 8 * size[2]) * 2 - 1
        hints = net(x["hidden_states"], x["encoder_hidden_states"], pixels, x["timestep"])
        handles = with_hints(theirs.blocks, {0: 0.8 * hints[0], 4: 0.8 * hints[1]})
        expected = member.call(theirs, x)
        for handle in handles:
            handle.remove()
        found = base(**x, control=[ControlHint(branch, branch.encode(pixels), 0.8)]).sample
        assert deviation(found, expected) <= 2e-5
    check_round_trip(branch, tmp_path / "net", tmp_path, base)


# ---- damaged folders -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda tensors: tensors.pop("controlnet_x_embedder.weight"), "lacks 1 tensors of FluxControlNetModel"),
        (lambda tensors: tensors.update(stray=torch.zeros(1)), "holds unknown 1 tensors"),
        (lambda tensors: tensors["controlnet_x_embedder.bias"].fill_(math.nan), "not finite"),
        (
            lambda tensors: tensors.update({"controlnet_x_embedder.bias": torch.zeros(3)}),
            r"patch.bias has shape \[3\], the config needs \[32\]",
        ),
    ],
)
def test_damaged_weights_are_named(break_it, message, tmp_path) -> None:
    FluxControlNetModel(**FLUX, num_layers=1, num_single_layers=0).save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    break_it(tensors)
    save_file(tensors, path)
    with pytest.raises(ModelError, match=message):
        ControlBranch.from_pretrained(tmp_path)
