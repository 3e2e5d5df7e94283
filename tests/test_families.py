"""The published families: the same function as diffusers' classes, weights that go both ways, and what is refused."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from videodit import VideoDiT
from videodit.blocks import BLOCKS, CrossBlock
from videodit.errors import ModelError
from videodit.families import FAMILIES
from videodit.families.base import PREFIXES, to_foreign, to_native
from videodit.families.loading import convert_transformer
from videodit.families.parity import FIRST_OF_FAMILY, MEMBERS, Member, deviation, randomize
from videodit.options import CHOICES
from videodit.rotary import ROTARY

every_member = pytest.mark.parametrize("name", MEMBERS)
WEIGHTS = "diffusion_pytorch_model.safetensors"

every_family = pytest.mark.parametrize("name", FIRST_OF_FAMILY.values())


@pytest.fixture(scope="module")
def pairs() -> Callable[[str], tuple[Member, Any, VideoDiT]]:
    """A tiny member, diffusers' network with every parameter redrawn, and ours with the same weights."""
    made: dict[str, tuple[Member, Any, VideoDiT]] = {}

    def pair(name: str) -> tuple[Member, Any, VideoDiT]:
        if name not in made:
            torch.manual_seed(0)
            theirs = randomize(MEMBERS[name].theirs())
            made[name] = MEMBERS[name], theirs, MEMBERS[name].ours(theirs)
        return made[name]

    return pair


Pairs = Callable[[str], tuple[Member, Any, VideoDiT]]


def distance(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())


# --- the same function ---------------------------------------------------------------------------


@every_member
def test_equals_diffusers(name: str) -> None:
    assert deviation(MEMBERS[name]) <= 2e-5


@torch.no_grad()
@every_member
def test_in_bf16_it_is_as_near_to_fp32_as_diffusers(name: str, pairs: Pairs) -> None:
    """Over several draws, since one is a matter of luck."""
    member, theirs, ours = pairs(name)
    inputs = [member.draw(ours, size) for size in member.sizes for _ in range(4)]
    exact = [member.call(theirs, x) for x in inputs]
    theirs, ours = copy.deepcopy(theirs), copy.deepcopy(ours)
    errors = []
    for network, call in ((theirs, lambda x: member.call(theirs, x)), (ours, lambda x: ours(**x).sample)):
        wide = tuple(type(network)._keep_in_fp32_modules or ())
        for key, parameter in network.named_parameters():
            if not any(part in wide for part in key.split(".")):
                parameter.data = parameter.data.bfloat16()
        low = [call(in_bf16(x)) for x in inputs]
        errors.append(sum((a.float() - b).square().mean().item() for a, b in zip(low, exact, strict=True)) ** 0.5)
    assert errors[1] <= 1.1 * errors[0]


def in_bf16(inputs: dict[str, Any]) -> dict[str, Any]:
    narrow = ("hidden_states", "encoder_hidden_states", "pooled_projections", "encoder_hidden_states_image")
    return {key: value.bfloat16() if key in narrow else value for key, value in inputs.items()}


@every_family
def test_gradients_are_diffusers(name: str, pairs: Pairs) -> None:
    member, theirs, ours = pairs(name)
    inputs = member.draw(ours, member.sizes[min(1, len(member.sizes) - 1)])  # more frames than one, but for images
    weight = torch.randn_like(ours(**inputs).sample)
    for network, output in ((theirs, member.call(theirs, inputs)), (ours, ours(**inputs).sample)):
        network.zero_grad()
        (output * weight).sum().backward()
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in theirs.named_parameters()}
    family = FAMILIES[member.family]
    groups = family.plan([key for key, _ in ours.named_parameters()], ours.config)
    mapped = dict(to_native(groups, gradients.__getitem__, ours.config))
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for key, parameter in ours.named_parameters():
        expected = mapped[key]
        # What is zero but for rounding, such as a bias of keys, is measured against the largest gradient.
        scale = max(float(expected.abs().max()), 1e-3 * largest)
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert float((found - expected).abs().max()) <= 1e-4 * scale, key


