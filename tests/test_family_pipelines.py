"""Whole pipelines: from one tiny folder, diffusers' pipeline and ours make the same frames."""

from __future__ import annotations

import json
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import CASES, NEGATIVE, PROMPT, image

from videodit import Edit, Preview, Region, Storyboard, VideoDiTPipeline
from videodit.cli.main import main
from videodit.errors import InputError, ModelError
from videodit.families import FAMILIES
from videodit.families.autoencoders import autoencoder_named, autoencoder_of
from videodit.media import probe, read_recipe
from videodit.pipelines.autoencoders import decode, encode_posterior
from videodit.pipelines.request import Request
from videodit.pipelines.scheduling import noise_levels
from videodit.pipelines.settings import Settings, check_conditions, plan_settings
from videodit.pipelines.spec import ModelFolder
from videodit.text import TextEncoder
from videodit.text_sources import join_sources


def planned(folder: Path, **asked: Any) -> Settings:
    """The settings of a request to a model, from its configs alone."""
    return plan_settings(Request(**asked), ModelFolder.find(str(folder)).spec)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _theirs(steps: dict[str, Any], unguided: bool) -> dict[str, Any]:
    return {key: value for key, value in steps.items() if key != "guidance_scale" or not unguided}


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_makes_the_frames_of_diffusers(
    name: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    theirs = getattr(diffusers, case.pipeline).from_pretrained(folder(name))
    ours = VideoDiTPipeline.from_pretrained(folder(name))
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    # Some of theirs cannot do without ftfy, which leaves plain ASCII alone.
    plain = types.SimpleNamespace(fix_text=lambda text: text)
    monkeypatch.setattr(sys.modules[type(theirs).__module__], "ftfy", plain, raising=False)
    if name == "allegro":
        theirs.vae.enable_tiling()
    extra = dict(case.theirs)
    if extra.pop("shifts_twice", False):  # as diffusers' scheduler does by itself; levels that it gets, it shifts once
        lay_out = theirs.scheduler.set_timesteps
        theirs.scheduler.set_timesteps = lambda n, device: lay_out(sigmas=np.linspace(1, 1 / n, n), device=device)
    latents = torch.randn(1, *case.latent, generator=generator())
    noise, packed = ({}, {}) if case.seeded else ({"latents": latents}, {"latents": case.pack(latents).clone()})
    steps = {"num_inference_steps": 3, "guidance_scale": 3.5, **case.call}
    negative = {"negative_prompt": NEGATIVE} if ours._sampling.guided and not case.unnegated else {}
    expected = case.frames(
        theirs(
            prompt=PROMPT, **_theirs(steps, case.unguided), **negative, **extra, **packed, generator=generator(),
            output_type="pt",
        )
    )  # fmt: skip
    frames = {"num_frames": case.latent[1]} if "num_frames" not in case.call | case.ours else {}
    out = ours(
        PROMPT, **steps, **negative, **frames, **noise, generator=generator(), output_type="pt",
        dynamic_guidance="use_dynamic_cfg" in case.theirs, fit="stretch",  # as diffusers does with images
        **case.ours,
    )  # fmt: skip
    assert expected.std() > 0.01
    assert out.frames[0].shape == expected.shape
    assert (out.frames[0] - expected).abs().max() <= 1 / 255


QUOTED = 'a "red" ball bounces on “the grass” and "red"'


@torch.no_grad()
def test_words_in_quotes_are_read_by_the_second_encoder(folder: Callable[[str], Path]) -> None:
    """Of several prompts, some without any; its tokens stand behind the first encoder's, wherever these end."""
    source = folder("hunyuan_video15")
    theirs, ours = diffusers.HunyuanVideo15Pipeline.from_pretrained(source), VideoDiTPipeline.from_pretrained(source)
    read = ours.text([QUOTED, PROMPT])
    assert read.mask is not None
    second = read.embeds[..., -1] == 1
    assert (second & read.mask).sum(dim=1).tolist() == [len(b'Text "red". Text "the grass". ') + 1, 0]
    assert not (ours.text([PROMPT]).embeds[..., -1] != 0).any()
    assert ours.text_encoder_notices(f'a "{"red" * 90}" ball')[-1] == (
        "what stands in quotes takes 280 tokens; the model reads the first 256 of them"
    )
    latents = torch.randn(2, *CASES["hunyuan_video15"].latent, generator=generator())
    theirs.vae.enable_slicing()  # of several clips, its mask has the wrong shape
    frames = []
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
        call = {"num_inference_steps": 2, "negative_prompt": ['"blue"', NEGATIVE], "latents": latents}
        out = pipe([QUOTED, PROMPT], **call, **CASES["hunyuan_video15"].call, output_type="pt")
        frames.append(torch.stack(list(out.frames)))
    assert (frames[1] - frames[0]).abs().max() <= 1 / 255
    assert (frames[1][0] - frames[1][1]).abs().max() > 0.01
    with pytest.raises(ModelError, match="the second text encoder makes tokens of 12 channels; 8 is the most"):
        join_sources(torch.zeros(1, 2, 8), torch.ones(1, 2), torch.zeros(1, 3, 12), torch.ones(1, 3))


def test_a_guiders_scale_is_the_models_own(folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = folder("hunyuan_video15")
    assert planned(source, prompt=PROMPT, num_frames=5).guidance_scale == 3.5
    pipe = VideoDiTPipeline.from_pretrained(source)
    assert pipe.defaults.guidance_scale == 3.5
    theirs = pipe.to_diffusers()
    assert (type(theirs.guider).__name__, theirs.guider.config.guidance_scale) == ("ClassifierFreeGuidance", 3.5)
    theirs.save_pretrained(tmp_path / "again")
    assert VideoDiTPipeline.from_pretrained(tmp_path / "again").defaults.guidance_scale == 3.5
    assert VideoDiTPipeline.from_pipe(theirs).defaults.guidance_scale == 3.5
    pipe.save_pretrained(tmp_path / "own")
    assert ModelFolder.find(str(tmp_path / "own")).spec.defaults.guidance_scale == 3.5

    path = tmp_path / "again" / "guider" / "guider_config.json"
    config = json.loads(path.read_text())
    for changes, message in (
        ({"guidance_rescale": 0.5}, "guidance_rescale of the guider is 0.5; the valid value is 0.0"),
        ({"start": 0.2}, "start of the guider is 0.2; the valid value is 0.0"),
        ({"use_original_formulation": True}, "use_original_formulation of the guider is True"),
        ({"guidance_scale": 0.5}, "guidance_scale of the guider is 0.5; it must be a number from 1 to 100"),
        ({"enabled": "yes"}, "enabled of the guider is 'yes'"),
    ):
        path.write_text(json.dumps(config | changes))
        with pytest.raises(ModelError, match=message):
            ModelFolder.find(str(tmp_path / "again"))
    path.write_text(json.dumps(config | {"enabled": False}))
    assert ModelFolder.find(str(tmp_path / "again")).spec.defaults.guidance_scale == 1.0
    path.write_text(json.dumps(config))
    other = ["diffusers", "PerturbedAttentionGuidance"]
    changed = changed_index(tmp_path / "again", tmp_path / "other", guider=other)
    with pytest.raises(ModelError, match="the guider is a 'PerturbedAttentionGuidance'; the valid value is Class"):
        ModelFolder.find(str(changed))


@torch.no_grad()
def test_hunyuan_video15s_pictures(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """One pipeline makes clips from text alone, the other from a picture; their transformers have the same tensors."""
    pipe = VideoDiTPipeline.from_pretrained(folder("hunyuan_video15-i2v"))
    with pytest.raises(InputError, match="this model starts from an image; give image"):
        pipe.check_inputs(PROMPT)
    assert (pipe.defaults.height, pipe.defaults.width) == (32, 48)
    theirs = pipe.to_diffusers()
    assert {"image_encoder", "feature_extractor", "guider"} < theirs.components.keys()
    wide, seen = Image.new("RGB", (90, 20), "red"), []  # the encoder sees what is left of it
    wide.paste("blue", (45, 0, 90, 20))
    pipe.transformer.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["encoder_hidden_states_image"]), with_kwargs=True
    )
    pipe(PROMPT, image=wide, num_frames=5, num_inference_steps=1, guidance_scale=1, output_type="latent")
    fitted = theirs.video_processor.resize(wide, height=32, width=48, resize_mode="crop")
    torch.testing.assert_close(seen[0], theirs.encode_image(fitted, 1, torch.device("cpu"), torch.float32))
    pipe.save_pretrained(tmp_path / "own")
    again = VideoDiTPipeline.from_pretrained(tmp_path / "own")
    assert again.image_processor.size == pipe.image_processor.size
    text = VideoDiTPipeline.from_pretrained(folder("hunyuan_video15"))
    with pytest.raises(InputError, match="makes clips from text alone and takes no image"):
        text.check_inputs(PROMPT, image=image(0))
    half, clip = np.zeros((64, 96), np.uint8), np.zeros((5, 64, 96, 3), np.uint8)
    half[:, :48] = 255
    text.check_inputs(PROMPT, conditions=[Region(half, clip)], num_frames=5, height=64, width=96)
    changed = changed_index(
        folder("hunyuan_video15"), tmp_path / "wrong", _class_name="HunyuanVideo15ImageToVideoPipeline"
    )
    with pytest.raises(ModelError, match="needs a transformer with task_type 'i2v', got 't2v'"):
        ModelFolder.find(str(changed))


def test_where_a_step_leads_is_told_by_schedulers_of_one_prediction_a_step(folder: Callable[[str], Path]) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder("hunyuan_video15-meanflow"))
    pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    with pytest.raises(InputError, match="FlowMatchHeunDiscreteScheduler makes each of several predictions"):
        pipe.check_inputs(PROMPT, image=image(0), num_frames=5)


