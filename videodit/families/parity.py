"""Is it the same network? Tiny random members of each family, beside diffusers' own classes.

What the tests of the families and ``videodit families --check`` have in common.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

import diffusers
import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from videodit._diffusers import (
    get_3d_rotary_pos_embed,
    get_3d_rotary_pos_embed_allegro,
    get_resize_crop_region_for_grid,
)
from videodit.families import FAMILIES
from videodit.families.base import to_native
from videodit.json_types import JsonObject
from videodit.shapes import Size3D
from videodit.transformer import VideoDiT

M = TypeVar("M", bound=nn.Module)


class Inputs(TypedDict, total=False):
    """Arguments of a VideoDiT's forward."""

    hidden_states: Tensor
    timestep: Tensor
    encoder_hidden_states: Tensor
    encoder_attention_mask: Tensor
    pooled_projections: Tensor
    guidance: Tensor
    encoder_hidden_states_image: Tensor
    fps: float
    causal_frames: int
    timestep_r: Tensor


@dataclass(frozen=True)
class Member:
    """A tiny member of a family.

    Attributes:
        family: its name.
        config: diffusers' config beyond the class defaults.
        call: runs diffusers' class on our inputs and gives its prediction in our layout.
        sizes: latent sizes ``(T, H, W)`` to try.
        overrides: options that diffusers' config does not tell.
        inputs: names of the inputs beyond latents, timestep and text.
    """

    family: str
    config: JsonObject
    call: Callable[[ModelMixin, Inputs], Tensor]
    sizes: tuple[tuple[int, int, int], ...] = ((1, 4, 4), (3, 6, 10), (2, 2, 14))
    inputs: tuple[str, ...] = ()
    text_tokens: int = 7
    fps: float = 24.0
    overrides: JsonObject = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        return FAMILIES[self.family].class_name

    @property
    def options(self) -> JsonObject:
        """Our options, as far as they are not the defaults of VideoDiT."""
        return FAMILIES[self.family].native_config(self.config) | self.overrides

    def theirs(self) -> ModelMixin:
        """diffusers' network, its parameters random as diffusers makes them."""
        return getattr(diffusers, self.class_name)(**self.config).eval()

    def ours(self, theirs: ModelMixin) -> VideoDiT:
        """A VideoDiT with the same weights."""
        family = FAMILIES[self.family]
        dit = VideoDiT(**family.native_config(dict(theirs.config)) | self.overrides)
        groups = family.plan(dit.state_dict(), dit.config)
        weights = theirs.state_dict()
        dit.load_state_dict(dict(to_native(groups, weights.__getitem__, dit.config)), strict=True)
        assert {name for group in groups for name in group.theirs} == set(weights)
        return dit.eval()

    def draw(
        self, dit: VideoDiT, size: tuple[int, int, int], batch: int = 2, dtype: torch.dtype = torch.float32
    ) -> Inputs:
        """Random inputs of a call."""
        config, tokens = dit.config, self.text_tokens
        inputs: Inputs = {
            "hidden_states": torch.randn(batch, config.in_channels, *size, dtype=dtype),
            "timestep": torch.tensor([3.0, 987.0, 500.0])[:batch],
            "encoder_hidden_states": torch.randn(batch, tokens, config.text_dim, dtype=dtype),
        }
        if "sources" in self.inputs:  # two of each three tokens of the first encoder; not all of both count
            second = torch.arange(tokens) % 3 == 2
            inputs["encoder_hidden_states"][..., -1] = second.to(dtype)
            counts = torch.stack([~second, torch.arange(tokens) < tokens - 2, torch.arange(tokens) > 0])
            inputs["encoder_attention_mask"] = counts[:batch]
        if "mask" in self.inputs:
            inputs["encoder_attention_mask"] = torch.arange(tokens) < torch.tensor([[tokens - 3], [tokens]])[:batch]
        if "pooled" in self.inputs:
            assert config.pooled_dim is not None
            inputs["pooled_projections"] = torch.randn(batch, config.pooled_dim, dtype=dtype)
        if "guidance" in self.inputs:
            inputs["guidance"] = torch.tensor([3.5, 6.0])[:batch]
        if "image" in self.inputs:
            assert config.image_dim is not None
            inputs["encoder_hidden_states_image"] = torch.randn(
                batch, config.image_tokens or 5, config.image_dim, dtype=dtype
            )
        if "target" in self.inputs:
            inputs["timestep_r"] = torch.tensor([0.0, 512.0, 250.0])[:batch]
        if "kept" in self.inputs:
            inputs["timestep"] = inputs["timestep"][:, None].repeat(1, dit.geometry.token_size(Size3D(*size)).t)
            inputs["timestep"][:, 0] = 0
        if "causal" in self.inputs:
            inputs["causal_frames"] = 2
        if "fps" in self.inputs:
            inputs["fps"] = self.fps
        return inputs