# Another value of an option that no table lists, where the option of that family is on.
FLIPS: dict[str, Any] = {
    "size_condition_stride": {8: 4},
    "cross_attn_norm": {True: False, False: True},
    "norm_affine": {True: False},
    "final_layer_norm": {True: False},
    "guidance_embeds": {True: False},
    "frame_embedding": {True: False},
}

# Numbers that every published model of a family has and no other family.
NUMBERS: dict[str, Any] = {
    "rope_theta": 50.0,
    "position_scale": (0.5, 0.25, 0.3),
    "position_base": (7.0, 3.0),
    "rope_axes": {16: (8, 4, 4), 12: (6, 4, 2)},
    "rope_lag": 0.0,
}
CROSS_ALONE = ("attention", "cross_attn_norm", "frame_embedding")
DEFAULTS = {p.name: p.default for p in inspect.signature(VideoDiT.__init__).parameters.values() if p.name != "self"}


def options_of(member: Member) -> dict[str, Any]:
    return DEFAULTS | member.options


def other_choice(name: str, value: Any) -> Any:
    """The next value in the table of a choice that is on."""
    values = [one for one in CHOICES[name] if one is not None or name != "final_layer"]  # which predicts nothing
    return values[(values.index(value) + 1) % len(values)]


def flips() -> list[Any]:
    cases = []
    for name, member in MEMBERS.items():
        if "causal" in member.inputs:  # what blocks of another kind refuse
            continue
        options = options_of(member)
        changes = {key: other_choice(key, options[key]) for key in CHOICES}
        changes |= {key: values[options[key]] for key, values in FLIPS.items() if options[key] in values}
        rotary = ROTARY[options["rope"]]
        for key, value in NUMBERS.items():
            turned_by = key == "rope_theta" and rotary and "theta" in inspect.signature(rotary.__init__).parameters
            if options[key] != DEFAULTS[key] or turned_by:
                changes[key] = value[options["attention_head_dim"]] if isinstance(value, dict) else value
        if BLOCKS[options["block"]] is not CrossBlock:
            changes = {key: value for key, value in changes.items() if key not in CROSS_ALONE}
        cases += [pytest.param(name, key, value, id=f"{name}-{key}") for key, value in changes.items()]
        own = options["block_options"] or {}
        for key, value in own.items():
            other = not value if isinstance(value, bool) else 2 * value
            cases.append(pytest.param(name, "block_options", own | {key: other}, id=f"{name}-{key}"))
    return cases


@torch.no_grad()
@pytest.mark.parametrize(("name", "key", "value"), flips())
def test_each_option_is_needed(name: str, key: str, value: Any, pairs: Pairs) -> None:
    """With another value the network is another function, or none: parity says that the option is right."""
    member, theirs, ours = pairs(name)
    changes = {key: value} | {
        "position_embedding": {"learned_grid": None} if ours.config.learned_grid else {},
        "attention": {"frame_embedding": False},
    }.get(key, {})
    inputs = [member.draw(ours, size) for size in member.sizes]
    try:
        other = VideoDiT(**settings(ours) | changes).eval()
        other.load_state_dict({k: v for k, v in ours.state_dict().items() if fits(other, k, v)}, strict=False)
        found = [distance(other(**x).sample, member.call(theirs, x)) for x in inputs]
    except ValueError as error:
        if not re.search(r"this model takes no| needs? |block_options|rope_axes must be", str(error)):
            raise
    else:
        assert max(found) > 1e-3


def settings(dit: Any) -> dict[str, Any]:
    return {key: value for key, value in dit.config.items() if not key.startswith("_")}


def fits(dit: VideoDiT, name: str, value: Tensor) -> bool:
    place = dit.state_dict().get(name)
    return place is not None and place.shape == value.shape