def test_a_processors_tokenizer_is_read_without_the_processor(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """FLUX.2 dev's folder names a class that reads pictures, too, for which torchvision has to be there."""
    source = changed_index(folder("flux2-dev"), tmp_path / "changed", tokenizer=["transformers", "PixtralProcessor"])
    pipe, plain = VideoDiTPipeline.from_pretrained(source), VideoDiTPipeline.from_pretrained(folder("flux2-dev"))
    assert torch.equal(pipe.text([PROMPT]).embeds, plain.text([PROMPT]).embeds)


@torch.no_grad()
@pytest.mark.parametrize("name", ["flux2-dev", "flux2-klein"])
def test_a_prompt_in_a_conversation(name: str, folder: Callable[[str], Path]) -> None:
    text = VideoDiTPipeline.from_pretrained(folder(name)).text
    assert isinstance(text, TextEncoder)
    assert text.lost_text(PROMPT) == ""
    long = " ".join(["red"] * 600)
    lost = text.lost_text(long).split()
    assert set(lost) == {"red"}
    assert text.lost_text(" ".join(["red"] * (600 - len(lost)))) == ""
    with pytest.raises(InputError, match="reads a prompt inside a template"):
        text.check_weights()
    stack: Any = getattr(text.model.model, "language_model", text.model.model)
    stack.layers = stack.layers[:2]
    with pytest.raises(ModelError, match="the text encoder has 2 layers; this model reads the layers"):
        text([PROMPT])
    text.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="the tokenizer has no chat template"):
        text([PROMPT])


