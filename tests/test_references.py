"""References: tokens behind a clip's, in the model, in whole pipelines beside diffusers', and what is refused."""

from __future__ import annotations

import importlib
import inspect
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from tiny_families import CASES, EDITS, NEGATIVE, PROMPT, pack_flux
from tiny_parts import DYNAMIC, flux_parts
from torch import Tensor

from videodit import Reference, Storyboard, VideoDiT, VideoDiTPipeline
from videodit.cli.main import main
from videodit.cli.references import match_references, parse_references
from videodit.control import reference_rules
from videodit.control.branch import ControlBranch
from videodit.control.hints import ControlHint
from videodit.control.reference_rules import in_area
from videodit.control.references import as_references
from videodit.errors import InputError
from videodit.families import sampling_of
from videodit.families.parity import MEMBERS, randomize
from videodit.media import read_recipe, read_video
from videodit.pipelines import reference_placing
from videodit.pipelines.components import pipeline_of
from videodit.pipelines.planning import plan
from videodit.pipelines.request import Inputs, Request
from videodit.pipelines.spec import ModelFolder
from videodit.reference_tokens import ReferenceTokens, tokens_in_layout


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
@pytest.mark.parametrize("name", ["flux2-dev", "flux2-klein"])
def test_flux2s_transformer(name, deviation) -> None:
    """diffusers' class with two pictures of other sizes behind, at 10 and 20 along the first axis."""
    member = MEMBERS[name]
    theirs = randomize(member.theirs())
    ours = member.ours(theirs)
    x = member.draw(ours, (1, 4, 6))
    channels = x["hidden_states"].shape[1]
    seen = [torch.randn(1, channels, 1, 3, 2), torch.randn(2, channels, 1, 2, 5)]
    rows = [(0, 4, 6), (10, 3, 2), (20, 2, 5)]
    ids = [
        torch.cartesian_prod(torch.arange(t, t + 1), torch.arange(h), torch.arange(w), torch.arange(1))
        for t, h, w in rows
    ]
    words = torch.arange(x["encoder_hidden_states"].shape[1])
    tokens = [one.expand(2, -1, -1, -1, -1).flatten(2).transpose(1, 2) for one in (x["hidden_states"], *seen)]
    expected = theirs(
        torch.cat(tokens, dim=1), x["encoder_hidden_states"], x["timestep"] / 1000, torch.cat(ids),
        torch.nn.functional.pad(words[:, None], (3, 0)), x.get("guidance"), return_dict=False,
    )[0][:, :24]  # fmt: skip
    references = [tokens_in_layout("apart", one, number=number) for number, one in enumerate(seen)]
    found = ours(**x, references=references).sample
    assert deviation(found.flatten(2).transpose(1, 2), expected) <= 2e-5
    elsewhere = [replace(one, start=(11.0, 0.0, 0.0)) for one in references]
    assert deviation(found, ours(**x, references=elsewhere).sample) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("clean", [False, True])