EPSILONS = [
    pytest.param(name, key, id=f"{name}-{key}")
    for name in FIRST_OF_FAMILY.values()
    for key in ("eps", "qk_norm_eps")
    if key == "eps" or FAMILIES[MEMBERS[name].family].native_config(MEMBERS[name].config).get("qk_norm", "wan")
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "key"), EPSILONS)
def test_each_epsilon_is_the_familys(name: str, key: str, pairs: Pairs) -> None:
    """On tokens and queries so small that epsilons matter, another one shows."""
    member, theirs, ours = pairs(name)
    small = [
        value * 1e-3 if key.startswith("patch_embed") or re.search(r"\.(to|add)_[qk](_proj)?\.", key) else value
        for key, value in ours.state_dict().items()
    ]
    weights = dict(zip(ours.state_dict(), small, strict=True))
    groups = FAMILIES[member.family].plan(weights, ours.config)
    network = copy.deepcopy(theirs)
    network.load_state_dict(dict(to_foreign(groups, weights.__getitem__, ours.config)))
    inputs = member.draw(ours, member.sizes[0])
    expected = member.call(network, inputs)
    now = settings(ours)
    eps = {"eps": now["eps"], "qk_norm_eps": now["qk_norm_eps"] or now["eps"]}
    found = []
    for changes in (eps, eps | {key: 10 * eps[key]}):
        other = VideoDiT(**now | changes).eval()
        other.load_state_dict(weights)
        found.append(distance(other(**inputs).sample, expected))
    right, wrong = found
    assert right <= 1e-4
    assert wrong > 10 * right


# --- a new model ---------------------------------------------------------------------------------


@every_family
def test_a_new_model_passes_everything_on_and_gradients_reach_its_blocks(name: str) -> None:
    member = MEMBERS[name]
    dit = VideoDiT(**member.options)
    inputs, passed = member.draw(dit, min(member.sizes)), []  # one frame: no number of it is added
    for block in dit.blocks:
        block.register_forward_hook(lambda _, args, out: passed.append(torch.equal(args[0], out[0])))
    assert not dit(**inputs).sample.any()
    assert passed == [True] * len(dit.blocks)
    assert all(parameter.isfinite().all() for parameter in dit.parameters())
    torch.nn.init.normal_(dit.proj_out.weight)  # else nothing goes back beyond it
    dit(**inputs).sample.square().sum().backward()
    for block in dit.blocks:
        assert any(p.grad is not None and p.grad.any() for p in block.parameters())


# --- published sizes -----------------------------------------------------------------------------

PUBLISHED = [
    pytest.param(family.name, title, marks=[pytest.mark.slow] if number else [])  # the first of each family: soon
    for family in FAMILIES.values()
    for number, title in enumerate(family.published)
]


@pytest.mark.parametrize(("family", "title"), PUBLISHED)
def test_published_sizes(family: str, title: str) -> None:
    published = FAMILIES[family].published[title]
    with torch.device("meta"):
        dit = VideoDiT(**FAMILIES[family].native_config(published.config))
        theirs = getattr(diffusers, FAMILIES[family].class_name)(**published.config)
    learned = dit.learned_positions.numel() if dit.config.learned_grid is not None else 0  # a buffer of theirs
    assert sum(p.numel() for p in dit.parameters()) - learned == published.parameters
    # Every tensor of theirs is one of ours, and the other way round.
    groups = FAMILIES[family].plan(dit.state_dict(), dit.config)
    assert {name for group in groups for name in group.theirs} == set(theirs.state_dict())


# --- weights both ways ---------------------------------------------------------------------------


def folder_of(theirs: Any, folder: Path, **options: Any) -> Path:
    theirs.save_pretrained(folder, **options)
    return folder