WRITTEN = [
    "",
    PROMPT,
    "the \"red ball\" on “a cube”, and 'grass'",
    "it doesn't bounce",
    " ".join(["red"] * 600),
]


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
def test_longcat_reads_quoted_words_letter_by_letter(side: str, folder: Callable[[str], Path]) -> None:
    theirs = diffusers.LongCatImagePipeline.from_pretrained(folder("longcat_image"))
    text = VideoDiTPipeline.from_pretrained(folder("longcat_image")).text
    assert isinstance(text, TextEncoder)
    theirs.tokenizer.padding_side = text.tokenizer.padding_side = side
    found = text(WRITTEN)
    assert found.mask is None
    assert torch.equal(found.embeds, theirs.encode_prompt(WRITTEN)[0])
    assert text.lost_text(WRITTEN[-1]) == " ".join(["red"] * 88)
    assert not any(text.lost_text(prompt) for prompt in WRITTEN[:-1])
    letters = text.tokenize([WRITTEN[2]], max_length=512, return_offsets_mapping=True)
    assert [WRITTEN[2][a:b] for a, b in letters["offset_mapping"][0]][:6] == ["the", '"', "r", "e", "d", "b"]
    with pytest.raises(InputError, match="reads a prompt inside a template"):
        text.check_weights()


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_z_images_prompts_of_different_lengths(scale: float, folder: Callable[[str], Path]) -> None:
    """Of more than 32 tokens and of fewer: each picture stands behind its own. Guidance begins above 0."""
    theirs = diffusers.ZImagePipeline.from_pretrained(folder("z_image"))
    ours = VideoDiTPipeline.from_pretrained(folder("z_image"))
    latents = torch.randn(2, *CASES["z_image"].latent, generator=generator())
    prompts = [PROMPT, " ".join(["red", "ball"] * 30)]
    call = {"num_inference_steps": 2, "height": 32, "width": 48, "guidance_scale": scale, "output_type": "pt"}
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    expected = theirs(list(prompts), latents=latents[:, :, 0], **call).images
    found = ours(list(prompts), latents=latents, num_frames=1, **call).frames
    assert (torch.cat(list(found)) - expected).abs().max() <= 1 / 255