def test_qwen_image_edits_transformer(clean, deviation) -> None:
    """diffusers' class with pictures at 1 and 2 along the first axis, one larger than what is made: the text stands
    behind the corner of the largest. Those of its newest model are clean."""
    member = MEMBERS["qwen_image"]
    theirs = randomize(diffusers.QwenImageTransformer2DModel(**member.config, zero_cond_t=clean).eval())
    ours = member.ours(theirs)
    x = member.draw(ours, (1, 4, 6))
    seen = [torch.randn(1, 4, 1, 6, 10), torch.randn(2, 4, 1, 2, 2)]
    tokens = [pack_flux(one.expand(2, -1, -1, -1, -1)) for one in (x["hidden_states"], *seen)]
    expected = theirs(
        torch.cat(tokens, dim=1), x["encoder_hidden_states"], x["encoder_attention_mask"], x["timestep"] / 1000,
        [[(1, 2, 3), (1, 3, 5), (1, 1, 1)]] * 2, return_dict=False,
    )[0][:, :6]  # fmt: skip
    level = 0.0 if clean else None
    references = [tokens_in_layout("edit", one, number=i, timestep=level) for i, one in enumerate(seen)]
    found = ours(**x, references=references).sample
    assert deviation(pack_flux(found), expected) <= 2e-5
    other = [replace(one, timestep=None if clean else 0.0) for one in references]
    assert deviation(found, ours(**x, references=other).sample) > 1e-3


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


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("flux2-dev", (221, 100), marks=pytest.mark.slow),
        pytest.param("flux2-klein", (2210, 500), marks=pytest.mark.slow),
        ("flux2-klein-distilled", (221, 100)),
    ],
)
def test_flux2_makes_the_pictures_of_diffusers(name, size, folder) -> None:
    """From two pictures: one whose sides are cut to whole tokens, and one that may be made smaller first."""
    theirs = getattr(diffusers, CASES[name].pipeline).from_pretrained(folder(name))
    ours = VideoDiTPipeline.from_pretrained(folder(name))
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    latents, seen = torch.randn(1, 16, 1, 2, 3, generator=generator()), [picture(75, 90, 1), picture(*size, 2)]
    call = {"height": 32, "width": 48, "num_inference_steps": 2, "guidance_scale": 2.5, "output_type": "pt"}
    expected = theirs(prompt=PROMPT, image=seen, latents=latents[:, :, 0], **call).images
    out = ours(PROMPT, references=seen, latents=latents, **call)
    assert out.frames[0].shape == expected.shape
    assert (out.frames[0] - expected).abs().max() <= 1 / 255
    assert [one["layout"] for one in out.recipes[0]["references"]] == ["apart", "apart"]
    other = ours(PROMPT, references=seen[::-1], latents=latents, **call)
    assert (out.frames[0] - other.frames[0]).abs().max() > 1 / 255