@torch.no_grad()
@every_member
def test_loads_a_folder_of_diffusers(name: str, pairs: Pairs, tmp_path: Path) -> None:
    member, theirs, ours = pairs(name)
    folder = folder_of(theirs, tmp_path / "transformer", max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    for loaded in (VideoDiT.from_pretrained(folder), VideoDiT.from_pretrained(tmp_path, subfolder="transformer")):
        assert loaded.config.family == member.family
        for key, value in ours.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key


@every_member
def test_converted_there_and_back_it_is_the_same_to_the_bit(name: str, pairs: Pairs, tmp_path: Path) -> None:
    _, theirs, ours = pairs(name)
    source = folder_of(theirs, tmp_path / "theirs", max_shard_size="30KB")
    seen: list[tuple[int, int]] = []
    convert_transformer(VideoDiT, source, tmp_path / "native", to="native", on_tensor=lambda *n: seen.append(n))
    assert seen[-1][0] >= len(ours.state_dict())
    assert torch.equal(VideoDiT.from_pretrained(tmp_path / "native").proj_out.weight, ours.proj_out.weight)
    convert_transformer(VideoDiT, tmp_path / "native", tmp_path / "back", to="diffusers", max_shard_bytes=20_000)
    back: dict[str, Tensor] = {}
    for path in (tmp_path / "back").glob("*.safetensors"):
        back |= load_file(path)
    weights = theirs.state_dict()
    assert set(back) == set(weights)
    assert all(torch.equal(back[key], value) and back[key].dtype == value.dtype for key, value in weights.items())
    again = type(theirs).from_pretrained(tmp_path / "back")
    assert settings(again) == settings(type(theirs).from_pretrained(source))


def test_a_config_that_leaves_out_what_the_weights_show(pairs: Pairs, tmp_path: Path) -> None:
    """As PixArt-Σ's published one does, under an older class name."""
    folder = folder_of(pairs("pixart-sigma")[1], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"_class_name": "Transformer2DModel", "sample_size": 128}
    del config["use_additional_conditions"]
    (folder / "config.json").write_text(json.dumps(config))
    assert VideoDiT.from_pretrained(folder).config.size_condition_stride is None


def test_bf16_keeps_what_needs_fp32(pairs: Pairs, tmp_path: Path) -> None:
    folder = folder_of(pairs("wan")[1], tmp_path)
    dit = VideoDiT.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert dit.dtype == torch.bfloat16
    assert dit.blocks[0].scale_shift_table.dtype == dit.time_embedder.linear_1.weight.dtype == torch.float32
    assert dit.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_places_it(pairs: Pairs, tmp_path: Path, device_map: Any) -> None:
    dit = VideoDiT.from_pretrained(folder_of(pairs("wan")[1], tmp_path), device_map=device_map)
    assert {p.device.type for p in dit.parameters()} <= {"cpu", "cuda"}


@every_family
def test_a_config_alone_builds_the_familys_model(name: str, pairs: Pairs, tmp_path: Path) -> None:
    """Inherited loading would build one of default sizes in silence."""
    _, theirs, ours = pairs(name)
    theirs.save_config(tmp_path)
    config = VideoDiT.load_config(tmp_path)
    for dit in (VideoDiT.from_config(config), VideoDiT.from_config(dict(theirs.config))):
        assert {k: v.shape for k, v in dit.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}


# --- what is refused -----------------------------------------------------------------------------


def test_a_config_of_an_unknown_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "OtterTransformer3DModel"}')
    message = r"is of class 'OtterTransformer3DModel'; valid values are VideoDiT, WanTransformer3DModel, .*FluxTr"
    for load in (VideoDiT.from_pretrained, VideoDiT.load_config):
        with pytest.raises(ValueError, match=message):
            load(tmp_path)
    with pytest.raises(ValueError, match=message):
        VideoDiT.from_config({"_class_name": "OtterTransformer3DModel"})


