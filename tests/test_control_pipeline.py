"""Controls in the sampling loop: by name, over steps, with guidance, windows, loops, storyboards and acceleration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from alignment import aligned
from torch import Tensor

from videodit import Control, Edit, Storyboard, VideoDiTPipeline
from videodit.acceleration import AccelConfig
from videodit.control.branch import ControlBranch
from videodit.errors import InputError
from videodit.families.parity import randomize
from videodit.pipelines.controls import PreparedControl
from videodit.pipelines.request import Inputs, Request

STEPS = 4
GRID = (5, 4, 4)  # of 17 frames of 32×32 pixels


@pytest.fixture
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def add(pipe: VideoDiTPipeline, name: str = "depth", **options: Any) -> ControlBranch:
    branch = ControlBranch.from_base(pipe.transformer, layers=(0, 1), control_channels=3, **options)
    pipe.add_control(name, randomize(branch))
    return branch


def control(seed: int = 0, grid: tuple[int, int, int] = GRID, **options: Any) -> PreparedControl:
    values = torch.randn(1, 3, *grid, generator=torch.Generator().manual_seed(seed))
    return PreparedControl(**{"branch": "depth", "input": values, **options})


def make(pipe: VideoDiTPipeline, *controls: PreparedControl, **options: Any) -> Tensor:
    """Latents of a clip from one seed."""
    request = Request(**{"prompt": "a red ball", "num_inference_steps": STEPS, "guidance_scale": 3.0} | options)
    inputs = Inputs(controls=controls, generator=torch.Generator().manual_seed(5))
    latents: Tensor = pipe.run(pipe.plan(request, inputs), output_type="latent").frames
    return latents


def tokens_seen(pipe: VideoDiTPipeline) -> set[int]:
    """A set that holds how many tokens the transformer's first block saw, whenever it has run."""
    seen = set[int]()
    pipe.transformer.blocks[0].register_forward_pre_hook(lambda _, args: seen.add(args[0].shape[1]))
    return seen


# ---- by name -------------------------------------------------------------------------------------


def test_branches_are_added_and_removed_by_name(pipe, tmp_path) -> None:
    branch = add(pipe)
    assert dict(pipe.controls) == {"depth": branch}
    branch.save_pretrained(tmp_path / "edges")
    pipe.add_control("edges", tmp_path / "edges")
    assert list(pipe.controls) == ["depth", "edges"]
    aligned(pipe.controls["edges"])
    same = [make(pipe, control(branch=name)) for name in ("depth", "edges")]
    assert torch.equal(*same)
    with pytest.raises(InputError, match="there is a control 'depth' already"):
        pipe.add_control("depth", branch)
    pipe.remove_control("depth")
    with pytest.raises(InputError, match="there is no control 'depth'; valid values are edges"):
        pipe.remove_control("depth")
    with pytest.raises(InputError, match="there is no control 'depth'"):
        make(pipe, control())


@pytest.mark.parametrize("name", ["", 3, "a.b", "a:b", "a=b", "a@b", "a/b", "a\n"])
def test_names_that_commands_could_not_say(pipe, name) -> None:
    with pytest.raises(InputError, match="a control's name is "):
        pipe.add_control(name, ControlBranch.from_base(pipe.transformer))


def test_what_is_no_branch_of_this_model(pipe) -> None:
    other = ControlBranch.from_base(pipe.transformer, base_hash="f" * 16)
    with pytest.raises(InputError, match=f"was made for the weights {'f' * 16}; this model has {pipe.model_hash}"):
        pipe.add_control("depth", other)
    pipe.add_control("depth", other, any_base=True)
    pipe.add_control("own", ControlBranch.from_base(pipe.transformer, base_hash=pipe.model_hash))
    with pytest.raises(InputError, match="a ControlBranch"):
        pipe.add_control("module", torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="branch_2 is for a second one"):
        pipe.add_control("two", other, other)


def test_a_changed_branch_is_told(pipe) -> None:
    branch = add(pipe)
    assert pipe.changed_controls == []
    with torch.no_grad():
        branch.before.weight.mul_(2)
    assert pipe.changed_controls == ["control depth: with changed weights"]


def test_a_branch_takes_the_dtype_of_its_model(pipe) -> None:
    branch = add(pipe)
    pipe.remove_control("depth")
    pipe.transformer.to(torch.bfloat16)
    pipe.add_control("depth", branch)
    assert branch.dtype == torch.bfloat16
    assert make(pipe, control()).isfinite().all()