def _wan(theirs: ModelMixin, x: Inputs) -> Tensor:
    image = x.get("encoder_hidden_states_image")
    if image is not None and theirs.config.pos_embed_seq_len is not None:
        image = image.unflatten(1, (2, -1)).flatten(0, 1)  # theirs comes as two images a clip
    return theirs(x["hidden_states"], x["timestep"], x["encoder_hidden_states"], image, return_dict=False)[0]


def _skyreels(theirs: ModelMixin, x: Inputs) -> Tensor:
    return theirs(x["hidden_states"], x["timestep"], x["encoder_hidden_states"], return_dict=False)[0]


def _skyreels_forced(theirs: ModelMixin, x: Inputs) -> Tensor:
    """With a timestep for each latent frame, a class of rates, and frames that see those behind them not."""
    theirs.register_to_config(num_frame_per_block=x.get("causal_frames", 1))
    tensors = (x["hidden_states"], x["timestep"], x["encoder_hidden_states"])
    out = [  # it mixes up the samples of a batch where it is told a rate
        theirs(*alone, enable_diffusion_forcing=True, fps=[int(x["fps"] != 16)], return_dict=False)[0]
        for alone in zip(*(tensor.split(1) for tensor in tensors), strict=True)
    ]
    theirs.register_to_config(num_frame_per_block=1)
    return torch.cat(out)


def _ltx(theirs: ModelMixin, x: Inputs) -> Tensor:
    frames, height, width = x["hidden_states"].shape[2:]
    out = theirs(
        x["hidden_states"].flatten(2).transpose(1, 2),
        x["encoder_hidden_states"],
        x["timestep"],
        x["encoder_attention_mask"],
        frames,
        height,
        width,
        (8 / x["fps"], 32, 32),
        return_dict=False,
    )[0]
    return out.transpose(1, 2).unflatten(2, (frames, height, width))


def _ltx_lagging(theirs: ModelMixin, x: Inputs) -> Tensor:
    """As the condition pipeline calls it: a latent's time is that of the first of its 8 frames."""
    batch, _, *grid = x["hidden_states"].shape
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")).flatten(1).float()  # [3, S]
    coords = places * torch.tensor([8.0, 32.0, 32.0])[:, None]
    coords[0] = (coords[0] - 7).clamp(min=0) / x["fps"]
    out = theirs(
        x["hidden_states"].flatten(2).transpose(1, 2),
        x["encoder_hidden_states"],
        x["timestep"],
        x["encoder_attention_mask"],
        video_coords=coords.expand(batch, -1, -1),
        return_dict=False,
    )[0]
    return out.transpose(1, 2).unflatten(2, grid)