def qwen_edit(name: str) -> Any:
    """diffusers' pipeline of a case's parts, the same as in its folder."""
    torch.manual_seed(0)
    made = getattr(diffusers, EDITS[name].pipeline)(**EDITS[name].parts())
    made.set_progress_bar_config(disable=True)
    return made


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("qwen_image-edit", 1),
        pytest.param("qwen_image-edit-2509", 1, marks=pytest.mark.slow),
        pytest.param("qwen_image-edit-2509", 3, marks=pytest.mark.slow),
        ("qwen_image-edit-2511", 2),
    ],
)
def test_qwen_image_edit_makes_the_pictures_of_diffusers(name, count, folder, monkeypatch) -> None:
    """With pictures of a 64th of the pixels. Where transformers wants to be told which tokens are pictures, so that
    they have places of a grid, diffusers' pipeline does not tell it."""
    theirs = qwen_edit(name)
    ours = VideoDiTPipeline.from_pretrained(folder(name))
    ours.set_progress_bar_config(disable=True)
    module = importlib.import_module(type(theirs).__module__)
    theirs_of, ours_of = module.calculate_dimensions, reference_rules.in_area
    monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio: theirs_of(area // 64, ratio))
    for home in (reference_rules, reference_placing):
        monkeypatch.setattr(home, "in_area", lambda area, *rest: ours_of(area // 64, *rest))
    read = theirs.text_encoder.forward
    if "mm_token_type_ids" in inspect.signature(read).parameters:
        mark = theirs.text_encoder.config.image_token_id

        def forward(**given: Any) -> Any:
            return read(**given, mm_token_type_ids=given["input_ids"].eq(mark).int())

        monkeypatch.setattr(theirs.text_encoder, "forward", forward)
    seen = [picture(90, 60, 1), picture(50, 120, 2), picture(33, 34, 3)][:count]
    latents = torch.randn(1, 4, 1, 4, 6, generator=generator())
    call = {"height": 32, "width": 48, "num_inference_steps": 2, "output_type": "pt"}
    expected = theirs(
        image=seen if count > 1 else seen[0], prompt=PROMPT, negative_prompt=NEGATIVE, true_cfg_scale=3.5,
        latents=pack_flux(latents), **call,
    ).images  # fmt: skip
    call |= {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 3.5, "latents": latents}
    out = ours(**call, references=seen)
    assert out.frames[0].shape == expected.shape
    assert (out.frames[0] - expected).abs().max() <= 1e-4
    other = ours(**call, references=[*seen[:-1], PIL.Image.new("RGB", seen[-1].size, "white")])
    assert (out.frames[0] - other.frames[0]).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(1, 1000), (640, 481), (999, 1000), (4000, 17), (33, 34)])
def test_sizes_of_pictures_that_qwen_image_edit_sees(size) -> None:
    module = importlib.import_module("diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus")
    rules = sampling_of("QwenImageEditPlusPipeline", "a test")[1].references
    assert rules is not None
    assert (rules.area, rules.read_area) == (module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE)
    for area in (rules.area, rules.read_area):
        expected = [max(32, side) for side in module.calculate_dimensions(area, size[0] / size[1])]
        assert list(in_area(area, size, rules.multiple)) == expected


@torch.no_grad()
def test_what_qwen_image_edit_reads_and_refuses(folder, tmp_path, deviation) -> None:
    theirs, source = qwen_edit("qwen_image-edit-2509"), folder("qwen_image-edit-2509")
    ours = VideoDiTPipeline.from_pretrained(source)
    spec = ModelFolder.find(str(source)).spec
    for references, message in (
        ((), "this model changes a picture; pass it in references"),
        ([picture(40, 40)] * 5, "there are 5 references; this model takes at most 4"),
        (Reference(picture(40, 40), role="guide"), "the role of reference 1 is 'guide'; valid values"),
    ):
        with pytest.raises(InputError, match=message):
            plan(Request(prompt=PROMPT), Inputs(references=as_references(references)), spec)
    pixels = [np.asarray(picture(60, 40, seed)) for seed in (1, 2)]
    for prompt, references, message in (
        (PROMPT, (), "this model reads a prompt together with the references of a clip; pass both to a call"),
        ("a <|image_pad|> ball", pixels, "the prompt has 3 marks of a picture for 2 references"),
    ):
        with pytest.raises(InputError, match=message):
            ours.text([prompt], references=references)
    with pytest.raises(InputError, match="together with a picture, which is not known ahead"):
        ours.encode_ahead([PROMPT])
    both, alone = ours.text([PROMPT, "a"], references=pixels), ours.text(["a"], references=pixels)
    valid = both.embeds[1][both.mask[1]]
    assert deviation(valid, alone.embeds[0]) <= 1e-5
    taken = VideoDiTPipeline.from_pipe(theirs)
    assert taken.image_processor is theirs.processor.image_processor
    assert deviation(taken.text(["a"], references=pixels).embeds, alone.embeds) <= 1e-6
    with pytest.raises(InputError, match="reads texts and pictures by one processor of transformers"):
        ours.to_diffusers()
    ours.save_pretrained(tmp_path / "own")
    again = VideoDiTPipeline.from_pretrained(tmp_path / "own")
    assert again.spec == ours.spec == spec
    assert deviation(again.text(["a"], references=pixels).embeds, alone.embeds) <= 1e-6


def test_a_transformer_of_qwen_image_alone_makes_pictures_from_text() -> None:
    assert pipeline_of(MEMBERS["qwen_image"].ours(MEMBERS["qwen_image"].theirs())) == "QwenImagePipeline"


@pytest.mark.parametrize(("size", "message"), [((63, 80), "is 63x80; no side may be shorter than 64 pixels"),
    ((1000, 120), "is 1000x120; one side may be at most 8 times as long as the other")])  # fmt: skip
def test_pictures_that_flux2_does_not_take(size, message, folder) -> None:
    spec = ModelFolder.find(str(folder("flux2-dev"))).spec
    with pytest.raises(InputError, match=f"reference 1 {message}"):
        plan(Request(prompt="a"), Inputs(references=(Reference(picture(*size)),)), spec)


def test_a_result_of_other_proportions_is_announced(folder) -> None:
    spec = ModelFolder.find(str(folder("flux2-dev"))).spec
    references = Inputs(references=(Reference(picture(160, 90)),))
    told = "reference 1 is 160x80 and the picture 1024x1024, the model's own size; width and height set another one"
    assert told in plan(Request(prompt="a"), references, spec).notices
    assert told not in plan(Request(prompt="a", width=160, height=96), references, spec).notices


@torch.no_grad()
def test_ltx_videos_later_pictures_make_the_frames_of_diffusers(folder, monkeypatch) -> None:
    """A picture at a later frame, which diffusers puts in front of the clip's tokens."""
    import diffusers.pipelines.ltx.pipeline_ltx_condition as module

    # Theirs draws a picture's latents from their posterior; ours takes its middle.
    monkeypatch.setattr(module, "retrieve_latents", lambda out, generator: out.latent_dist.mode())
    theirs = diffusers.LTXConditionPipeline.from_pretrained(folder("ltx-0.9.7"))
    ours = VideoDiTPipeline.from_pretrained(folder("ltx-0.9.7"))
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    seen = picture(96, 64)
    call = {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_frames": 17, "height": 64, "width": 96,
        "num_inference_steps": 3, "guidance_scale": 3.5, "output_type": "pt",
    }  # fmt: skip
    condition = module.LTXVideoCondition(image=seen, frame_index=8, strength=1.0)
    expected = theirs(**call, conditions=[condition], image_cond_noise_scale=0.0, generator=generator()).frames[0]
    found = ours(**call, references=Reference(seen, at=8), generator=generator()).frames[0]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1 / 255
    elsewhere = ours(**call, references=Reference(seen, at=16), generator=generator()).frames[0]
    assert (found - elsewhere).abs().max() > 1 / 255


@torch.no_grad()
@pytest.mark.parametrize("scale", [None, 3.0])
def test_phantoms_subjects_are_frames_behind(scale, folder, monkeypatch, deviation) -> None:
    """Phantom's loop (Liu et al., 2025), written down: subjects on white are frames behind in each forward of a Wan.

    With the scale of its pictures at 1, its three predictions are the two of guidance.
    """
    import diffusers.pipelines.wan.pipeline_wan as module

    monkeypatch.setattr(module, "ftfy", SimpleNamespace(fix_text=lambda text: text), raising=False)
    theirs = diffusers.WanPipeline.from_pretrained(folder("wan"))
    ours = VideoDiTPipeline.from_pretrained(folder("wan"))
    ours.set_progress_bar_config(disable=True)
    subjects, noise = [picture(24, 16, 0), picture(16, 32, 1)], torch.randn(1, 4, 3, 4, 6, generator=generator())
    texts = theirs.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=512)
    mean, std = (torch.tensor(theirs.vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    seen = []
    for subject in subjects:
        on_white = PIL.ImageOps.pad(subject, (48, 32), PIL.Image.Resampling.LANCZOS, color=(255, 255, 255))
        pixels = torch.from_numpy(np.array(on_white)).permute(2, 0, 1)[None, :, None] / 127.5 - 1
        seen.append((theirs.vae.encode(pixels).latent_dist.mode() - mean) / std)
    theirs.scheduler.set_timesteps(3)
    latents = noise
    for t in theirs.scheduler.timesteps:
        longer = torch.cat([latents, *seen], dim=2)
        cond, uncond = (theirs.transformer(longer, t.expand(1), one, return_dict=False)[0][:, :, :3] for one in texts)
        led = uncond + 4.0 * (cond - uncond)
        if scale is not None:
            longer = torch.cat([latents, *map(torch.zeros_like, seen)], dim=2)
            bare = theirs.transformer(longer, t.expand(1), texts[1], return_dict=False)[0][:, :, :3]
            led = bare + scale * (uncond - bare) + 4.0 * (cond - uncond)
        latents = theirs.scheduler.step(led, t, latents, return_dict=False)[0]
    call = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 3, "guidance_scale": 4.0}
    call |= {"prompt": PROMPT, "negative_prompt": NEGATIVE, "output_type": "latent", "latents": noise}
    more = {"reference_layout": "behind", "reference_guidance": scale}
    found = ours(**call, references=subjects, **more).frames
    assert deviation(found, latents) <= 1e-4
    assert deviation(found, ours(**call).frames) > 1e-2
    if scale is not None:
        ours.batch_guidance = True
        assert deviation(ours(**call, references=subjects, **more).frames, latents) <= 1e-4


# ---- with everything else ------------------------------------------------------------------------


@pytest.fixture
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    made = VideoDiTPipeline.from_pretrained(tiny_model)
    made.set_progress_bar_config(disable=True)
    return made


SUBJECTS = (picture(32, 32, 1), picture(20, 40, 2))


def make(pipe: VideoDiTPipeline, references: Any = SUBJECTS, layout: str | None = "behind", **options: Any) -> Tensor:
    """Latents of a clip from one seed."""
    call = {"prompt": "a red ball", "num_inference_steps": 3, "guidance_scale": 3.0, "generator": generator()}
    latents: Tensor = pipe(
        **call | options, references=references, reference_layout=layout, output_type="latent"
    ).frames
    return latents


def test_batches_of_clips_and_of_guidance_are_each_alone(pipe, deviation) -> None:
    prompts = ["a red ball", "a tiny blue cone on the grass"]

    def both(*references: Any) -> Tensor:
        return make(pipe, *references, prompt=prompts, generator=[generator(), generator()])

    alone = torch.cat([make(pipe, prompt=one) for one in prompts])
    assert deviation(both(), alone) <= 1e-5
    pipe.batch_guidance = True
    assert deviation(both(), alone) <= 1e-5
    assert deviation(both((), None), alone) > 1e-2


def test_caches_and_schedules_of_steps(pipe, deviation) -> None:
    """A cache that keeps nothing changes nothing, and one that keeps all computes the later blocks once."""
    from diffusers import FirstBlockCacheConfig

    expected = make(pipe)
    computed: list[int] = []
    pipe.transformer.blocks[1].ffn.register_forward_hook(lambda *_: computed.append(1))
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert deviation(make(pipe), expected) <= 1e-5
    assert len(computed) == 6
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    assert make(pipe).isfinite().all()
    assert len(computed) == 8
    pipe.transformer.disable_cache()
    pipe.step_actions = "FRF"
    assert make(pipe).isfinite().all()


def test_compiled_blocks_take_references(pipe, deviation) -> None:
    expected = make(pipe)
    for block in pipe.transformer.blocks:
        block.compile(backend="eager", fullgraph=True)
    assert deviation(make(pipe), expected) <= 1e-5


def grids(pipe: VideoDiTPipeline) -> list[tuple[int, list[ReferenceTokens]]]:
    """Of each forward from now on: how many latent frames it has, and its references."""
    seen: list[tuple[int, list[ReferenceTokens]]] = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[0].shape[2], kwargs.get("references"))), with_kwargs=True
    )
    return seen