def test_what_holds_no_branches_says_so(pipe, tmp_path) -> None:
    add(pipe)
    with pytest.raises(InputError, match="a model's folder holds no control branches, and depth is there"):
        pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="a pipeline of diffusers' holds no control branches"):
        pipe.to_diffusers()
    pipe.remove_control("depth")
    pipe.save_pretrained(tmp_path / "model")


def test_branches_come_before_offloading(pipe) -> None:
    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    with pytest.raises(InputError, match="control 'depth' comes after offloading; call add_control first"):
        add(pipe)


def test_another_pipeline_of_the_same_parts_has_the_controls(pipe) -> None:
    add(pipe)
    assert torch.equal(make(VideoDiTPipeline.from_pipe(pipe), control()), make(pipe, control()))


# ---- over steps ----------------------------------------------------------------------------------


def test_a_weight_of_0_and_a_new_branch_leave_the_frames_as_they_are(pipe) -> None:
    plain = make(pipe)
    add(pipe)
    pipe.add_control("new", ControlBranch.from_base(pipe.transformer, layers=(0, 1), control_channels=3))
    assert torch.equal(make(pipe, control(scale=0.0)), plain)
    assert torch.equal(make(pipe, control(scale=(0.0, 0.0))), plain)
    assert torch.equal(make(pipe, control(branch="new")), plain)
    assert not torch.allclose(make(pipe, control()), plain)


def test_start_and_end_are_shares_of_the_steps(pipe) -> None:
    """As diffusers' ControlNet pipelines count: a step is controlled that lies within them as a whole."""
    branch = add(pipe)
    ran: list[float] = []
    branch.register_forward_pre_hook(lambda module, args: ran.append(float(args[0].timestep[0])))
    cases = ((0, 1, [0, 1, 2, 3]), (0, 0.5, [0, 1]), (0.5, 1, [2, 3]), (0.3, 0.7, []), (0.25, 0.7, [1]))
    for start, end, steps in cases:
        ran.clear()
        make(pipe, control(start=start, end=end), guidance_scale=1.0)
        assert ran == [float(pipe.scheduler.timesteps[i]) for i in steps], (start, end)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.5, "end": 0.5}, "is in force from 0.5 to 0.5"),
        ({"end": 1.5}, "from 0.0 to 1.5"),
        ({"scale": float("nan")}, "the scale of a control is nan"),
        ({"scale": (1.0,)}, "a control has 1 scales, but its branch gives 2 hints"),
    ],
)
def test_controls_that_cannot_be(pipe, options, message) -> None:
    add(pipe)
    with pytest.raises(InputError, match=message):
        make(pipe, control(**options))


# ---- with everything else ------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["hidden", "trunk"])
def test_several_with_guidance_in_turn_and_batched(pipe, start, deviation) -> None:
    add(pipe, start=start)
    add(pipe, "edges", start=start)
    controls = [control(scale=0.5, end=0.5), control(1, branch="edges", scale=(0.2, 0.7))]
    found = []
    for batched in (False, True):
        pipe.batch_guidance = batched
        found.append(make(pipe, *controls, num_videos_per_prompt=2))
    assert deviation(*found) <= 1e-5
    assert not torch.allclose(found[0], make(pipe, controls[0], num_videos_per_prompt=2))


def test_a_control_for_each_clip(pipe, deviation) -> None:
    add(pipe)
    one, other = control(0), control(1)
    both = control(input=torch.cat([one.input, other.input]))
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    request = Request(prompt="a red ball", num_inference_steps=STEPS, guidance_scale=3.0, num_videos_per_prompt=2)
    plan = pipe.plan(request, Inputs(controls=(both,), generator=generators))
    found = pipe.run(plan, output_type="latent").frames
    assert deviation(found, torch.cat([make(pipe, one), make(pipe, other)])) <= 1e-5