def _cogvideox(theirs: ModelMixin, x: Inputs) -> Tensor:
    config = theirs.config
    frames, height, width = x["hidden_states"].shape[2:]
    rotary = None
    if config.use_rotary_positional_embeddings:
        grid = (height // config.patch_size, width // config.patch_size)
        base = (config.sample_width // config.patch_size, config.sample_height // config.patch_size)
        if config.patch_size_t is None:
            crops = get_resize_crop_region_for_grid(grid, *base)
            rotary = get_3d_rotary_pos_embed(config.attention_head_dim, crops, grid, frames)
        else:
            length = frames // config.patch_size_t
            rotary = get_3d_rotary_pos_embed(
                config.attention_head_dim, None, grid, length, grid_type="slice", max_size=(base[1], base[0])
            )
    out = theirs(
        x["hidden_states"].transpose(1, 2),
        x["encoder_hidden_states"],
        x["timestep"],
        ofs=None if config.ofs_embed_dim is None else torch.tensor([2.0]),
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]
    return out.transpose(1, 2)


def _hunyuan(theirs: ModelMixin, x: Inputs) -> Tensor:
    return theirs(
        x["hidden_states"],
        x["timestep"],
        x["encoder_hidden_states"],
        x["encoder_attention_mask"],
        x["pooled_projections"],
        1000 * x["guidance"] if theirs.config.guidance_embeds else None,
        return_dict=False,
    )[0]


def _hunyuan_replaced(theirs: ModelMixin, x: Inputs) -> Tensor:
    """It takes the timestep of the clip, and knows by itself that the first frame has another."""
    return _hunyuan(theirs, {**x, "timestep": x["timestep"].amax(dim=1)})


def _hunyuan15(theirs: ModelMixin, x: Inputs) -> Tensor:
    """It takes the tokens of each encoder by themselves, zeros for no picture, and timesteps of the latents' dtype."""
    tokens, mask = x["encoder_hidden_states"], x["encoder_attention_mask"]
    second, config = tokens[0, :, -1] > 0.5, theirs.config
    image, target = x.get("encoder_hidden_states_image"), x.get("timestep_r")
    return theirs(
        x["hidden_states"],
        x["timestep"].to(tokens.dtype),
        tokens[:, ~second, : config.text_embed_dim],
        mask[:, ~second].to(tokens.dtype),
        None if target is None else target.to(tokens.dtype),
        tokens[:, second, : config.text_embed_2_dim],
        mask[:, second].to(tokens.dtype),
        tokens.new_zeros(len(tokens), 5, config.image_embed_dim) if image is None else image,
        return_dict=False,
    )[0]


def _latte(theirs: ModelMixin, x: Inputs) -> Tensor:
    return theirs(x["hidden_states"], x["timestep"], x["encoder_hidden_states"], return_dict=False)[0]


def _allegro(theirs: ModelMixin, x: Inputs) -> Tensor:
    config = theirs.config
    frames, height, width = x["hidden_states"].shape[2:]
    grid = (height // config.patch_size, width // config.patch_size)
    scales = (config.interpolation_scale_t, config.interpolation_scale_h, config.interpolation_scale_w)
    freqs_t, freqs_h, freqs_w, *places = get_3d_rotary_pos_embed_allegro(
        config.attention_head_dim, ((0, 0), grid), grid, frames, scales
    )
    positions = torch.cartesian_prod(*(place.long() for place in places)).T[:, None]
    out = theirs(
        x["hidden_states"],
        x["encoder_hidden_states"],
        x["timestep"],
        encoder_attention_mask=x["encoder_attention_mask"],
        image_rotary_emb=((freqs_t, freqs_h, freqs_w), positions),
        return_dict=False,
    )[0]
    return out


def _pixart(theirs: ModelMixin, x: Inputs) -> Tensor:
    added = None
    if theirs.use_additional_conditions:
        batch, _, _, height, width = x["hidden_states"].shape
        size = torch.tensor([[8.0 * height, 8.0 * width]]).expand(batch, -1)
        added = {"resolution": size, "aspect_ratio": (size[:, :1] / size[:, 1:])}
    return theirs(
        x["hidden_states"][:, :, 0],
        x["encoder_hidden_states"],
        x["timestep"],
        added_cond_kwargs=added,
        encoder_attention_mask=x["encoder_attention_mask"],
        return_dict=False,
    )[0][:, :, None]


def _flux(theirs: ModelMixin, x: Inputs) -> Tensor:
    _, _, _, height, width = x["hidden_states"].shape
    rows, columns = height // 2, width // 2
    ids = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    out = theirs(
        _packed(x["hidden_states"]),
        x["encoder_hidden_states"],
        x["pooled_projections"],
        x["timestep"] / 1000,
        ids,
        torch.zeros(x["encoder_hidden_states"].shape[1], 3),
        x.get("guidance"),
        return_dict=False,
    )[0]
    return _unpacked(out, rows, columns)


def _packed(latents: Tensor) -> Tensor:
    """Pictures ``[B, C, 1, H, W]`` as 2×2 patches ``[B, S, 4·C]``."""
    columns, rows = latents.shape[4] // 2, latents.shape[3] // 2
    packed = latents[:, :, 0].unflatten(3, (columns, 2)).unflatten(2, (rows, 2))  # [B, C, h, 2, w, 2]
    return packed.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _unpacked(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of :func:`_packed`."""
    out = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (rows, columns))  # [B, h, w, C, 2, 2]
    return out.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)[:, :, None]


def _qwen_image(theirs: ModelMixin, x: Inputs) -> Tensor:
    _, _, _, height, width = x["hidden_states"].shape
    rows, columns = height // 2, width // 2
    out = theirs(
        _packed(x["hidden_states"]),
        x["encoder_hidden_states"],
        x["encoder_attention_mask"],
        x["timestep"] / 1000,
        [[(1, rows, columns)]] * len(x["hidden_states"]),
        return_dict=False,
    )[0]
    return _unpacked(out, rows, columns)


def _longcat_image(theirs: ModelMixin, x: Inputs) -> Tensor:
    _, _, _, height, width = x["hidden_states"].shape
    rows, columns, words = height // 2, width // 2, torch.arange(x["encoder_hidden_states"].shape[1])
    picture = torch.cartesian_prod(torch.arange(1, 2), 512 + torch.arange(rows), 512 + torch.arange(columns))
    out = theirs(
        _packed(x["hidden_states"]),
        x["encoder_hidden_states"],
        x["timestep"] / 1000,
        picture,
        torch.stack([torch.zeros_like(words), words, words], dim=1),
        return_dict=False,
    )[0]
    return _unpacked(out, rows, columns)


def _z_image(theirs: ModelMixin, x: Inputs) -> Tensor:
    """Its time runs from noise to clean, and so does what it predicts; prompts come one by one."""
    mask = x.get("encoder_attention_mask")
    text = x["encoder_hidden_states"]
    words = list(text) if mask is None else [one[own] for one, own in zip(text, mask, strict=True)]
    out = theirs(list(x["hidden_states"]), (1000 - x["timestep"]) / 1000, words, return_dict=False)[0]
    return -torch.stack(out)


def _flux2(theirs: ModelMixin, x: Inputs) -> Tensor:
    _, _, _, height, width = x["hidden_states"].shape
    one, words = torch.arange(1), torch.arange(x["encoder_hidden_states"].shape[1])
    out = theirs(
        x["hidden_states"].flatten(2).transpose(1, 2),
        x["encoder_hidden_states"],
        x["timestep"] / 1000,
        torch.cartesian_prod(one, torch.arange(height), torch.arange(width), one),
        torch.cartesian_prod(one, one, one, words),
        x.get("guidance"),
        return_dict=False,
    )[0]
    return out.transpose(1, 2).unflatten(2, (1, height, width))


def _mochi(theirs: ModelMixin, x: Inputs) -> Tensor:
    """Its time runs from noise to clean, and so does what it predicts."""
    with warnings.catch_warnings():  # it turns autocast to fp32, which on a CPU is to turn it off
        warnings.filterwarnings("ignore", "In CPU autocast, but the target dtype is not supported")
        out = theirs(
            x["hidden_states"],
            x["encoder_hidden_states"],
            1000 - x["timestep"],
            x["encoder_attention_mask"],
            return_dict=False,
        )[0]
    return -out


_WAN = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "text_dim": 12,
    "freq_dim": 16, "ffn_dim": 48, "num_layers": 2,
}  # fmt: skip
_LTX = {
    "in_channels": 6, "out_channels": 6, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32,
    "num_layers": 2, "caption_channels": 12,
}  # fmt: skip
_COGVIDEOX = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 20,
    "text_embed_dim": 12, "num_layers": 2, "sample_width": 10, "sample_height": 6, "sample_frames": 9,
    "max_text_seq_length": 7,
}  # fmt: skip
_PIXART = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 8, "num_layers": 2,
    "cross_attention_dim": 24, "caption_channels": 12, "sample_size": 16,
}  # fmt: skip
_LATTE = {
    **_PIXART, "attention_bias": True, "patch_size": 2, "activation_fn": "gelu-approximate", "norm_eps": 1e-6,
    "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single", "norm_elementwise_affine": False,
}  # fmt: skip
_FLUX = {
    "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 12, "pooled_projection_dim": 10, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
_LONGCAT = {key: value for key, value in _FLUX.items() if key != "pooled_projection_dim"}
_HUNYUAN = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
    "num_single_layers": 2, "num_refiner_layers": 2, "text_embed_dim": 12, "pooled_projection_dim": 10,
    "rope_axes_dim": (4, 6, 6),
}  # fmt: skip
_HUNYUAN15 = {
    "in_channels": 9, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
    "num_refiner_layers": 2, "text_embed_dim": 12, "text_embed_2_dim": 8, "image_embed_dim": 10,
    "rope_axes_dim": (4, 6, 6),
}  # fmt: skip
_FLUX2 = {
    "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 12, "timestep_guidance_channels": 16, "axes_dims_rope": (4, 4, 4, 4),
}  # fmt: skip
_Z_IMAGE = {
    "in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 2, "n_heads": 2, "n_kv_heads": 2,
    "cap_feat_dim": 12, "axes_dims": [4, 6, 6],
}  # fmt: skip
_IMAGES = ((1, 4, 4), (1, 6, 10), (1, 2, 14))

MEMBERS = {
    "wan": Member("wan", _WAN, _wan),
    "wan-i2v": Member(
        "wan",
        _WAN | {"in_channels": 9, "image_dim": 10, "added_kv_proj_dim": 32},
        _wan,
        inputs=("image",),
        text_tokens=512,  # theirs splits image and text there
    ),
    "wan-flf2v": Member(
        "wan",
        _WAN | {"in_channels": 9, "image_dim": 10, "added_kv_proj_dim": 32, "pos_embed_seq_len": 6},
        _wan,
        inputs=("image",),
        text_tokens=512,
    ),
    "skyreels_v2": Member("skyreels_v2", _WAN, _skyreels),
    "skyreels_v2-df": Member(
        "skyreels_v2", _WAN | {"inject_sample_info": True}, _skyreels_forced, inputs=("kept", "fps"), fps=16.0
    ),
    "skyreels_v2-df-causal": Member(
        "skyreels_v2", _WAN | {"inject_sample_info": True}, _skyreels_forced, sizes=((4, 4, 4), (2, 6, 10)),
        inputs=("kept", "fps", "causal"),
    ),
    "ltx": Member(
        "ltx",
        _LTX,
        _ltx,
        sizes=((1, 2, 2), (3, 3, 5), (2, 1, 7)),
        inputs=("mask", "fps"),
    ),
    "ltx-0.9.7": Member(
        "ltx",
        _LTX,
        _ltx_lagging,
        sizes=((1, 2, 2), (3, 3, 5), (2, 1, 7)),
        inputs=("mask", "fps"),
        overrides={"rope_lag": 7 / 8},
    ),
    "cogvideox-2b": Member("cogvideox", _COGVIDEOX, _cogvideox, sizes=((3, 6, 10), (1, 4, 4), (2, 10, 6))),
    "cogvideox-5b": Member(
        "cogvideox",
        _COGVIDEOX | {"use_rotary_positional_embeddings": True},
        _cogvideox,
        sizes=((3, 6, 10), (1, 4, 4), (2, 10, 6), (2, 2, 12)),
    ),
    "cogvideox-5b-i2v": Member(
        "cogvideox",
        _COGVIDEOX
        | {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True, "in_channels": 8},
        _cogvideox,
        sizes=((3, 6, 10),),
    ),
    "cogvideox-1.5-5b": Member(
        "cogvideox",
        _COGVIDEOX | {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False},
        _cogvideox,
        sizes=((4, 6, 10), (2, 4, 4), (6, 2, 6)),
    ),
    "cogvideox-1.5-5b-i2v": Member(
        "cogvideox",
        _COGVIDEOX
        | {
            "use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False, "in_channels": 8,
            "ofs_embed_dim": 20,
        },
        _cogvideox,
        sizes=((4, 6, 10), (2, 4, 4)),
    ),
    "hunyuan_video": Member("hunyuan_video", _HUNYUAN, _hunyuan, inputs=("mask", "pooled", "guidance")),
    "hunyuan_video-i2v": Member(
        "hunyuan_video",
        _HUNYUAN | {"image_condition_type": "token_replace"},
        _hunyuan_replaced,
        sizes=((2, 4, 4), (3, 6, 10)),
        inputs=("mask", "pooled", "guidance", "kept"),
    ),
    "hunyuan_video-i2v-33ch": Member(
        "hunyuan_video",
        _HUNYUAN | {"image_condition_type": "latent_concat", "in_channels": 9, "guidance_embeds": False},
        _hunyuan,
        inputs=("mask", "pooled"),
    ),
    "hunyuan_video15": Member("hunyuan_video15", _HUNYUAN15, _hunyuan15, inputs=("sources",)),
    "hunyuan_video15-i2v": Member(
        "hunyuan_video15", _HUNYUAN15 | {"patch_size": 2, "patch_size_t": 2}, _hunyuan15,
        sizes=((2, 4, 4), (4, 6, 10)), inputs=("sources", "image"),
    ),
    "hunyuan_video15-meanflow": Member(
        "hunyuan_video15", _HUNYUAN15 | {"use_meanflow": True}, _hunyuan15, inputs=("sources", "image", "target")
    ),
    "latte": Member("latte", _LATTE | {"video_length": 3}, _latte, sizes=((3, 16, 16), (3, 6, 10), (1, 2, 14))),
    "allegro": Member(
        "allegro",
        {
            "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "cross_attention_dim": 24,
            "caption_channels": 12,
        },
        _allegro,
        inputs=("mask",),
    ),
    "pixart-sigma": Member(
        "pixart", _PIXART | {"use_additional_conditions": False}, _pixart, sizes=_IMAGES, inputs=("mask",)
    ),
    "pixart-alpha": Member(
        "pixart", _PIXART | {"use_additional_conditions": True, "interpolation_scale": 2}, _pixart,
        sizes=_IMAGES, inputs=("mask",),
    ),
    "pixart-alpha-512": Member("pixart", _PIXART, _pixart, sizes=_IMAGES, inputs=("mask",)),
    "flux-dev": Member("flux", _FLUX | {"guidance_embeds": True}, _flux, sizes=_IMAGES, inputs=("pooled", "guidance")),
    "flux-schnell": Member("flux", _FLUX, _flux, sizes=_IMAGES, inputs=("pooled",)),
    "mochi": Member(
        "mochi",
        {
            "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "pooled_projection_dim": 20,
            "in_channels": 4, "text_embed_dim": 24, "time_embed_dim": 16,
        },
        _mochi,
        inputs=("mask",),
    ),
    "qwen_image": Member(
        "qwen_image",
        {
            "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
            "joint_attention_dim": 12, "axes_dims_rope": (4, 6, 6),
        },
        _qwen_image,
        sizes=_IMAGES,
        inputs=("mask",),
    ),
    "flux2-dev": Member("flux2", _FLUX2, _flux2, sizes=_IMAGES, inputs=("guidance",)),
    "flux2-klein": Member("flux2", _FLUX2 | {"guidance_embeds": False}, _flux2, sizes=_IMAGES),
    "longcat_image": Member("longcat_image", _LONGCAT, _longcat_image, sizes=_IMAGES),
    "z_image": Member("z_image", _Z_IMAGE, _z_image, sizes=((1, 4, 4), (3, 6, 10), (1, 16, 16))),
    "z_image-filled": Member(
        "z_image", _Z_IMAGE, _z_image, sizes=((1, 4, 4), (3, 6, 10)), text_tokens=35, inputs=("mask",)
    ),
}  # fmt: skip


FIRST_OF_FAMILY = {member.family: name for name, member in reversed(MEMBERS.items())}
"""The first member of each family."""


@torch.no_grad()
def randomize(module: M) -> M:
    """Redraw all parameters and learned positions, so that no wrong layer hides behind a 0 or a 1.

    Matrices and kernels keep the size of what passes through them; biases and norm weights move by about 0.3.
    """
    for parameter in module.parameters():
        fan_in = parameter[0].numel()
        if fan_in > 1:
            parameter.normal_(std=fan_in**-0.5)
        else:
            parameter.add_(0.3 * torch.randn_like(parameter))
    for name, buffer in module.named_buffers():
        if name in module.state_dict():
            buffer.normal_()
    return module


@torch.no_grad()
def deviation(member: Member, seed: int = 0) -> float:
    """The largest difference to diffusers' prediction, relative to its largest value, over the member's sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = randomize(member.theirs())
        ours = member.ours(theirs)
        found = 0.0
        for size in member.sizes:
            inputs = member.draw(ours, size)
            expected = member.call(theirs, inputs)
            found = max(found, float((ours(**inputs).sample - expected).abs().max() / expected.abs().max()))
    return found