def test_windows_loops_and_storyboards_have_references_in_each_part(pipe) -> None:
    seen = grids(pipe)
    board = Storyboard([(0.0, "a red ball"), (0.5, "a blue cube")], handover=0.1)
    for options in ({"num_frames": 33, "window": 17, "overlap": 8}, {"loop": True}, {"prompt": board}):
        assert make(pipe, **options).isfinite().all()
    assert all(len(references) == 2 for _, references in seen)
    assert all(one.behind and one.latents.shape[2] == 1 for _, references in seen for one in references)


def test_a_guide_goes_along_with_windows_and_scenes(pipe) -> None:
    """Each part sees the frames of the guide that are its own."""
    seen = grids(pipe)
    guide = np.random.default_rng(0).integers(0, 256, (33, 32, 32, 3), dtype=np.uint8)
    long = {"num_frames": 33, "window": 17, "overlap": 8}
    make(pipe, guide, "guide", **long)
    whole = seen[0][1][0].latents
    assert {frames for frames, _ in seen} == {5}
    firsts = {float(references[0].latents[0, 0, 0, 0, 0]) for _, references in seen}
    assert len(firsts) > 1
    assert all(references[0].latents.shape[2] == 5 for _, references in seen)
    assert whole.shape[2] == 5
    for options in (long, {"num_frames": 33, "prompt": Storyboard([(0.0, "a red ball"), (1.0, "a blue cube")])}):
        with pytest.raises(InputError, match="a guide must be a clip as long as the one that is made"):
            make(pipe, guide[:17], "guide", **options)