def test_windows_see_their_part_of_a_control(pipe) -> None:
    branch = add(pipe)
    seen: list[Tensor] = []
    branch.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    long = control(grid=(9, 4, 4))
    make(pipe, long, num_frames=33, window=17, overlap=8, guidance_scale=1.0)
    windows = [window.span for window in pipe.plan(Request(prompt="x", num_frames=33, window=17, overlap=8)).spans]
    assert len(windows) > 1
    expected = [long.input[:, :, span] for span in windows for _ in range(STEPS)]
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_a_loop_turns_its_control_with_its_frames(pipe) -> None:
    branch = add(pipe)
    seen: list[tuple[list[float], list[float]]] = []

    def note(module: object, args: Any) -> None:
        seen.append((args[0].latents[0, 0, :, 0, 0].tolist(), args[2][0, 0, :, 0, 0].tolist()))

    branch.register_forward_pre_hook(note)
    request = Request(prompt="x", loop=True, num_inference_steps=3, guidance_scale=1.0)
    numbered = torch.arange(float(pipe.plan(request).latent_shape[1]))[None, None, :, None, None]
    controls = (control(input=numbered.expand(1, 3, -1, 4, 4)),)
    inputs = Inputs(controls=controls, latents=numbered.expand(1, 4, -1, 4, 4))
    pipe.run(pipe.plan(request, inputs), output_type="latent")
    latents, first = seen[0]  # which no step has changed yet
    assert first == latents
    assert all(turn[0] == turn[-1] for _, turn in seen)
    assert len({tuple(turn) for _, turn in seen}) > 1


def test_scenes_see_their_part_of_a_control(pipe) -> None:
    branch = add(pipe)
    seen: list[list[float]] = []
    branch.register_forward_pre_hook(lambda module, args: seen.append(args[2][0, 0, :, 0, 0].tolist()))
    numbered = torch.arange(5.0)[None, None, :, None, None].expand(1, 3, -1, 4, 4)
    board = Storyboard([(0.0, "a red ball"), (0.5, "a blue cube")], handover=0.1)
    make(pipe, control(input=numbered), prompt=board, guidance_scale=1.0)
    assert {tuple(part) for part in seen} != {(0.0, 1.0, 2.0, 3.0, 4.0)}
    assert all(part == sorted(part) for part in seen)


@pytest.mark.parametrize("start", ["hidden", "trunk"])
def test_accelerations_take_the_branches(pipe, start, deviation) -> None:
    branch = add(pipe, start=start)
    expected = make(pipe, control())
    pipe.accelerate(AccelConfig(attention="native", guidance="batched"))
    backends = {str(one._attention_backend) for one in branch.attn_processors.values()}
    assert len(backends) == 1
    assert "native" in backends.pop().lower()
    assert deviation(make(pipe, control()), expected) <= 1e-5
    pipe.step_actions = "FCRF"
    left_out = make(pipe, control())
    assert left_out.isfinite().all()
    assert not torch.allclose(left_out, expected)


def test_a_cache_does_not_outlast_the_end_of_a_control(pipe, deviation) -> None:
    """A control without a hint for the first block: the cache could not see that it is gone."""
    from diffusers import FirstBlockCacheConfig

    branch = ControlBranch.from_base(pipe.transformer, layers=(1,), control_channels=3)
    pipe.add_control("depth", randomize(branch))
    computed: list[int] = []
    pipe.transformer.blocks[1].ffn.register_forward_hook(lambda *_: computed.append(1))
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    make(pipe, control(), guidance_scale=1.0)
    assert len(computed) == 1
    computed.clear()
    make(pipe, control(end=0.5), guidance_scale=1.0)
    assert len(computed) == 2


def test_a_clip_of_tensors_has_no_seed(pipe) -> None:
    add(pipe)
    request = Request(prompt="a red ball", num_inference_steps=1, seed=3)
    output = pipe.run(pipe.plan(request, Inputs(controls=(control(),))), output_type="latent")
    assert output.recipes[0]["seed"] is None
    plan = pipe.plan(Request(prompt="x", num_frames=33, window=17, keep_windows="kept"), Inputs(controls=(control(),)))
    with pytest.raises(InputError, match="windows cannot be kept of clips whose controls are tensors"):
        pipe.check_plan(plan)


def test_each_of_two_experts_has_a_branch_of_its_own(folder) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder("wan-two-experts"))
    pipe.set_progress_bar_config(disable=True)
    high, low = (
        randomize(ControlBranch.from_base(model, layers=(0,), control_channels=3))
        for model in (pipe.transformer, pipe.transformer_2)
    )
    pipe.add_control("depth", high, low)
    ran: list[tuple[str, float]] = []
    for name, branch in (("high", high), ("low", low)):
        branch.register_forward_pre_hook(lambda module, args, name=name: ran.append((name, float(args[0].timestep[0]))))
    small = {"num_frames": 9, "height": 32, "width": 48, "guidance_scale": 1.0, "guidance_scale_2": 1.0}
    make(pipe, control(grid=(3, 4, 6)), **small)
    boundary = pipe.config.boundary_ratio * 1000
    assert ran == [("high" if t >= boundary else "low", t) for t in pipe.scheduler.timesteps.tolist()]
    assert {name for name, _ in ran} == {"high", "low"}
    pipe.remove_control("depth")
    pipe.add_control("depth", high)
    ran.clear()
    make(pipe, control(grid=(3, 4, 6)), **small)
    assert {name for name, _ in ran} == {"high"}
    pipe.remove_control("depth")
    pipe.hold_branch("depth", low, second=True)  # as its training has it
    assert pipe.controls["depth"] is low
    ran.clear()
    make(pipe, control(grid=(3, 4, 6)), **small)
    assert ran == [("low", t) for t in pipe.scheduler.timesteps.tolist() if t < boundary]