@torch.no_grad()
@pytest.mark.parametrize("zeros", [False, True])
def test_mochis_empty_prompt_is_what_its_folder_says(
    zeros: bool, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = changed_index(folder("mochi"), tmp_path / "changed", force_zeros_for_empty_prompt=zeros)
    theirs, ours = diffusers.MochiPipeline.from_pretrained(source), VideoDiTPipeline.from_pretrained(source)
    latents = torch.randn(1, *CASES["mochi"].latent, generator=generator())
    call = {"num_inference_steps": 2, "guidance_scale": 6.0, **CASES["mochi"].call, "latents": latents}
    frames = []
    for pipe in (theirs, ours, VideoDiTPipeline.from_pretrained(folder("mochi"))):
        pipe.set_progress_bar_config(disable=True)
        frames.append(pipe(prompt=PROMPT, **call, output_type="pt").frames[0])
    expected, found, plain = frames
    assert (found - expected).abs().max() <= 1 / 255
    assert (abs(plain - expected).max() > 1e-4) == zeros
    ours.save_pretrained(tmp_path / "own")
    assert VideoDiTPipeline.from_pretrained(tmp_path / "own").text_spec.zero_empty == zeros


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan", "latte", "flux-dev", "cogvideox-5b"])
def test_saved_in_the_own_layout_it_is_the_same(name: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    case = CASES[name]
    pipe = VideoDiTPipeline.from_pretrained(folder(name))
    pipe.save_pretrained(tmp_path / "own")
    again = VideoDiTPipeline.from_pretrained(tmp_path / "own")
    call = {"num_inference_steps": 2, "num_frames": case.latent[1], **case.call, "output_type": "np"}
    clips = []
    for one in (pipe, again):
        one.set_progress_bar_config(disable=True)
        clips.append(one(PROMPT, generator=generator(), **call).frames)
    np.testing.assert_allclose(*clips, atol=1e-4)


def _documented(root: Path, model: str) -> tuple[list[str], list[str]]:
    """Schedulers that the docs say work and are refused."""
    section = (root / "docs" / "families.md").read_text(encoding="utf-8").partition("## Schedulers")[2]
    (row,) = [line for line in section.splitlines() if line.startswith(f"| {model} (")]
    works, refused = (re.findall(r"\b\w+Scheduler\b", cell) for cell in row.split("|")[2:4])
    return works, refused


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # DEIS within diffusers
@pytest.mark.parametrize(("name", "model"), [("wan", "flow"), ("cogvideox-2b", "v"), ("latte", "v")])
def test_the_schedulers_of_the_docs(name: str, model: str, folder: Callable[[str], Path], root: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder(name))
    config = dict(pipe.scheduler.config)
    works, refused = _documented(root, model)
    assert len(works) > 5
    for kind in (*works, *refused):
        pipe.scheduler = getattr(diffusers, kind).from_config(config)
        call = {"num_inference_steps": 4, "num_frames": CASES[name].latent[1], **CASES[name].call}
        if kind in works:
            pipe.check_inputs(PROMPT, **call)
            continue
        with pytest.raises(InputError, match=kind):
            pipe.check_inputs(PROMPT, **call)


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan", "cogvideox-2b", "pixart-sigma", "hunyuan_video"])
def test_a_seed_draws_the_noise_of_diffusers(name: str, folder: Callable[[str], Path]) -> None:
    case = CASES[name]
    theirs = getattr(diffusers, case.pipeline).from_pretrained(folder(name))
    ours = VideoDiTPipeline.from_pretrained(folder(name))
    call = {"num_inference_steps": 2, **case.call, "output_type": "pt"}
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    expected = case.frames(theirs(PROMPT, **call, **case.theirs, generator=generator()))
    frames = {"num_frames": case.latent[1]} if "num_frames" not in case.call else {}
    found = ours(PROMPT, **call, **frames, generator=generator()).frames[0]
    assert (found - expected).abs().max() <= 1 / 255


@pytest.mark.parametrize("name", CASES)
def test_a_plan_needs_no_weights(name: str, folder: Callable[[str], Path]) -> None:
    case = CASES[name]
    asked = case.call | case.ours
    size = {key: value for key, value in asked.items() if key in ("height", "width", "num_frames")}
    made = planned(folder(name), **{"num_frames": case.latent[1], **size})
    assert made.latent_shape == case.latent
    assert made.num_inference_steps == VideoDiTPipeline.from_pretrained(folder(name)).defaults.num_inference_steps


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 40])
def test_noise_levels_of_movie_gen_are_diffusers(steps: int) -> None:
    from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule

    expected = linear_quadratic_schedule(steps).numpy()
    np.testing.assert_allclose(noise_levels(steps, "linear_quadratic"), expected, atol=1e-6)