# ---- what is refused before weights --------------------------------------------------------------


def test_what_no_plan_takes(pipe, tmp_path) -> None:
    """Each by its name, before anything is computed."""
    clip = np.zeros((17, 32, 32, 3), np.uint8)
    glass = PIL.Image.new("RGBA", (32, 32), (255, 0, 0, 100))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    one = SUBJECTS[0]
    for references, layout, message in (
        (
            [one],
            None,
            "this model was not trained with references, as FLUX.1 Kontext, .*, Phantom, .*VACE were",
        ),
        ([one], "sideways", "reference_layout is 'sideways'; valid values are edit, apart, guide, behind"),
        ([one], "front", "reference_layout is 'front'; valid values are edit, apart, guide, behind"),
        ([], "behind", "reference_layout is 'behind', and there are no references; leave it out"),
        ([one], "edit", "reference_layout 'edit' is for models of pictures"),
        ([one] * 5, "behind", "there are 5 references; a model with the layout 'behind' takes at most 4"),
        ([Reference(one, "hat")], "behind", "role of reference 1 is 'hat'; valid values .* are subject, scene, style"),
        ([Reference(one, "subject")], "guide", "role of reference 1 is 'subject'; valid values .* are guide"),
        ([Reference(one, at=4)], "behind", "reference 1 stands at frame 4; the layout 'behind' has no frames"),
        ([Reference(one, at=-1)], "guide", "at of reference 1 is -1; it must be a frame of the clip"),
        ([Reference(one, at=17)], "guide", "reference 1 stands at frame 17 of a clip of 17; valid values are 0 to 16"),
        ([one, clip], "behind", "reference 2 is a clip of 17 frames; the layout 'behind' takes pictures alone"),
        ([glass], "behind", "reference 1: .*(transparent|alpha)"),
        ([tmp_path / "none.png"], "behind", "none.png"),
        ([tmp_path / "broken.png"], "behind", "broken.png"),
        ([7], "behind", "each of references must be a Reference, a file or pixels, got 7"),
        (7, "behind", "references must be a Reference, a file or pixels, got 7"),
    ):
        with pytest.raises(InputError, match=message):
            pipe.check_inputs("a red ball", references=references, reference_layout=layout)
    with pytest.raises(InputError, match="references of the layout 'guide' and a loop exclude each other"):
        pipe.check_inputs("a red ball", references=clip, reference_layout="guide", loop=True)