# ---- reference frames ----------------------------------------------------------------------------


def test_frames_in_front_are_made_and_cut_off(pipe) -> None:
    branch = add(pipe)
    seen: list[tuple[int, ...]] = []
    branch.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].latents.shape)))
    tokens = tokens_seen(pipe)
    latents = make(pipe, control(grid=(7, 4, 4), front=2), guidance_scale=1.0)
    assert latents.shape == (1, 4, *GRID)
    assert set(seen) == {(1, 4, 7, 4, 4)}
    assert tokens == {pipe.plan(Request(prompt="x"), Inputs(controls=(control(front=2),))).estimate["tokens"]}
    with pytest.raises(InputError, match="have 0 and 2 reference frames in front"):
        make(pipe, control(grid=(7, 4, 4), front=2), control())
    with pytest.raises(InputError, match="reference frames in front of a clip and a loop exclude each other"):
        make(pipe, control(grid=(7, 4, 4), front=2), loop=True)


# ---- VACE ----------------------------------------------------------------------------------------


def vace_pipelines(folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, VideoDiTPipeline]:
    """diffusers' WanVACEPipeline with tiny random weights, and ours of the same folder."""
    import diffusers.pipelines.wan.pipeline_wan_vace as module
    from diffusers import DiffusionPipeline, WanVACEPipeline, WanVACETransformer3DModel

    # Its clean-up of prompts, of a library that is not here, leaves ASCII as it is.
    monkeypatch.setattr(module, "ftfy", SimpleNamespace(fix_text=lambda text: text), raising=False)
    base = DiffusionPipeline.from_pretrained(folder("wan"))
    channels = base.vae.config.z_dim
    config = {**base.transformer.config, "vace_layers": [0, 1], "vace_in_channels": 2 * channels + 64}
    parts = {name: part for name, part in base.components.items() if not name.startswith("transformer")}
    network = randomize(WanVACETransformer3DModel.from_config(config).eval())
    theirs = WanVACEPipeline(**parts, transformer=network)
    theirs.save_pretrained(tmp_path / "vace")
    theirs.set_progress_bar_config(disable=True)
    pipe = VideoDiTPipeline.from_pretrained(tmp_path / "vace")
    pipe.set_progress_bar_config(disable=True)
    pipe.add_control("vace", tmp_path / "vace" / "transformer")
    return theirs, pipe


@pytest.mark.parametrize("references", [0, 2])
def test_vace_makes_the_frames_of_diffusers(folder, references, tmp_path, monkeypatch) -> None:
    """The whole pipeline: what stays, what is made, its mask, and reference frames in front."""
    from videodit.pipelines.vace import vace_input

    theirs, pipe = vace_pipelines(folder, tmp_path, monkeypatch)
    rng = np.random.default_rng(0)
    video = [PIL.Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)) for _ in range(9)]
    masks = [PIL.Image.fromarray(np.uint8(255) * (rng.random((32, 48)) > 0.5).astype(np.uint8)) for _ in range(9)]
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (40, 24, 3), dtype=np.uint8)) for _ in range(references)]
    expected = theirs(
        video=video, mask=masks, reference_images=pictures or None, conditioning_scale=0.8, prompt="a red ball",
        negative_prompt="x", height=32, width=48, num_frames=9, num_inference_steps=3, guidance_scale=4.0,
        generator=torch.Generator().manual_seed(2), output_type="pt",
    ).frames  # fmt: skip
    clip = torch.from_numpy(np.stack([np.asarray(one) for one in video])).permute(3, 0, 1, 2)[None] / 127.5 - 1
    made = torch.from_numpy(np.stack([np.asarray(one) for one in masks])).float() / 255
    fronts = [torch.from_numpy(np.asarray(one).copy()).permute(2, 0, 1) / 127.5 - 1 for one in pictures]
    values = vace_input(pipe, clip.float(), made, fronts)
    given = PreparedControl("vace", values, scale=0.8, front=references)
    request = Request(
        prompt="a red ball", negative_prompt="x", height=32, width=48, num_frames=9, num_inference_steps=3,
        guidance_scale=4.0,
    )  # fmt: skip
    inputs = Inputs(controls=(given,), generator=torch.Generator().manual_seed(2))
    found = pipe.run(pipe.plan(request, inputs), output_type="pt").frames
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1 / 255
    shaped = pipe(
        request.prompt, negative_prompt="x", height=32, width=48, num_frames=9, num_inference_steps=3,
        guidance_scale=4.0, generator=torch.Generator().manual_seed(2), output_type="pt", references=pictures,
        control={"vace": Control(np.stack(video), kind="clip", mask=masks, weight=0.8)},
    ).frames  # fmt: skip
    assert float((shaped - expected).abs().max()) <= 1 / 255