def test_generate_makes_a_clip(folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--size", "48x32", "--frames", "9", "--steps", "2", "--seed", "3", "--dtype", "float32", "--device", "cpu"]
    assert main(["generate", PROMPT, "-m", str(folder("wan")), "-o", "clip.mp4", *words]) == 0
    info = probe("clip.mp4")
    assert (info.width, info.height, info.num_frames) == (48, 32, 9)


def test_generate_starts_from_an_image(
    folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    image(0).save("first.png")
    Path("none.png").write_bytes(b"no picture")
    words = ["--size", "48x32", "--frames", "5", "--steps", "2", "--seed", "3", "--dtype", "float32", "--device", "cpu"]
    command = ["generate", PROMPT, "-m", str(folder("wan-2.2-ti2v")), "-o", "clip.mp4", *words]
    assert main([*command, "--image", "none.png"]) == 2
    assert "cannot read the image 'none.png'" in capsys.readouterr().err
    assert main([*command, "--image", "first.png"]) == 0
    recipe = read_recipe("clip.mp4")
    assert recipe is not None
    assert recipe["seed"] == 3
    (given,) = recipe["conditions"]
    assert (given["at"], given["count"], given["strength"], len(given["frames"])) == (0, 1, 1.0, 16)
    assert main(["remake", "clip.mp4"]) == 2
    assert "was made from an image or a clip, which it does not carry" in capsys.readouterr().err


# --- what is refused -----------------------------------------------------------------------------


def changed_index(source: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(source, target)
    index = json.loads((target / "model_index.json").read_text())
    (target / "model_index.json").write_text(json.dumps(index | changes))
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_class_name": "OtterPipeline"},
            "is of class 'OtterPipeline'; valid values are VideoDiTPipeline, WanPipeline",
        ),
        ({"_class_name": ["pipeline", "My"]}, "is of class ..pipeline., .My..; valid values are VideoDiTPipeline"),
        ({"text_encoder": ["os", "system"]}, "text_encoder is of 'os'; valid values are diffusers and transformers"),
        (
            {"scheduler": ["diffusers", "utils"]},
            "scheduler is a utils of diffusers; it must be a SchedulerMixin",
        ),
        ({"tokenizer": ["transformers", "UMT5EncoderModel"]}, "it must be a PreTrainedTokenizerBase"),
        ({"scheduler": ["diffusers"]}, "scheduler is .'diffusers'.; it must be a library and a class in it"),
        (
            {"_class_name": "LTXPipeline"},
            "is of class 'WanTransformer3DModel'; it must be of class 'LTX",
        ),
    ],
)
def test_a_folder_that_is_no_familys_is_named(
    changes: dict[str, Any], message: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        VideoDiTPipeline.from_pretrained(changed_index(folder("wan"), tmp_path / "changed", **changes))


def test_an_adapter_that_points_elsewhere_is_refused(folder: Callable[[str], Path], tmp_path: Path) -> None:
    changed = changed_index(folder("wan"), tmp_path / "changed")
    (changed / "text_encoder" / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(ValueError, match="holds an adapter, which points at weights elsewhere"):
        VideoDiTPipeline.from_pretrained(changed)


def test_a_missing_second_encoder_is_named_before_loading(folder: Callable[[str], Path], tmp_path: Path) -> None:
    changed = changed_index(folder("flux-dev"), tmp_path / "changed")
    shutil.rmtree(changed / "text_encoder_2")
    with pytest.raises(ValueError, match="lacks the component text_encoder_2/"):
        planned(changed)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("wan-i2v", {"image": False}, "starts from an image; give image"),
        ("wan", {"image": True}, "from text alone"),
        ("flux-dev", {"image": False, "negative_prompt": NEGATIVE}, "takes no negative_prompt"),
        (
            "wan",
            {"image": False, "guidance_scale_2": 3.0},
            "one transformer: guidance_scale_2 is for models with two, got 3.0",
        ),
        (
            "wan-two-experts",
            {"image": False, "guidance_scale_2": 300.0},
            "guidance_scale_2 must be a number from 0 to 100, got 300.0",
        ),
        ("cogvideox-5b-i2v", {"image": True}, "learned positions and makes 80x48, 9 frames alone, not 720x480, 49"),
    ],
)
def test_a_plan_knows_what_a_model_can_take(
    name: str, changes: dict[str, Any], message: str, folder: Callable[[str], Path]
) -> None:
    spec = ModelFolder.find(str(folder(name))).spec

    def check() -> None:
        check_conditions(spec, **changes)
        plan_settings(Request(), spec)

    with pytest.raises(ValueError, match=message):
        check()