def test_guidance_of_references_that_cannot_be(pipe) -> None:
    call = {"references": SUBJECTS[0], "reference_layout": "behind", "reference_guidance": 5, "num_inference_steps": 2}
    for options, message in (
        ({"reference_guidance": -1}, "reference_guidance is -1; it must be a number from 0 to 100"),
        ({"guidance_scale": 1.0}, "reference_guidance needs guidance by the prompt"),
        ({"reference_layout": "guide"}, "reference_guidance is for the layout 'behind'"),
        ({"references": (), "reference_layout": None}, "is for references, and there are none"),
    ):
        with pytest.raises(InputError, match=message):
            pipe.check_inputs("a red ball", **call | {"guidance_scale": 3.0} | options)
    assert pipe.check_inputs("x", **call, guidance_scale=3.0).estimate["forwards"] == 6
    pipe.step_actions = "FC"
    with pytest.raises(InputError, match="reference_guidance needs all predictions of a step"):
        pipe.check_inputs("x", **call, guidance_scale=3.0)


def test_models_that_can_have_none(folder) -> None:
    for name, message in (
        ("latte", "this model takes no references: attention='factorized'"),
        ("cogvideox-2b", "this model takes no references: position_embedding='sincos_3d'"),
        ("mochi", "rope='learned' .*; 'grid', 'fractional', 'centred' and 'text_axis' have others"),
        ("wan-i2v", "this model takes no references: it sees pictures or clips in channels beside the latents"),
        ("cogvideox-1.5-5b", "this model takes no references: a token is 2 latent frames long"),
    ):
        spec = ModelFolder.find(str(folder(name))).spec
        image = {"image": picture(32, 32)} if spec.needs_picture else {}
        request = Request(prompt=PROMPT, reference_layout="behind")
        with pytest.raises(InputError, match=message):
            plan(request, Inputs(references=(Reference(SUBJECTS[0]),), **image), spec)


