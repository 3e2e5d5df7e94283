"""References: tokens behind a clip's, in the model, in whole pipelines beside diffusers', and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from tiny_families import DYNAMIC, NEGATIVE, PROMPT, flux_parts, pack_flux
from torch import Tensor

from videodit import Edit, Reference, Storyboard, VideoDiT, VideoDiTPipeline
from videodit.cli.main import main
from videodit.cli.references import match_references, parse_references
from videodit.control.branch import ControlBranch
from videodit.control.hints import ControlHint
from videodit.errors import InputError
from videodit.families.parity import MEMBERS, randomize
from videodit.media import read_recipe, read_video
from videodit.pipelines.planning import plan
from videodit.pipelines.request import Inputs, Request
from videodit.pipelines.spec import ModelFolder
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
            "this model was not trained with references, as FLUX.1 Kontext, .*, Phantom, VACE were",
        ),
        ([one], "sideways", "reference_layout is 'sideways'; valid values are edit, guide, behind"),
        ([one], "front", "reference_layout is 'front'; valid values are edit, guide, behind"),
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
    for options, message in (
        ({"reference_guidance": -1}, "reference_guidance is -1; it must be a number from 0 to 100"),
        ({"reference_guidance": 5, "guidance_scale": 1.0}, "reference_guidance needs guidance by the prompt"),
        ({"reference_guidance": 5, "reference_layout": "guide"}, "reference_guidance is for the layout 'behind'"),
        (
            {"reference_guidance": 5, "conditions": [Edit(clip, source_prompt="x")]},
            "and an edit by two prompts exclude",
        ),
        (
            {"reference_guidance": 5, "references": (), "reference_layout": None},
            "is for references, and there are none",
        ),
    ):
        given = {"references": one, "reference_layout": "behind", "guidance_scale": 3.0} | options
        with pytest.raises(InputError, match=message):
            pipe.check_inputs("a red ball", **given)
    assert (
        pipe.check_inputs(
            "x",
            references=one,
            reference_layout="behind",
            reference_guidance=5,
            num_inference_steps=2,
            guidance_scale=3,
        ).estimate["forwards"]
        == 6
    )
    pipe.step_actions = "FC"
    with pytest.raises(InputError, match="reference_guidance needs all predictions of a step"):
        pipe.check_inputs("x", references=one, reference_layout="behind", reference_guidance=5, num_inference_steps=2)
    pipe.step_actions = None
    with pytest.raises(InputError, match="references of the layout 'guide' and a loop exclude each other"):
        pipe.check_inputs("a red ball", references=clip, reference_layout="guide", loop=True)


def test_models_that_can_have_none(folder) -> None:
    for name, message in (
        ("latte", "this model takes no references: attention='factorized'"),
        ("cogvideox-2b", "this model takes no references: position_embedding='sincos_3d'"),
        ("mochi", "this model takes no references: rope='learned'"),
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
    assert spec.references == "edit"
    seen = (Reference(SUBJECTS[0]),)
    with pytest.raises(InputError, match="reference_layout is 'behind'; this model was trained with 'edit'"):
        plan(Request(prompt=PROMPT, reference_layout="behind"), Inputs(references=seen), spec)
    with pytest.raises(InputError, match="there are 2 references; a model with the layout 'edit' takes at most 1"):
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
    assert main(["generate", "x", "--reference", "other.png", "--server", "http://127.0.0.1:9"]) == 2
    assert "--reference is not sent to a server yet" in capsys.readouterr().err


def test_a_broken_recipe_opens_no_file(tmp_path) -> None:
    clip = tmp_path / "a.mp4"
    for entries, message in (
        (3, "it must be a list"),
        ([], "it must be a list"),
        ([{"role": "subject"}] * 9, "it must be a list"),
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
    assert VideoDiTPipeline(**parts, sampled_as="FluxKontextPipeline").spec.references == "edit"
    assert type(VideoDiTPipeline.from_pretrained(kontext).to_diffusers()) is diffusers.FluxKontextPipeline