@pytest.mark.parametrize(
    ("family", "entry", "message"),
    [
        ("cogvideox", {"patch_size_t": 2}, "CogVideoX: patch_size_t is 2, which needs rotary positions alone"),
        (
            "cogvideox",
            {"patch_bias": False},
            "CogVideoX: patch_bias is False; it must be True where patch_size_t is None",
        ),
        ("cogvideox", {"ofs_embed_dim": 7}, "ofs_embed_dim is 7; it must be None or time_embed_dim, which is 512"),
        ("skyreels_v2", {"num_frame_per_block": 2}, "SkyReels-V2: num_frame_per_block is 2; it must be 1"),
        ("hunyuan_video", {"image_condition_type": "otter"}, "image_condition_type is 'otter'; valid values are"),
        ("wan", {"added_kv_proj_dim": 7}, "added_kv_proj_dim is 7; it must be 5120 where image_dim is set"),
        ("ltx", {"cross_attention_dim": 7}, "cross_attention_dim is 7; it must be 2048"),
        ("flux", {"in_channels": 6}, "in_channels is 6; valid values are multiples of 4"),
    ],
)
def test_an_entry_that_no_published_model_has_is_named(family: str, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FAMILIES[family].native_config(entry)


@pytest.fixture
def wan_folder(pairs: Pairs, tmp_path: Path) -> Path:
    return folder_of(pairs("wan")[1], tmp_path / "wan")


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("proj_out.bias"), "lacks 1 tensors of Wan, for example proj_out.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "holds unknown 1 tensors of Wan, for example extra"),
        (lambda t: t.update({"proj_out.bias": torch.zeros(3)}), r"proj_out.bias has shape \[3\], .* needs \[16\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    wan_folder: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    change_weights(wan_folder, change)
    with pytest.raises(ValueError, match=message):
        VideoDiT.from_pretrained(wan_folder)


def test_tensors_that_nobody_uses_are_left_out(wan_folder: Path) -> None:
    change_weights(wan_folder, lambda t: t.update({"blocks.0.attn2.norm_added_q.weight": torch.zeros(1)}))
    VideoDiT.from_pretrained(wan_folder)


def test_a_file_cut_short_is_named(wan_folder: Path) -> None:
    path = wan_folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=f"{WEIGHTS} is not a whole safetensors file"):
        VideoDiT.from_pretrained(wan_folder)


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize(
    ("tensors", "layout"),
    [
        ({"blocks.0.self_attn.q.scale_weight": torch.ones(1)}, "scaled fp8"),
        ({"blocks.0.self_attn.q.weight_scale": torch.ones(1)}, "scaled fp8"),
        ({"blocks.0.self_attn.q.scale_input": torch.ones(1)}, "scaled fp8"),
        (
            {
                "blocks.0.self_attn.q.weight_scale": torch.ones(1),
                "blocks.0.self_attn.q.weight_scale_2": torch.ones(1),
                "blocks.0.self_attn.q.weight": torch.zeros(2, 2, dtype=torch.uint8),
            },
            "nvfp4",
        ),
        ({"blocks.0.self_attn.q.absmax": torch.ones(1)}, "bitsandbytes"),
        ({"blocks.0.self_attn.q.qweight": torch.zeros(2, dtype=torch.int32)}, "GPTQ or AWQ"),
        ({"blocks.0.self_attn.q.weight": torch.zeros(2, 2, dtype=torch.int8)}, "holds whole numbers .I8."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_quantized_single_file_is_refused_by_its_layout(
    tensors: dict[str, Tensor], layout: str, prefix: str, tmp_path: Path
) -> None:
    path = tmp_path / "wan.safetensors"
    plain = {"blocks.0.self_attn.norm_q.weight": torch.ones(4), "patch_embedding.weight": torch.ones(4, 4, 1, 2, 2)}
    save_file({prefix + name: value for name, value in (plain | tensors).items()}, path)
    with pytest.raises(ModelError, match=layout):
        VideoDiT.from_single_file(path)


@pytest.mark.parametrize("name", ["wan.gguf", "wan.GGUF", "wan.safetensors", "wan.bin", "wan"])
def test_a_gguf_file_is_told_by_its_bytes_and_not_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(64))
    with pytest.raises(ModelError, match=f"{name} holds no tensors of a transformer"):
        VideoDiT.from_single_file(tmp_path / name)


def test_a_pickle_is_refused_and_the_way_out_is_told(tmp_path: Path) -> None:
    path = tmp_path / "wan.pth"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a pickle, .* convert it: safetensors\.torch\.save_file"):
        VideoDiT.from_single_file(path)


def test_a_variant_beside_the_weights_is_left_aside(wan_folder: Path) -> None:
    (wan_folder / "diffusion_pytorch_model.fp16.safetensors").write_bytes((wan_folder / WEIGHTS).read_bytes())
    VideoDiT.from_pretrained(wan_folder)


def test_learned_positions_serve_the_trained_size_alone(pairs: Pairs) -> None:
    member, _, ours = pairs("cogvideox-5b-i2v")
    with pytest.raises(ValueError, match=r"learned positions for 3×3×5 tokens and 7 of text, got 3×2×5 and 7"):
        ours(**member.draw(ours, (3, 4, 10)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("cogvideox-1.5-5b-i2v", {"constant": 1.0}),
        ("hunyuan_video-i2v", {"replaced_tokens": False}),
        ("skyreels_v2-df", {"fps_classes": False}),
    ],
)
def test_another_value_of_a_setting_is_another_function(name: str, setting: dict[str, Any], pairs: Pairs) -> None:
    member, _, ours = pairs(name)
    changed = VideoDiT(**{**member.options, "block_options": member.options["block_options"] | setting}).eval()
    changed.load_state_dict(ours.state_dict(), strict=False)
    inputs = member.draw(ours, member.sizes[0])
    assert distance(changed(**inputs).sample, ours(**inputs).sample) > 1e-3


@torch.no_grad()
def test_frames_do_not_see_those_behind_their_block(pairs: Pairs) -> None:
    member, _, ours = pairs("skyreels_v2-df-causal")
    inputs = member.draw(ours, (4, 4, 4))
    before = ours(**inputs).sample
    inputs["hidden_states"][:, :, 3] += 1
    after = ours(**inputs).sample
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2], after[:, :, 2])
    member, _, ours = pairs("hunyuan_video")
    with pytest.raises(ValueError, match="causal_frames is 2; it must be 1 for a model of these blocks"):
        ours(**member.draw(ours, (2, 4, 4)), causal_frames=2)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("flux-dev", {"guidance": None}, "guidance is missing"),
        ("flux-schnell", {"guidance": torch.ones(2)}, "this model takes no guidance"),
        ("hunyuan_video", {"pooled_projections": None}, "pooled_projections is missing"),
        ("wan", {"encoder_hidden_states_image": torch.ones(2, 3, 4)}, "takes no encoder_hidden_states_image"),
        ("wan-i2v", {"encoder_hidden_states_image": None}, "encoder_hidden_states_image is missing"),
        ("wan-flf2v", {"encoder_hidden_states_image": torch.ones(2, 3, 10)}, "expected 6 image tokens, got 3"),
    ],
)
def test_a_condition_too_many_or_too_few_is_named(
    name: str, change: dict[str, Any], message: str, pairs: Pairs
) -> None:
    member, _, ours = pairs(name)
    with pytest.raises(ValueError, match=message):
        ours(**(member.draw(ours, member.sizes[0]) | change))