def test_a_model_that_was_trained_with_them_keeps_its_layout(kontext) -> None:
    spec = ModelFolder.find(str(kontext)).spec
    assert spec.references.layout == "edit"
    seen = (Reference(SUBJECTS[0]),)
    with pytest.raises(InputError, match="reference_layout is 'behind'; this model was trained with 'edit'"):
        plan(Request(prompt=PROMPT, reference_layout="behind"), Inputs(references=seen), spec)
    with pytest.raises(InputError, match="there are 2 references; this model takes at most 1"):
        plan(Request(prompt=PROMPT), Inputs(references=seen * 2), spec)
    made = plan(Request(prompt=PROMPT, height=32, width=48), Inputs(references=seen), spec)
    assert made.references[0].frames.shape == (1, 1024, 1024, 3)
    assert made.estimate["tokens"] == 2 * 3 + 64 * 64
    assert "reference 1: 32x32 becomes 1024x1024" in made.notices


# ---- commands and recipes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("face.png", Reference(Path("face.png"))),
        ("face.png:subject", Reference(Path("face.png"), "subject")),
        ("pose.mp4:guide@8", Reference(Path("pose.mp4"), "guide", 8)),
        ("pose.mp4@0", Reference(Path("pose.mp4"), at=0)),
        (r"C:\faces\me.png", Reference(Path(r"C:\faces\me.png"))),
        (r"C:\faces\me.png:style", Reference(Path(r"C:\faces\me.png"), "style")),
        ("me@home.png", Reference(Path("me@home.png"))),
    ],
)
def test_a_reference_is_typed(text, reference) -> None:
    assert parse_references([text]) == (reference,)


