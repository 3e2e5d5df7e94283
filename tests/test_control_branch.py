"""Control branches: hints beside a model of any family, weights in and out, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor

from videodit import VideoDiT
from videodit.acceleration.bind import stream_blocks
from videodit.acceleration.quantize import quantize_blocks
from videodit.control.branch import ControlBranch
from videodit.control.hints import ControlHint
from videodit.control.layouts import read_branch_config
from videodit.errors import InputError, ModelError
from videodit.families.parity import FIRST_OF_FAMILY, MEMBERS, randomize
from videodit.transformer import Prepared

FAMILIES = sorted(FIRST_OF_FAMILY.values())
KINDS = {"hidden": {}, "trunk": {"start": "trunk"}, "concat": {"start": "trunk", "join": "concat"}}


def model(name: str = "wan") -> tuple[VideoDiT, dict[str, Any], tuple[int, int, int]]:
    """A tiny model of a family, its inputs, and the size of their latents."""
    member = MEMBERS[name]
    dit = randomize(member.ours(member.theirs()))
    size = member.sizes[0] if len(member.sizes) < 2 or name == "latte" else member.sizes[1]
    return dit, dict(member.draw(dit, size)), size


def branch_of(dit: VideoDiT, **options: Any) -> ControlBranch:
    """A branch that was trained."""
    options = {"layers": range(len(dit.blocks)), "control_channels": 5} | options
    return randomize(ControlBranch.from_base(dit, **options))


@torch.no_grad()
def predict(dit: VideoDiT, x: dict[str, Any], *controls: ControlHint, **options: Any) -> Tensor:
    sample: Tensor = dit(**x, control=controls, **options).sample
    return sample


# ---- the mechanism -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_new_branch_changes_nothing_and_a_trained_one_does(name, kind) -> None:
    dit, x, size = model(name)
    plain = predict(dit, x)
    branch = ControlBranch.from_base(dit, layers=(0, len(dit.blocks) - 1), control_channels=5, **KINDS[kind])
    hint = ControlHint(branch, torch.randn(1, 5, *size))
    assert torch.equal(predict(dit, x, hint), plain)
    randomize(branch)
    assert not torch.allclose(predict(dit, x, hint), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_new_branch_learns(name, kind) -> None:
    """Gradients reach its ends at once, and after a step what lies before them, through a frozen base."""
    dit, x, size = model(name)
    dit.requires_grad_(False)
    dit.enable_gradient_checkpointing()
    branch = ControlBranch.from_base(dit, layers=(0,), control_channels=5, **KINDS[kind]).train()
    control = torch.randn(1, 5, *size)
    for checkpointing in (False, True):
        if checkpointing:
            branch.enable_gradient_checkpointing()
        dit(**x, control=[ControlHint(branch, control)]).sample.square().mean().backward()
        assert branch.after[0].weight.grad.abs().sum() > 0
        with torch.no_grad():
            branch.after[0].weight.add_(branch.after[0].weight.grad)
        if checkpointing:
            entry = branch.before if kind == "hidden" else branch.patch or branch.trunk.patch_embed
            assert entry.weight.grad.abs().sum() > 0
        branch.zero_grad()
    assert all(parameter.grad is None for parameter in dit.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_0_does_not_run_the_branch(kind) -> None:
    dit, x, size = model()
    branch = branch_of(dit, **KINDS[kind])
    ran: list[int] = []
    branch.register_forward_pre_hook(lambda *_: ran.append(1))
    control = torch.randn(1, 5, *size)
    plain = predict(dit, x)
    for scale in (0, 0.0, [0.0, 0.0]):
        assert torch.equal(predict(dit, x, ControlHint(branch, control, scale)), plain)
    assert ran == []
    predict(dit, x, ControlHint(branch, control, [0.0, 0.1]))
    assert ran == [1]


def test_hints_are_added_after_their_blocks_times_their_scales(deviation) -> None:
    """By hooks on the blocks, which is another way to the same."""
    _, x, size = model()
    dit = randomize(VideoDiT(**{**MEMBERS["wan"].options, "num_layers": 4}))
    one, other = branch_of(dit, layers=(0, 2)), branch_of(dit, layers=(2,), start="trunk")
    controls = [torch.randn(2, 5, *size), torch.randn(1, 5, *size)]
    seen: dict[str, list[Tensor]] = {}
    one.register_forward_hook(lambda module, args, out: seen.__setitem__("one", out))
    other.register_forward_hook(lambda module, args, out: seen.__setitem__("other", out))
    hints = [ControlHint(one, controls[0], [0.5, 2.0]), ControlHint(other, controls[1], -1.5)]
    found = predict(dit, x, *hints)
    added = {0: 0.5 * seen["one"][0], 2: 2.0 * seen["one"][1] - 1.5 * seen["other"][0]}
    handles = [
        dit.blocks[i].register_forward_hook(lambda module, args, out, i=i: (out[0] + added[i], out[1])) for i in added
    ]
    expected = predict(dit, x)
    for handle in handles:
        handle.remove()
    assert deviation(found, expected) <= 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_a_control_acts_on_the_video_alone_and_a_weaker_one_less(name) -> None:
    dit, x, size = model(name)
    branch, control = branch_of(dit, layers=(len(dit.blocks) - 1,)), torch.randn(1, 5, *size)
    plain = predict(dit, x)
    by = [(predict(dit, x, ControlHint(branch, control, scale)) - plain).abs().mean() for scale in (0.05, 0.2, 1.0)]
    assert 0 < by[0] < by[1] < by[2]


def test_text_that_is_kept_over_steps_is_that_of_the_branch(deviation) -> None:
    for name in ("wan", "latte", "hunyuan_video"):
        for kind in KINDS:
            dit, x, size = model(name)
            hint = ControlHint(branch_of(dit, **KINDS[kind]), torch.randn(1, 5, *size))
            prepared = Prepared()
            first = predict(dit, x, hint, prepared=prepared)
            other = x | {"timestep": torch.tensor([44.0, 321.0])}
            assert torch.equal(first, predict(dit, x, hint))
            assert deviation(predict(dit, other, hint, prepared=prepared), predict(dit, other, hint)) <= 1e-6


def test_kinds_are_told_apart() -> None:
    for kind in KINDS:
        dit, x, size = model()
        branch, control = branch_of(dit, kinds=("depth", "edges"), **KINDS[kind]), torch.randn(1, 5, *size)
        depth, edges = (predict(dit, x, ControlHint(branch, control, 1.0, name)) for name in ("depth", "edges"))
        assert not torch.allclose(depth, edges)
        with pytest.raises(InputError, match="kind must be one of depth, edges, got None"):
            predict(dit, x, ControlHint(branch, control))


# ---- what a model may have beside it -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_first_block_cache_has_the_hints(name, kind, deviation) -> None:
    """What it keeps of the blocks after the first holds their hints: added outside of them, they would be lost."""
    dit, x, size = model(name)
    hint = ControlHint(branch_of(dit, **KINDS[kind]), torch.randn(1, 5, *size))
    steps = [x, x | {"timestep": x["timestep"] - 2}]
    plain = [predict(dit, one, hint) for one in steps]
    dit.enable_cache(FirstBlockCacheConfig(threshold=1e-9))  # everything is computed
    with dit.cache_context("cond"):
        computed = [predict(dit, one, hint) for one in steps]
    dit._reset_stateful_cache()
    dit.disable_cache()
    dit.enable_cache(FirstBlockCacheConfig(threshold=1e9))  # the second step is left out
    with dit.cache_context("cond"):
        first = predict(dit, x, hint)
        again = predict(dit, x, hint)
    assert all(deviation(found, one) <= 1e-6 for found, one in zip(computed, plain, strict=True))
    assert deviation(first, plain[0]) <= 1e-6
    assert deviation(again, plain[0]) <= 2e-6  # of the same inputs it is the same


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_blocks(kind, deviation) -> None:
    dit, x, size = model()
    branch, control = branch_of(dit, **KINDS[kind]), torch.randn(1, 5, *size)
    expected = [predict(dit, x), predict(dit, x, ControlHint(branch, control))]
    for one in (dit, branch):
        one.compile_repeated_blocks(fullgraph=True, dynamic=True)
    found = [predict(dit, x), predict(dit, x, ControlHint(branch, control))]
    assert all(deviation(a, b) <= 1e-5 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_blocks(kind) -> None:
    dit, x, size = model()
    branch = branch_of(dit, **KINDS[kind])
    hint = ControlHint(branch, torch.randn(1, 5, *size))
    expected = predict(dit, x, hint)
    for one in (dit, branch):
        stream_blocks(one, torch.device("cpu"))
    assert torch.equal(predict(dit, x, hint, prepared=Prepared()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_blocks(kind) -> None:
    pytest.importorskip("torchao")
    dit, x, size = model()
    branch = branch_of(dit, **KINDS[kind])
    hint = ControlHint(branch, torch.randn(1, 5, *size))
    expected = predict(dit, x, hint)
    told = [quantize_blocks(one, "int8-weights") for one in (dit, branch)]
    assert told[0] == told[1] == f"int8-weights in {told[0].split()[2]} linear layers of the blocks"
    found = predict(dit, x, hint)
    assert not torch.equal(found, expected)
    assert (found - expected).abs().mean() <= 0.05 * expected.abs().mean()


def test_half_precision_is_that_of_the_base() -> None:
    for kind in KINDS:
        dit, x, size = model()
        dit = dit.to(torch.bfloat16)
        x = {key: value.bfloat16() if key != "timestep" else value for key, value in x.items()}
        branch = ControlBranch.from_base(dit, layers=(0,), control_channels=5, **KINDS[kind])
        assert branch.dtype == torch.bfloat16
        assert torch.equal(predict(dit, x, ControlHint(branch, torch.randn(1, 5, *size))), predict(dit, x))


# ---- pixels --------------------------------------------------------------------------------------


def test_pixels_become_a_control() -> None:
    dit, _, size = model()
    t, h, w = size
    branch = branch_of(dit, encoder="unshuffle", pixel_channels=1, control_channels=7)
    assert branch.takes_pixels
    pixels = torch.rand(2, 1, 4 * (t - 1) + 1, 8 * h, 8 * w)
    control = branch.encode(pixels)
    assert control.shape == (2, 7, *size)
    # The first latent is of the first frame alone, the next of the next four.
    other = pixels.clone()
    other[:, :, 1:5] += 1
    changed = (branch.encode(other) - control).abs().amax(dim=(0, 1, 3, 4))
    assert changed[0] == 0
    assert changed[1] > 0
    assert (changed[2:] == 0).all()
    with pytest.raises(InputError, match=r"a control must be \[B, 1, frames, H, W\]"):
        branch.encode(torch.rand(1, 3, 9, 32, 48))
    with pytest.raises(InputError, match="a control of 8 frames of 36×48 pixels cannot be encoded"):
        branch.encode(torch.rand(1, 1, 8, 36, 48))
    with pytest.raises(InputError, match="this branch has no encoder"):
        branch_of(dit).encode(pixels)


# ---- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_branch_is_saved_and_loaded(name, kind, tmp_path) -> None:
    dit, x, size = model(name)
    branch = branch_of(dit, kinds=("depth",), base_hash="0123456789abcdef", **KINDS[kind])
    branch.save_pretrained(tmp_path / "depth")
    loaded = ControlBranch.from_pretrained(tmp_path / "depth", base=dit)
    control = torch.randn(1, 5, *size)
    assert torch.equal(predict(dit, x, ControlHint(loaded, control)), predict(dit, x, ControlHint(branch, control)))
    assert len(loaded.fingerprint) == 16
    assert branch.fingerprint is None
    config = read_branch_config(tmp_path / "depth")
    assert (config.kinds, config.control_channels, len(config.layers)) == (["depth"], 5, len(dit.blocks))


def test_a_branch_of_another_base_is_refused_before_its_weights_are_read(tmp_path) -> None:
    dit, *_ = model()
    folder = tmp_path / "depth"
    branch_of(dit, base_hash="0123456789abcdef").save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"nothing that could be read")
    ltx, *_ = model("ltx")
    wide = VideoDiT(**{**MEMBERS["wan"].options, "num_attention_heads": 4})
    deep = VideoDiT(**{**MEMBERS["wan"].options, "num_layers": 3})
    cases: list[tuple[VideoDiT, str | None, str]] = [
        (ltx, None, "was made for a model of family wan; this model has a model of family ltx"),
        (wide, None, "was made for a width of 32; this model has a width of 64"),
        (deep, None, "was made for 2 blocks; this model has 3 blocks"),
        (dit, "f" * 16, f"was made for the weights 0123456789abcdef; this model has {'f' * 16}"),
    ]
    for base, base_hash, message in cases:
        with pytest.raises(InputError, match=message):
            ControlBranch.from_pretrained(folder, base=base, base_hash=base_hash)
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        ControlBranch.from_pretrained(folder, base=dit, base_hash="f" * 16, any_base=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "middle"}, "start must be one of"),
        ({"encoder": "vae"}, "encoder is 'vae'; it must be"),
        ({"layers": []}, "layers is \\[\\], a list of 0 items"),
        ({"layers": [[], []]}, "no hint has a block that it is added after"),
        ({"layers": [[0], [9]]}, "layers is \\[\\[0\\], \\[9\\]\\]; its base has blocks 0 to 1"),
        ({"base": "wan"}, "base is 'wan'"),
        ({"control_channels": 0}, "control_channels must be at least 1"),
        ({"kind_embedding": "video"}, "kind_embedding='video' needs kinds"),
        ({"join": "concat"}, "join='concat' needs start='trunk'"),
        ({"_class_name": "VideoDiT"}, "class"),
        ({"network": "wan"}, "network"),
    ],
)
def test_damaged_configs_are_named(change, message, tmp_path) -> None:
    dit, *_ = model()
    branch_of(dit).save_pretrained(tmp_path / "depth")
    path = tmp_path / "depth" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        ControlBranch.from_pretrained(tmp_path / "depth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ()}, "layers is \\[\\]"),
        ({"layers": (1, 0)}, "layers is \\[1, 0\\]; it must hold some of the numbers from 0 to 1"),
        ({"layers": (0, 2)}, "numbers from 0 to 1"),
        ({"layers": (0, 0)}, "each once and in order"),
    ],
)
def test_layers_that_a_base_has_not(options, message) -> None:
    dit, *_ = model()
    with pytest.raises(InputError, match=message):
        ControlBranch.from_base(dit, **options)


def test_controls_of_a_wrong_shape_or_scale_are_named() -> None:
    dit, x, size = model()
    branch = branch_of(dit)
    t, h, w = size
    for shape in ((1, 4, t, h, w), (3, 5, t, h, w), (1, 5, t + 1, h, w), (1, 5, h, w)):
        with pytest.raises(InputError, match="a control of this branch must be "):
            predict(dit, x, ControlHint(branch, torch.zeros(shape)))
    for scale in (float("nan"), True, "1", [1.0], [1.0, float("inf")]):
        with pytest.raises(InputError, match="scale"):
            ControlHint(branch, torch.zeros(1, 5, *size), scale)  # type: ignore[arg-type]


def test_a_trunk_predicts_nothing_by_itself() -> None:
    dit, x, _ = model()
    trunk = branch_of(dit, start="trunk").trunk
    with pytest.raises(InputError, match="final_layer=None and predicts nothing"):
        trunk(**x)