def test_defaults_are_those_of_the_checkpoint(folder: Callable[[str], Path]) -> None:
    assert planned(folder("pixart-sigma")).height == 8 * 16  # the tiny one's sample_size
    two = planned(folder("wan-two-experts"))
    assert (two.height, two.num_inference_steps, two.guidance_scale) == (720, 40, 4.0)
    assert planned(folder("flux-schnell")).guidance_scale == 0


@torch.no_grad()
@pytest.mark.parametrize("name", ["cogvideox-5b", "allegro"])
def test_clips_of_a_noisy_sampler_are_made_again_alone(name: str, folder: Callable[[str], Path]) -> None:
    """It draws noise in each step: from each clip's own generator, or no recipe tells a seed."""
    case, pipe = CASES[name], VideoDiTPipeline.from_pretrained(folder(name))
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, **case.call, "output_type": "latent"}
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = pipe([PROMPT, NEGATIVE], generator=seeds, **call)
    assert [recipe["seed"] for recipe in both.recipes] == [1, 2]
    second = pipe(NEGATIVE, generator=torch.Generator().manual_seed(2), **call)
    assert (both.frames[1] - second.frames[0]).abs().max() <= 1e-3 * second.frames.abs().max()
    shared = pipe([PROMPT, NEGATIVE], generator=generator(), **call)
    assert [recipe["seed"] for recipe in shared.recipes] == [None, None]


@torch.no_grad()
@pytest.mark.parametrize("name", ["allegro", "ltx-0.9.1", "latte", "cogvideox-2b", "hunyuan_video"])
def test_clips_of_one_call_are_decoded_as_each_alone(name: str, folder: Callable[[str], Path]) -> None:
    case, pipe = CASES[name], VideoDiTPipeline.from_pretrained(folder(name))
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "num_frames": case.latent[1], **case.call, "output_type": "pt"}
    both = pipe([PROMPT, NEGATIVE], generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)], **call)
    for i, prompt in enumerate((PROMPT, NEGATIVE)):
        alone = pipe(prompt, generator=torch.Generator().manual_seed(1 + i), **call)
        torch.testing.assert_close(both.frames[i : i + 1], alone.frames, atol=1e-3, rtol=0)
        assert alone.recipes[0].get("tiling") is None  # Allegro's are no choice of anybody's