def test_commands_recipes_and_remake(tiny_model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seen in zip(("cat.png", "room.png"), SUBJECTS, strict=True):
        seen.save(name)
    quick = ("--steps", "2", "--seed", "3", "--device", "cpu", "--dtype", "float32")
    flags = ("--reference", "cat.png", "--reference", "room.png:scene", "--reference-layout", "behind")
    flags += ("--reference-cfg", "2.5")
    model = ("-m", str(tiny_model))
    assert main(["generate", "a red ball", *model, *quick, *flags, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "subject: cat.png, as frames behind the clip, at its timestep" in shown
    assert "scene: room.png" in shown
    assert main(["generate", "a red ball", *model, *quick, *flags, "-o", "a.mp4"]) == 0
    assert main(["generate", "a red ball", *model, *quick, "-o", "plain.mp4"]) == 0
    recipe = read_recipe("a.mp4")
    assert recipe is not None
    assert (recipe["reference_layout"], recipe["reference_guidance"]) == ("behind", 2.5)
    assert [(one["role"], one["file"]) for one in recipe["references"]] == [
        ("subject", "cat.png"),
        ("scene", "room.png"),
    ]
    assert str(tmp_path) not in json.dumps(recipe)
    assert main(["remake", "a.mp4", *model, "--device", "cpu", "-o", "b.mp4"]) == 0
    frames = [read_video(name).frames for name in ("a.mp4", "b.mp4", "plain.mp4")]
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])
    Path("away").mkdir()
    Path("cat.png").rename("away/kitten.png")
    again = ["remake", "a.mp4", *model, "--device", "cpu", "--dry-run"]
    capsys.readouterr()
    assert main(again) == 2
    assert "was made with 'cat.png', which it does not carry" in capsys.readouterr().err
    assert main([*again, "--reference", "away/kitten.png"]) == 0
    capsys.readouterr()
    picture(8, 8).save("other.png")
    assert main([*again, "--reference", "away/kitten.png", "--reference", "other.png"]) == 2
    assert "--reference names 'other.png', which is no file that 'a.mp4' was made with" in capsys.readouterr().err
    assert main(["remake", "plain.mp4", *model, "--reference", "other.png"]) == 2
    assert "was made without references; leave --reference out" in capsys.readouterr().err
    assert main(["generate", "x", "--reference", "other.png", "--server", "http://127.0.0.1:9"]) == 5
    assert "cannot reach --server http://127.0.0.1:9" in capsys.readouterr().err


def test_a_broken_recipe_opens_no_file(tmp_path) -> None:
    clip = tmp_path / "a.mp4"
    for entries, message in (
        (3, "it must be a list"),
        ([], "it must be a list"),
        ([{"role": "subject"}] * 11, "it must be a list"),
        ([{"role": "subject"}], "it must have a role, a file and its sha256"),
        ([{"role": "subject", "file": "/etc/hosts", "sha256": "0"}], "say where it is with --reference FILE"),
        ([{"role": "subject", "file": "x.png", "sha256": "0", "at": "1"}], "its frame must be a number"),
    ):
        with pytest.raises(InputError, match=message):
            match_references({"references": entries}, None, clip)


def test_a_stored_request_names_its_references() -> None:
    request = Request(prompt="x", references=(Reference("a.png", "scene"), Reference("b.mp4", at=8)))
    assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request
    with pytest.raises(InputError, match="references holds pixels"):
        Request(prompt="x", references=(Reference(SUBJECTS[0]),)).to_json()
    with pytest.raises(InputError, match=r"a reference is \{'face': 1\}; its keys are source, role, at"):
        Request.from_json({"prompt": "x", "references": [{"face": 1}]})


def test_pixels_are_not_recorded(pipe) -> None:
    output = pipe("a red ball", references=SUBJECTS[0], reference_layout="behind", num_inference_steps=1)
    assert output.recipes[0]["not_recorded"] == ["the pixels of reference 1"]


def test_parts_of_a_flux_are_no_kontext_unless_they_say_so(kontext) -> None:
    """Both pipelines are of the same parts; nobody who makes one of parts has to say that it is not the other."""
    parts = VideoDiTPipeline.from_pretrained(kontext).components
    assert VideoDiTPipeline(**parts).spec.references is None
    assert VideoDiTPipeline(**parts, sampled_as="FluxKontextPipeline").spec.references.layout == "edit"
    assert type(VideoDiTPipeline.from_pretrained(kontext).to_diffusers()) is diffusers.FluxKontextPipeline
