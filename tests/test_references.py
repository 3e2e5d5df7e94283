"""References: tokens behind a clip's, in the model, in whole pipelines beside diffusers', and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from tiny_families import DYNAMIC, PROMPT, flux_parts, pack_flux
from torch import Tensor

from videodit import VideoDiT, VideoDiTPipeline
from videodit.control.branch import ControlBranch
from videodit.control.hints import ControlHint
from videodit.errors import InputError
from videodit.families.parity import MEMBERS, randomize
from videodit.reference_tokens import ReferenceTokens


def picture(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


@pytest.fixture(scope="session")
def kontext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny FluxKontextPipeline."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("references") / "kontext"
    diffusers.FluxKontextPipeline(**flux_parts("flux-dev", DYNAMIC)).save_pretrained(folder)
    return folder


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


# ---- in the model --------------------------------------------------------------------------------


def tiny(block: str = "cross", **options: Any) -> VideoDiT:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "text_dim": 8, "ffn_dim": 32}
    return randomize(VideoDiT(**{"patch_size": (1, 2, 2), "num_layers": 2, "block": block} | sizes | options).eval())


def inputs(batch: int = 2, frames: int = 3) -> dict[str, Tensor]:
    """Of a forward: clips of 3 latent frames, prompts of different lengths."""
    torch.manual_seed(1)
    mask = torch.ones(batch, 5)
    mask[0, 3:] = 0
    return {
        "hidden_states": torch.randn(batch, 4, frames, 4, 4),
        "timestep": torch.tensor([500.0, 300.0])[:batch],
        "encoder_hidden_states": torch.randn(batch, 5, 8),
        "encoder_attention_mask": mask,
    }


@torch.no_grad()
@pytest.mark.parametrize("block", ["cross", "joint", "tied_joint"])
@pytest.mark.parametrize("timestep", [None, 0.0])
def test_references_behind_a_clip_are_what_a_longer_clip_has(block, timestep, deviation) -> None:
    model, given = tiny(block), inputs()
    one, two = torch.randn(1, 4, 1, 4, 4), torch.randn(2, 4, 1, 4, 4)
    references = [
        ReferenceTokens(one, behind=True, timestep=timestep),
        ReferenceTokens(two, start=(1.0, 0.0, 0.0), behind=True, timestep=timestep),
    ]
    found = model(**given, references=references).sample
    longer = torch.cat([given["hidden_states"], one.expand(2, -1, -1, -1, -1), two], dim=2)
    levels = given["timestep"][:, None].expand(2, 5).clone()
    if timestep is not None:
        levels[:, 3:] = timestep
    expected = model(**given | {"hidden_states": longer, "timestep": levels}).sample[:, :, :3]
    assert deviation(found, expected) <= 2e-6
    assert deviation(found, model(**given).sample) > 1e-2


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")
def test_kontexts_transformer(deviation) -> None:
    """diffusers' class with a picture of another size behind, at 1 along the first axis."""
    member = MEMBERS["flux-dev"]
    theirs = randomize(member.theirs())
    ours = member.ours(theirs)
    x, seen = member.draw(ours, (1, 4, 6)), torch.randn(2, 4, 1, 6, 4)
    own, behind = (
        torch.cartesian_prod(torch.arange(first, first + 1), torch.arange(h), torch.arange(w))
        for first, h, w in ((0, 2, 3), (1, 3, 2))
    )
    expected = theirs(
        hidden_states=torch.cat([pack_flux(x["hidden_states"]), pack_flux(seen)], dim=1),
        encoder_hidden_states=x["encoder_hidden_states"], pooled_projections=x["pooled_projections"],
        timestep=x["timestep"] / 1000, guidance=x["guidance"], img_ids=torch.cat([own, behind]),
        txt_ids=torch.zeros(x["encoder_hidden_states"].shape[1], 3), return_dict=False,
    )[0][:, : len(own)]  # fmt: skip
    found = ours(**x, references=[ReferenceTokens(seen, start=(1.0, 0.0, 0.0))]).sample
    assert deviation(pack_flux(found), expected) <= 2e-5