@torch.no_grad()
@pytest.mark.parametrize("name", ["allegro", "latte"])
def test_clips_of_one_batch_are_encoded_as_each_alone(name: str, folder: Callable[[str], Path]) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder(name))
    clips = torch.rand(2, 3, 24, 32, 32) * 2 - 1
    mean, std = encode_posterior(pipe.vae, clips)
    for i in range(2):
        one_mean, one_std = encode_posterior(pipe.vae, clips[i : i + 1])
        torch.testing.assert_close(mean[i : i + 1], one_mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(std[i : i + 1], one_std, atol=1e-4, rtol=1e-4)


def test_every_family_has_a_record_of_its_autoencoder(folder: Callable[[str], Path]) -> None:
    for family in FAMILIES.values():
        for sampling in family.sampling.values():
            assert autoencoder_named(sampling.vae).loaded.loads_as is None
    for name in CASES:
        config = json.loads((folder(name) / "vae" / "config.json").read_text())
        pipe = VideoDiTPipeline.from_pretrained(folder(name))
        about = autoencoder_named(config["_class_name"])
        assert about.loaded is autoencoder_of(pipe.vae)
        assert about.strides(config) == pipe.spec.geometry.vae_stride
        assert hasattr(pipe.vae, "decode_stream") is about.loaded.streams is pipe.spec.loops
        assert ("latents_mean" in dict(pipe.vae.named_buffers(recurse=False))) is (about.statistics == "buffers")


def test_an_autoencoder_without_a_record_is_named(folder: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="the autoencoder is a Identity, expected one of CausalVideoVAE"):
        decode(torch.nn.Identity(), torch.zeros(1, 4, 1, 2, 2))  # type: ignore[arg-type]


def test_a_recipe_tells_all_that_made_the_clip(folder: Callable[[str], Path]) -> None:
    case, pipe = CASES["wan-two-experts"], VideoDiTPipeline.from_pretrained(folder("wan-two-experts"))
    pipe.set_progress_bar_config(disable=True)
    out = pipe(PROMPT, num_inference_steps=1, dynamic_guidance=True, **case.call)
    assert out.recipes[0]["guidance_2"] == 3.0
    assert out.recipes[0]["dynamic_guidance"] is True


@torch.no_grad()
def test_latents_in_front_are_no_part_of_the_clip(folder: Callable[[str], Path]) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder("cogvideox-1.5-5b"))
    pipe.set_progress_bar_config(disable=True)
    shown: list[np.ndarray] = []
    call = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2}
    clip = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    made = pipe(PROMPT, **call, conditions=[Edit(clip, 0.5)], output_type="latent", callback_on_step_end=Preview(
        lambda frames, step, steps: shown.append(frames)
    )).frames  # fmt: skip
    assert made.shape == (1, 4, 3, 4, 4)  # four are denoised, in patches of two
    assert shown[-1].shape[1] == 3
    board = Storyboard(((0.0, PROMPT), (0.25, NEGATIVE)))
    assert pipe(board, **call, output_type="latent").frames.shape == made.shape
    with pytest.raises(InputError, match="windows need a transformer whose patches are one latent frame long"):
        pipe.check_inputs(PROMPT, **call | {"num_frames": 49}, window=17)


@torch.no_grad()
def test_prompts_are_read_with_the_picture(folder: Callable[[str], Path]) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder("hunyuan_video-i2v-33ch"))
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 1, "generator": generator()}
    two = [PROMPT, PROMPT.replace("red", "blue")]
    assert pipe(two, image=image(0), **call, output_type="latent").frames.shape == (2, 4, 2, 4, 6)
    streams = pipe(PROMPT, image=image(0), **call, output_type="stream").frames
    assert sum(len(part) for part in streams[0]) == 5
    one, other = (pipe.text([PROMPT], picture=np.asarray(image(seed))) for seed in (0, 1))
    assert one.embeds.shape == (1, 288 + 252, 12)
    assert not torch.equal(one.embeds, other.embeds)
    for refused, message in (
        (lambda: pipe(PROMPT, **call), "starts from an image; give image"),
        (lambda: pipe.encode_prompt(PROMPT), "reads a prompt together with the picture .* pass both to a call"),
        (lambda: pipe.encode_ahead([PROMPT]), "which is not known ahead of a call"),
        (lambda: pipe(PROMPT, image=image(0), **call | {"num_frames": 49}, window=17), "decodes no latents in front"),
    ):
        with pytest.raises(InputError, match=message):
            refused()
    long = pipe.text([f"{PROMPT} " * 99], picture=np.asarray(image(0)))
    assert long.mask is not None
    assert long.mask.all()


@torch.no_grad()
def test_a_model_that_sees_its_clip_edits_all_of_it(folder: Callable[[str], Path]) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder("lucy-edit"))
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 2, "output_type": "latent"}
    clips = [np.random.default_rng(seed).integers(0, 256, (5, 32, 48, 3), np.uint8) for seed in (0, 1)]
    one, other = (pipe(PROMPT, **call, generator=generator(), conditions=[Edit(clip)]) for clip in clips)
    assert one.recipes[0]["conditions"][0]["strength"] == 1
    assert (one.frames - other.frames).abs().max() > 1e-2
    with pytest.raises(InputError, match="this model edits a clip; give it one by `videodit edit`"):
        pipe.check_inputs(PROMPT, **call)
    with pytest.raises(InputError, match="makes clips from text alone and takes no image"):
        pipe.check_inputs(PROMPT, **call, image=image(0), conditions=[Edit(clips[0])])