def test_a_conversion_that_cannot_be_is_refused_and_leaves_nothing(wan_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(ValueError, match="is of class 'WanTransformer3DModel'; it must be of class 'VideoDiT'"):
        convert_transformer(VideoDiT, wan_folder, target, to="diffusers")
    with pytest.raises(ValueError, match="exists; name a folder that does not"):
        convert_transformer(VideoDiT, wan_folder, wan_folder, to="native")
    config = json.loads((wan_folder / "config.json").read_text())
    (wan_folder / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks .* tensors of Wan"):
        convert_transformer(VideoDiT, wan_folder, target, to="native")
    (wan_folder / "config.json").write_text(json.dumps(config))
    change_weights(wan_folder, lambda t: t.update({"proj_out.bias": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"proj_out.bias has shape \[3\], the config needs \[16\]"):
        convert_transformer(VideoDiT, wan_folder, target, to="native")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["wan"]


def test_a_broken_native_folder_is_not_converted(pairs: Pairs, tmp_path: Path) -> None:
    pairs("wan")[2].save_pretrained(tmp_path / "native")
    change_weights(tmp_path / "native", lambda t: t.pop("proj_out.bias"))
    with pytest.raises(ValueError, match=r"lacks 1 tensors of VideoDiT, for example proj_out\.bias"):
        convert_transformer(VideoDiT, tmp_path / "native", tmp_path / "out", to="diffusers")
    assert [p.name for p in tmp_path.iterdir()] == ["native"]