@torch.no_grad()
@pytest.mark.parametrize("at", [0, 8])
def test_ltx_videos_transformer(at, deviation) -> None:
    """diffusers' class as LTXConditionPipeline calls it: clean tokens in front, at the time of a frame of the clip."""
    member = next(one for one in MEMBERS.values() if one.options.get("rope_lag"))
    theirs = randomize(member.theirs())
    ours = member.ours(theirs)
    x, seen, fps = member.draw(ours, (3, 2, 3)), torch.randn(1, 6, 2, 2, 3), 25.0
    make = diffusers.LTXConditionPipeline
    ids = [
        make._scale_video_ids(make._prepare_video_ids(2, frames, 2, 3, device="cpu"), frame_index=frame, device="cpu")
        for frames, frame in ((2, at), (3, 0))
    ]
    coords = torch.cat(ids, dim=2).float()
    coords[:, 0] /= fps
    tokens = torch.cat(
        [one.expand(2, -1, -1, -1, -1).flatten(2).transpose(1, 2) for one in (seen, x["hidden_states"])], dim=1
    )
    levels = torch.zeros(2, tokens.shape[1])
    levels[:, 12:] = x["timestep"][:, None]
    expected = theirs(
        hidden_states=tokens, encoder_hidden_states=x["encoder_hidden_states"], timestep=levels,
        encoder_attention_mask=x["encoder_attention_mask"], video_coords=coords, return_dict=False,
    )[0][:, 12:]  # fmt: skip
    reference = ReferenceTokens(seen, start=(at / 8, 0.0, 0.0), timestep=0.0)
    found = ours(**x | {"fps": fps}, references=[reference]).sample
    assert deviation(found.flatten(2).transpose(1, 2), expected) <= 2e-5


@torch.no_grad()
def test_references_beside_a_control_get_no_hint(deviation) -> None:
    """Of both kinds of branches, which see the clip alone."""
    model, given = tiny("joint"), inputs()
    seen = ReferenceTokens(torch.randn(1, 4, 1, 4, 4), behind=True, timestep=0.0)
    plain = model(**given, references=[seen]).sample
    for start in ("hidden", "trunk"):
        branch = randomize(ControlBranch.from_base(model, layers=(0, 1), control_channels=3, start=start))
        control = torch.randn(2, 3, 3, 4, 4)
        made: list[list[Tensor]] = []
        branch.register_forward_hook(lambda module, args, out, made=made: made.append(out))
        model(**given, control=[ControlHint(branch, control)])
        found = model(**given, control=[ControlHint(branch, control)], references=[seen]).sample
        alone, with_references = made
        for one, other in zip(alone, with_references, strict=True):
            assert deviation(other, one) <= 2e-6
        assert deviation(found, plain) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({"attention": "factorized"}, {}, "attention='factorized' sees frames and lines of time of one grid alone"),
        ({"rope": None, "position_embedding": "sincos_3d", "attention_head_dim": 16}, {}, "position_embedding='sincos"),
        ({"rope": "learned", "position_base": (4, 4)}, {}, "rope='learned' knows the places of a clip alone"),
        ({}, {"causal_frames": 2}, "causal_frames is 2; it must be 1 with references"),
        ({}, {"references": [ReferenceTokens(torch.zeros(3, 4, 1, 4, 4))]}, "reference 1 must be latents \\[1 or 2, 4"),
        ({}, {"references": [ReferenceTokens(torch.zeros(1, 3, 1, 4, 4))]}, "reference 1 must be latents \\[1 or 2, 4"),
        ({}, {"references": [ReferenceTokens(torch.zeros(1, 4, 1, 3, 4))]}, "each must be a multiple of the patch"),
    ],
)
def test_what_the_model_refuses(options, more, message) -> None:
    references = {"references": [ReferenceTokens(torch.zeros(1, 4, 1, 4, 4))]}
    with pytest.raises(InputError, match=message):
        tiny(**options)(**inputs() | references | more)


# ---- whole pipelines -----------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")
def test_kontext_makes_the_pictures_of_diffusers(kontext) -> None:
    """With a picture that becomes one of the sizes that the model was trained with, of about its proportions."""
    theirs = diffusers.FluxKontextPipeline.from_pretrained(kontext)
    ours = VideoDiTPipeline.from_pretrained(kontext)
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    latents, seen = torch.randn(1, 4, 1, 4, 6, generator=generator()), picture(640, 400)
    call = {"height": 32, "width": 48, "num_inference_steps": 1, "guidance_scale": 2.5, "output_type": "pt"}
    expected = theirs(prompt=PROMPT, image=seen, latents=pack_flux(latents), max_area=32 * 48, **call).images
    out = ours(PROMPT, references=seen, latents=latents, **call)
    assert out.frames[0].shape == expected.shape
    assert (out.frames[0] - expected).abs().max() <= 1 / 255
    plain = ours(PROMPT, latents=latents, **call)
    assert (out.frames[0] - plain.frames[0]).abs().max() > 1 / 255