def test_a_transformer_says_which_of_two_pipelines_it_is_for(folder: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("hunyuan_video", "hunyuan_video-i2v"):
        pipe = VideoDiTPipeline.from_pretrained(folder(name))
        assert VideoDiTPipeline(**pipe.components).config.sampled_as == CASES[name].pipeline
    changed = changed_index(folder("hunyuan_video-i2v"), tmp_path / "changed", _class_name="HunyuanVideoPipeline")
    with pytest.raises(ModelError, match="takes no transformer with image_condition_type 'token_replace'"):
        planned(changed)
    changed = changed_index(folder("hunyuan_video"), tmp_path / "no", _class_name="HunyuanVideoImageToVideoPipeline")
    with pytest.raises(ModelError, match="needs a transformer with an image_condition_type"):
        planned(changed)


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan", "latte", "allegro"])
def test_prompts_encoded_beforehand_give_the_same_clip(name: str, folder: Callable[[str], Path]) -> None:
    case, pipe = CASES[name], VideoDiTPipeline.from_pretrained(folder(name))
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 1, "num_frames": case.latent[1], **case.call, "output_type": "latent"}
    tokens = pipe.text.tokenizer(
        [pipe.text.spec.written(PROMPT)], padding="max_length", max_length=pipe.text.max_length, return_tensors="pt"
    )
    embeds = pipe.text_encoder(**tokens).last_hidden_state
    given = {"prompt_embeds": embeds, "prompt_attention_mask": tokens["attention_mask"]}
    expected = pipe(PROMPT, generator=generator(), **call).frames
    torch.testing.assert_close(pipe(**given, generator=generator(), **call).frames, expected, atol=1e-4, rtol=1e-4)


def test_a_mask_that_would_not_be_heeded_is_refused(folder: Callable[[str], Path]) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder("cogvideox-2b"))
    mask = torch.arange(226)[None] < 5
    with pytest.raises(ValueError, match="attends to all text tokens; prompt_attention_mask must not hide any"):
        pipe(prompt_embeds=torch.zeros(1, 226, 12), prompt_attention_mask=mask)


@pytest.mark.parametrize("picture", [[image(0), image(1)], torch.zeros(2, 3, 8, 8), 3])
def test_what_is_no_single_image_is_named(picture: Any, folder: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="image must be one PIL image"):
        VideoDiTPipeline.from_pretrained(folder("wan-2.2-ti2v"))(PROMPT, image=picture)


def test_an_image_too_many_or_too_few_is_named(folder: Callable[[str], Path]) -> None:
    for name, images, message in (
        ("wan", {"image": image(0)}, "makes clips from text alone and takes no image"),
        ("wan-i2v", {}, "starts from an image; give image"),
        ("wan-i2v", {"image": image(0), "last_image": image(1)}, "sees one image; it takes no last_image"),
        ("wan-flf2v", {"image": image(0)}, "goes from a first image to a last one; give last_image"),
        ("wan-2.2-ti2v", {"image": image(0), "last_image": image(1)}, "last_image needs image, and a model"),
    ):
        with pytest.raises(ValueError, match=message):
            VideoDiTPipeline.from_pretrained(folder(name))(PROMPT, **images)


def test_what_a_family_cannot_take_is_named(folder: Callable[[str], Path]) -> None:
    flux = VideoDiTPipeline.from_pretrained(folder("flux-dev"))
    with pytest.raises(ValueError, match="num_frames must be 1 to 1, got 5"):
        flux(PROMPT, num_frames=5)
    with pytest.raises(ValueError, match="has its guidance built in and takes no negative_prompt, got 'a blue cube'"):
        flux(PROMPT, negative_prompt=NEGATIVE)
    with pytest.raises(ValueError, match="reads a prompt in two ways; pass pooled_prompt_embeds with prompt_embeds"):
        flux(prompt_embeds=torch.zeros(1, 3, 12))
    latte = VideoDiTPipeline.from_pretrained(folder("latte"))
    latte.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="has prediction_type None; this model needs prediction_type='epsilon'"):
        latte(PROMPT)
    with pytest.raises(ValueError, match="revision are for models on the hub"):
        VideoDiTPipeline.from_pretrained(folder("wan"), revision="main")
    with pytest.raises(ValueError, match="options tokeniser are not for a pipeline of Wan"):
        VideoDiTPipeline.from_pretrained(folder("wan"), tokeniser=None)