def test_vaces_references_alone_are_frames_in_front_of_grey(folder, tmp_path, monkeypatch) -> None:
    """Without a control, beside diffusers' pipeline without a clip."""
    theirs, pipe = vace_pipelines(folder, tmp_path, monkeypatch)
    pictures = [PIL.Image.new("RGB", (24, 40), (200, 30, 30)), PIL.Image.new("RGB", (48, 32), (0, 90, 10))]
    call = {
        "prompt": "a red ball", "negative_prompt": "x", "height": 32, "width": 48, "num_frames": 9,
        "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "pt",
    }  # fmt: skip
    expected = theirs(**call, reference_images=pictures, generator=torch.Generator().manual_seed(2)).frames
    seen = tokens_seen(pipe)
    found = pipe(**call, references=pictures, generator=torch.Generator().manual_seed(2)).frames
    assert float((found - expected).abs().max()) <= 1 / 255
    assert seen == {pipe.check_inputs(**call, references=pictures).estimate["tokens"]} == {(2 + 3) * 2 * 3}
    still = np.zeros((9, 32, 48, 3), np.uint8)
    for options, what in (
        ({"loop": True}, "a loop"),
        ({"conditions": [Edit(still)]}, "images, frames or an edit"),
        ({"latents": torch.zeros(1, 4, 3, 4, 6)}, "latents"),
    ):
        with pytest.raises(InputError, match=f"references of the layout 'front' and {what} exclude each other"):
            pipe(**call, references=pictures, **options)
    pipe.add_control("other", ControlBranch.from_base(pipe.transformer, layers=(0,), kinds=("edges",)))
    edges = {"other": Control(still, kind="edges")}
    with pytest.raises(InputError, match="and control for another branch than 'vace' exclude each other"):
        pipe(**call, references=pictures, control=edges)


@pytest.mark.parametrize("anchor", [False, True])
def test_windows_of_a_long_clip_see_their_own_part_of_a_control(
    anchor: bool, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is white from one frame on is white in each window from the latent frame of that frame on."""
    from videodit.pipelines import controls as controlling

    pipe = VideoDiTPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    branch = ControlBranch.from_base(pipe.transformer, layers=[0], kinds=("grey",), encoder="unshuffle")
    pipe.add_control("grey", branch)
    frames = np.zeros((49, 32, 32, 3), np.uint8)
    frames[25:] = 255  # the first frame is a latent of its own, and then each four: the seventh holds frames 25 to 28
    options = {"num_frames": 49, "num_inference_steps": 1, "guidance_scale": 1, "window": 17, "overlap": 8}
    options["anchor"] = anchor
    plan = pipe.plan(Request(prompt="a red ball", seed=1, **options), Inputs(control={"grey": frames}))
    spans = [window.span for window in plan.spans]
    assert len(spans) > 2
    white = branch.encode(torch.ones(1, 3, 17, 32, 32))[:, :, 2]
    seen: list[Tensor] = []
    make_hint = controlling.ControlHint

    def noted(branch: ControlBranch, control: Tensor, *rest: Any) -> Any:
        seen.append(control)
        return make_hint(branch, control, *rest)

    monkeypatch.setattr(controlling, "ControlHint", noted)
    pipe.run(plan, output_type="latent")
    told = [[torch.allclose(one[:, :, at], white, atol=1e-5) for at in range(one.shape[2])] for one in seen]
    frames = [[*range(span.start, span.stop)] for span in spans]
    if anchor:
        frames = [[0, *row[1:]] for row in frames]
    assert told == [[at >= 7 for at in row] for row in frames]
