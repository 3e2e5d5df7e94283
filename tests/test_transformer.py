"""VideoDiT: equal to diffusers' Wan and to slow references, trainable, and at home in diffusers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, WanTransformer3DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import Tensor

from videodit import VideoDiT
from videodit.attention import Attention
from videodit.blocks import CrossBlock
from videodit.flow import add_noise, denoising_loss, sample_sigma, training_target
from videodit.rotary import apply_rotary, rotary_3d, split_head_dim
from videodit.shapes import Size3D

Deviation = Callable[[Tensor, Tensor], float]
Randomized = Callable[[VideoDiT], VideoDiT]

CONFIG: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 48,
    "num_layers": 2,
}
KINDS = ("full", "factorized")
GRID = Size3D(3, 2, 3)  # tokens of the usual input
LATENT = (4, 3, 4, 6)  # [C, T, H, W]

both_kinds = pytest.mark.parametrize("dit", KINDS, indirect=True)


@pytest.fixture(scope="module")
def networks(randomized: Randomized) -> dict[str, VideoDiT]:
    return {kind: randomized(VideoDiT(**CONFIG, attention=kind)).eval() for kind in KINDS}  # type: ignore[arg-type]


@pytest.fixture
def dit(request: pytest.FixtureRequest, networks: dict[str, VideoDiT]) -> VideoDiT:
    """A random network of the kind that is asked for, else with full attention, to do with as one likes."""
    return copy.deepcopy(networks[getattr(request, "param", "full")])


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    """Two clips with captions."""
    return {
        "hidden_states": torch.randn(2, *LATENT),
        "timestep": torch.tensor([3.0, 987.0]),
        "encoder_hidden_states": torch.randn(2, 5, 12),
    }


def predict(dit: VideoDiT, inputs: dict[str, Tensor], **changes: Tensor | None) -> Tensor:
    return dit(**{**inputs, **changes}).sample


# --- diffusers' network --------------------------------------------------------------------------

RENAMED = {
    "patch_embedding": "patch_embed",
    "condition_embedder.time_embedder": "time_embedder",
    "condition_embedder.time_proj": "time_proj",
    "condition_embedder.text_embedder": "text_embedder",
}


def from_wan(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' names and shapes of a Wan transformer to ours."""
    ours = {}
    for name, value in weights.items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if name == "patch_embed.weight":
            value = value.flatten(1)  # a convolution without overlap is a linear layer
        ours[name] = value[0] if name.endswith("scale_shift_table") else value
    return ours


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "latent"),
    [
        ({}, (1, 2, 2)),
        ({}, (1, 6, 10)),
        ({}, (5, 6, 14)),
        ({"patch_size": (2, 1, 2)}, (6, 3, 2)),
        ({"out_channels": 6, "cross_attn_norm": False}, (3, 2, 6)),
    ],
    ids=str,
)
@pytest.mark.parametrize("per_token", [False, True])
def test_equals_diffusers_wan(
    options: dict[str, Any],
    latent: tuple[int, int, int],
    per_token: bool,
    randomized: Callable[..., WanTransformer3DModel],
    deviation: Deviation,
) -> None:
    options = {"patch_size": (1, 2, 2), "out_channels": 4, "cross_attn_norm": True} | options
    theirs = randomized(WanTransformer3DModel(**CONFIG, **options)).eval()
    ours = VideoDiT(**CONFIG, **options)
    ours.load_state_dict(from_wan(theirs.state_dict()), strict=True)

    x, text = torch.randn(2, 4, *latent), torch.randn(2, 7, 12)
    tokens = ours.geometry.token_size(Size3D(*latent)).numel
    timestep = torch.rand(2, tokens) * 1000 if per_token else torch.tensor([3.0, 987.0])
    expected = theirs(x, timestep, text, return_dict=False)[0]
    assert deviation(ours(x, timestep, text).sample, expected) <= 2e-5


# --- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head_dim", "dims"), [(128, (44, 42, 42)), (64, (24, 20, 20)), (16, (8, 4, 4)), (12, (4, 4, 4)), (6, (2, 2, 2))]
)
def test_axes_share_a_head(head_dim: int, dims: tuple[int, int, int]) -> None:
    assert split_head_dim(head_dim) == dims


@pytest.mark.parametrize("head_dim", [0, 4, 7, 15])
def test_head_that_three_axes_cannot_share_is_named(head_dim: int) -> None:
    with pytest.raises(ValueError, match=f"attention_head_dim must be even and at least 6 .* got {head_dim}"):
        VideoDiT(**{**CONFIG, "attention_head_dim": head_dim})


def rotated(x: Tensor, grid: Size3D, dims: Size3D, theta: float) -> Tensor:
    """Each pair of channels as one complex number, turned by place × frequency."""
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())  # [B, S, N, head_dim/2]
    for s in range(grid.numel):
        place = (s // (grid.h * grid.w), s // grid.w % grid.h, s % grid.w)
        channel = 0
        for axis, dim in enumerate(dims):
            for i in range(dim // 2):
                angle = torch.tensor(place[axis] * theta ** (-2 * i / dim), dtype=torch.float64)
                z[:, s, :, channel] *= torch.polar(torch.ones((), dtype=torch.float64), angle)
                channel += 1
    return torch.view_as_real(z).flatten(-2)


@pytest.mark.parametrize(
    ("grid", "theta"), [(Size3D(1, 1, 1), 1e4), (Size3D(3, 2, 5), 1e4), (Size3D(21, 1, 3), 256.0)], ids=str
)
def test_rotary_positions_turn_complex_numbers(grid: Size3D, theta: float, deviation: Deviation) -> None:
    dims = split_head_dim(16)
    x = torch.randn(2, grid.numel, 3, 16, dtype=torch.float64)
    turned = apply_rotary(x, rotary_3d(grid, dims, theta, torch.device("cpu")))
    assert turned.dtype == torch.float64
    assert deviation(turned, rotated(x, grid, dims, theta)) <= 1e-6


def test_positions_made_in_inference_mode_serve_training(dit: VideoDiT) -> None:
    """Tables are kept between calls; tensors of inference mode cannot take part in a backward pass."""
    rotary_3d.cache_clear()
    inputs = (torch.randn(1, *LATENT), torch.tensor([500.0]), torch.randn(1, 2, 12))
    with torch.inference_mode():
        dit(*inputs)
    dit(*inputs).sample.sum().backward()
    assert dit.blocks[0].attn1.to_q.weight.grad.any()


# --- attention -----------------------------------------------------------------------------------


def allowed(layout: str, grid: Size3D) -> Tensor:
    """``[S, S]``, True where a layout lets a token see another."""
    places = [(t, h, w) for t in range(grid.t) for h in range(grid.h) for w in range(grid.w)]
    rules: dict[str, Callable[[tuple, tuple], bool]] = {
        "full": lambda a, b: True,
        "spatial": lambda a, b: a[0] == b[0],
        "temporal": lambda a, b: a[1:] == b[1:],
    }
    return torch.tensor([[rules[layout](a, b) for b in places] for a in places])


def attention_by_loops(
    attn: Attention, x: Tensor, source: Tensor, mask: Tensor, qk_norm: str | None, turn: Callable[[Tensor], Tensor]
) -> Tensor:
    """One head and one query at a time. ``mask [B, S, L]``."""

    def normal(value: Tensor, norm: Any, across: bool) -> Tensor:
        if qk_norm is None or across != (qk_norm == "rms_norm_across_heads"):
            return value
        return value / (value.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight

    def heads(value: Tensor, norm: Any) -> Tensor:
        return turn(normal(normal(value, norm, True).unflatten(-1, (attn.heads, -1)), norm, False))

    q, k = heads(attn.to_q(x), attn.norm_q), heads(attn.to_k(source), attn.norm_k)
    v = attn.to_v(source).unflatten(-1, (attn.heads, -1))
    out = torch.zeros_like(q)
    for b, s, n in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        seen = mask[b, s]
        scores = k[b, seen, n] @ q[b, s, n] / q.shape[-1] ** 0.5
        out[b, s, n] = (scores.exp() / scores.exp().sum()) @ v[b, seen, n]
    return attn.to_out[0](out.flatten(2))


@torch.no_grad()
@pytest.mark.parametrize("layout", ["full", "spatial", "temporal"])
@pytest.mark.parametrize("qk_norm", [None, "rms_norm", "rms_norm_across_heads"])
def test_each_layout_is_full_attention_under_a_mask(
    layout: Any, qk_norm: Any, randomized: Callable[..., Attention], deviation: Deviation
) -> None:
    attn = randomized(Attention(20, 2, 12, qk_norm=qk_norm, eps=1e-6, layout=layout)).double()
    x = torch.randn(2, GRID.numel, 20, dtype=torch.float64)
    table = rotary_3d(GRID, split_head_dim(12), 100.0, torch.device("cpu"))
    mask = allowed(layout, GRID).expand(2, -1, -1)
    expected = attention_by_loops(attn, x, x, mask, qk_norm, lambda value: apply_rotary(value, table))
    assert deviation(attn(x, rotary=table, grid=GRID), expected) <= 1e-12


@torch.no_grad()
def test_cross_attention_sees_the_text_that_counts(randomized: Callable[..., Attention], deviation: Deviation) -> None:
    attn = randomized(Attention(20, 2, 12, qk_norm="rms_norm", eps=1e-6)).double()
    x, text = torch.randn(2, 6, 20, dtype=torch.float64), torch.randn(2, 5, 20, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False, False], [True, False, True, True, True]])
    expected = attention_by_loops(attn, x, text, mask[:, None].expand(-1, 6, -1), "rms_norm", lambda value: value)
    assert deviation(attn(x, text, mask[:, None, None]), expected) <= 1e-12


@torch.no_grad()
def test_each_kind_of_attention_norm_is_another_function(
    networks: dict[str, VideoDiT], inputs: dict[str, Tensor]
) -> None:
    outputs = []
    for qk_norm in (None, "rms_norm", "rms_norm_across_heads"):
        dit = VideoDiT(**CONFIG, qk_norm=qk_norm)  # type: ignore[arg-type]
        weights = {k: v for k, v in networks["full"].state_dict().items() if "norm_q" not in k and "norm_k" not in k}
        dit.load_state_dict(weights, strict=False)
        outputs.append(predict(dit, inputs))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert outputs[a].isfinite().all()
        assert not torch.allclose(outputs[a], outputs[b], atol=1e-3)


@pytest.fixture
def _backend_restored() -> Iterator[None]:
    """Setting a model's backend also sets the default of the whole process."""
    before, _ = _AttentionBackendRegistry.get_active_backend()
    yield
    _AttentionBackendRegistry.set_active_backend(before)


@torch.no_grad()
@both_kinds
@pytest.mark.usefixtures("_backend_restored")
def test_backend_is_a_setting_of_the_model(dit: VideoDiT, inputs: dict[str, Tensor], deviation: Deviation) -> None:
    expected = predict(dit, inputs)
    dit.set_attention_backend("_native_math")
    attentions = [module for module in dit.modules() if isinstance(module, Attention)]
    assert {module.processor._attention_backend.value for module in attentions} == {"_native_math"}
    assert deviation(predict(dit, inputs), expected) <= 1e-5


# --- timesteps -----------------------------------------------------------------------------------


@torch.no_grad()
@both_kinds
def test_a_timestep_for_each_token_or_frame_equals_one_for_the_clip(
    dit: VideoDiT, inputs: dict[str, Tensor], deviation: Deviation
) -> None:
    expected = predict(dit, inputs)
    for groups in (GRID.numel, GRID.t):
        timestep = inputs["timestep"][:, None].expand(-1, groups)
        assert deviation(predict(dit, inputs, timestep=timestep), expected) <= 1e-6


@torch.no_grad()
@both_kinds
def test_a_timestep_for_each_frame_is_that_of_its_tokens(
    dit: VideoDiT, inputs: dict[str, Tensor], deviation: Deviation
) -> None:
    frames = torch.tensor([[0.0, 500.0, 900.0], [250.0, 0.0, 1000.0]])
    tokens = frames.repeat_interleave(GRID.h * GRID.w, dim=1)
    by_frame = predict(dit, inputs, timestep=frames)
    assert deviation(predict(dit, inputs, timestep=tokens), by_frame) <= 1e-6
    assert deviation(by_frame, predict(dit, inputs, timestep=frames.flip(1))) > 1e-2


def reached(dit: VideoDiT, inputs: dict[str, Tensor], token: int) -> list[int]:
    """Tokens whose prediction changes with the timestep of one of them."""
    one = {name: value[:1] for name, value in inputs.items()}
    same = torch.full((1, GRID.numel), 400.0)
    other = same.clone()
    other[0, token] = 0.0
    before, after = (predict(dit, one, timestep=timestep) for timestep in (same, other))
    change = (after - before).abs().unflatten(4, (GRID.w, 2)).unflatten(3, (GRID.h, 2))
    return change.amax((0, 1, 4, 6)).flatten().gt(1e-4).nonzero().flatten().tolist()


def silence(dit: VideoDiT, attention: str) -> None:
    """Let an attention say nothing."""
    for name, parameter in dit.named_parameters():
        if f"{attention}.to_out" in name:
            parameter.zero_()


@torch.no_grad()
@both_kinds
def test_a_tokens_timestep_reaches_others_through_attention_alone(dit: VideoDiT, inputs: dict[str, Tensor]) -> None:
    assert reached(dit, inputs, token=7) == list(range(GRID.numel))
    silence(dit, "attn1")
    assert reached(dit, inputs, token=7) == [7]


@torch.no_grad()
@pytest.mark.parametrize("dit", ["factorized"], indirect=True)
@pytest.mark.parametrize(("silent", "left"), [("spatial", "temporal"), ("temporal", "spatial")])
def test_each_half_of_a_factorized_layer_reaches_as_far_as_its_layout(
    dit: VideoDiT, inputs: dict[str, Tensor], silent: str, left: str
) -> None:
    silence(dit, f"{silent}.attn1")
    assert reached(dit, inputs, token=7) == allowed(left, GRID)[7].nonzero().flatten().tolist()


# --- text ----------------------------------------------------------------------------------------


@torch.no_grad()
@both_kinds
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masked_text_has_no_influence(
    dit: VideoDiT, inputs: dict[str, Tensor], dtype: torch.dtype, deviation: Deviation
) -> None:
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 1, 1]]).to(dtype)
    text = inputs["encoder_hidden_states"]
    other = torch.where(mask.bool()[..., None], text, 10 * torch.randn_like(text))
    masked = predict(dit, inputs, encoder_attention_mask=mask)
    changed = predict(dit, inputs, encoder_attention_mask=mask, encoder_hidden_states=other)
    assert deviation(changed, masked) <= 1e-6
    assert deviation(masked, predict(dit, inputs)) > 1e-3


@torch.no_grad()
@both_kinds
def test_a_padded_batch_equals_its_clips_one_by_one(
    dit: VideoDiT, inputs: dict[str, Tensor], deviation: Deviation
) -> None:
    lengths = [2, 5]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    batch = predict(dit, inputs, encoder_attention_mask=mask)
    for i, length in enumerate(lengths):
        one = {name: value[i : i + 1] for name, value in inputs.items()}
        one["encoder_hidden_states"] = one["encoder_hidden_states"][:, :length]
        assert deviation(batch[i : i + 1], predict(dit, one)) <= 1e-5


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_model_predicts_zero_and_its_blocks_pass_everything_on(kind: Any, inputs: dict[str, Tensor]) -> None:
    dit = VideoDiT(**CONFIG, attention=kind)
    passed: list[bool] = []
    for module in dit.modules():
        if isinstance(module, CrossBlock):
            module.register_forward_hook(lambda _, args, out: passed.append(torch.equal(args[0], out[0])))
    assert not predict(dit, inputs).any()
    assert passed == [True] * (2 if kind == "full" else 4)
    assert all(parameter.isfinite().all() for parameter in dit.parameters())


@both_kinds
def test_gradients_reach_every_parameter(dit: VideoDiT, inputs: dict[str, Tensor]) -> None:
    predict(dit, inputs).square().sum().backward()
    missing = [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.any()]
    # A softmax does not feel what is added to all scores of a query, and this is all that a bias of the keys does.
    assert [name for name in missing if not name.endswith("to_k.bias")] == []


@both_kinds
@pytest.mark.parametrize("per_token", [False, True])
def test_checkpointed_gradients_are_the_same(dit: VideoDiT, inputs: dict[str, Tensor], per_token: bool) -> None:
    if per_token:
        inputs["timestep"] = torch.rand(2, GRID.numel) * 1000
    inputs["encoder_hidden_states"].requires_grad_()  # the text encoder may train, too
    runs: list[int] = []
    dit.blocks[1].register_forward_pre_hook(lambda *_: runs.append(1))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            dit.enable_gradient_checkpointing()
        dit.zero_grad()
        inputs["encoder_hidden_states"].grad = None
        predict(dit, inputs).square().sum().backward()
        leaves = [*dit.parameters(), inputs["encoder_hidden_states"]]
        gradients.append([leaf.grad.clone() for leaf in leaves if leaf.grad is not None])
    assert len(runs) == 3  # forward; forward and once more during backward
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_overfits_one_clip(kind: Any) -> None:
    """Measured on noise that it has not seen: the velocity of one clip is a function of its noisy latents."""
    dit = VideoDiT(**{**CONFIG, "num_attention_heads": 4, "in_channels": 2, "ffn_dim": 128}, attention=kind)
    clean, text = torch.randn(1, 2, 2, 4, 4), torch.randn(1, 1, 12)

    def loss(batch: int) -> Tensor:
        clip, caption = clean.expand(batch, -1, -1, -1, -1), text.expand(batch, -1, -1)
        noise, sigma = torch.randn(clip.shape), sample_sigma(batch, shift=3.0)
        prediction = dit(add_noise(clip, noise, sigma), 1000 * sigma, caption).sample
        return denoising_loss(prediction, training_target("flow", clip, noise)).mean()

    def loss_on_new_noise() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return loss(64).item()

    before = loss_on_new_noise()
    steps = 150
    optimizer = torch.optim.AdamW(dit.parameters(), lr=6e-3, betas=(0.9, 0.95), weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(16).backward()
        torch.nn.utils.clip_grad_norm_(dit.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert loss_on_new_noise() < 0.1 * before


# --- a model of diffusers' -----------------------------------------------------------------------


@torch.no_grad()
@both_kinds
def test_saved_and_loaded_it_is_the_same(dit: VideoDiT, inputs: dict[str, Tensor], tmp_path: Path) -> None:
    dit.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = VideoDiT.from_pretrained(tmp_path)
    assert torch.equal(predict(loaded, inputs), predict(dit, inputs))


@torch.no_grad()
@both_kinds
def test_loaded_in_bf16_it_keeps_what_needs_fp32(
    dit: VideoDiT, inputs: dict[str, Tensor], tmp_path: Path, deviation: Deviation
) -> None:
    dit.save_pretrained(tmp_path)
    half = VideoDiT.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    wide = {name for name, p in half.named_parameters() if p.dtype == torch.float32}
    narrow = {name for name, p in half.named_parameters() if p.dtype == torch.bfloat16}
    assert wide | narrow == {name for name, _ in dit.named_parameters()}
    assert {part for name in wide for part in name.split(".")} & {"to_q", "ffn", "patch_embed", "proj_out"} == set()
    for name in narrow:
        assert not {"time_embedder", "scale_shift_table", "norm2"} & set(name.split("."))

    sample = predict(half, {k: v if k == "timestep" else v.bfloat16() for k, v in inputs.items()})
    assert sample.dtype == torch.bfloat16
    assert deviation(sample.float(), predict(dit, inputs)) < 0.05


@both_kinds
def test_lora_starts_from_the_model_and_trains(dit: VideoDiT, inputs: dict[str, Tensor], deviation: Deviation) -> None:
    from peft import LoraConfig

    expected = predict(dit, inputs)
    dit.requires_grad_(False)
    dit.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    assert torch.equal(predict(dit, inputs), expected)

    predict(dit, inputs).square().sum().backward()
    trained = {name: p for name, p in dit.named_parameters() if p.requires_grad}
    attentions = sum(isinstance(module, Attention) for module in dit.modules())
    assert len(trained) == attentions * 2 * 2  # two layers of each, two matrices of each
    assert all(p.grad.any() for name, p in trained.items() if "lora_B" in name)

    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_()
        adapted = predict(dit, inputs)
        assert deviation(adapted, expected) > 1e-3
        assert deviation(dit(**inputs, attention_kwargs={"scale": 0.0}).sample, expected) <= 1e-6


@torch.no_grad()
@both_kinds
def test_first_block_cache_changes_nothing_until_it_may(
    dit: VideoDiT, inputs: dict[str, Tensor], deviation: Deviation
) -> None:
    steps = [{**inputs, "timestep": inputs["timestep"] + shift} for shift in (0.0, 5.0)]
    expected = [predict(dit, step) for step in steps]

    def cached(threshold: float) -> list[Tensor]:
        dit.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        with dit.cache_context("cond"):
            outputs = [predict(dit, step) for step in steps]
        dit.disable_cache()
        return outputs

    for output, exact in zip(cached(0.0), expected, strict=True):
        assert deviation(output, exact) <= 1e-6
    first, second = cached(1e6)
    assert deviation(first, expected[0]) <= 1e-6
    assert deviation(second, expected[1]) > 1e-4  # the later blocks' part is that of the first step
    assert torch.equal(predict(dit, steps[1]), expected[1])


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention": "windowed"}, r"attention must be one of full, factorized.* got 'windowed'"),
        ({"qk_norm": "group_norm"}, r"qk_norm must be None or one of .* got 'group_norm'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
        ({"in_channels": -4}, "in_channels must be at least 1, got -4"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"text_dim": 0}, "text_dim must be at least 1, got 0"),
        ({"freq_dim": 0}, "freq_dim must be at least 1, got 0"),
        ({"ffn_dim": 0}, "ffn_dim must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"patch_size": (1, 0, 2)}, r"patch must be three positive integers .* got \(1, 0, 2\)"),
        ({"patch_size": (2, 2)}, r"patch must be three positive integers .* got \(2, 2\)"),
    ],
)
def test_option_that_makes_no_model_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoDiT(**{**CONFIG, **change})


def test_attention_refuses_an_unknown_layout() -> None:
    with pytest.raises(ValueError, match=r"layout must be one of .* got 'windowed'"):
        Attention(8, 1, 8, qk_norm=None, eps=1e-6, layout="windowed")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_states": (2, 3, 3, 4, 6)}, r"expected latents \[B, 4, T, H, W\], got \[2, 3, 3, 4, 6\]"),
        ({"hidden_states": (2, 4, 4, 6)}, r"expected latents \[B, 4, T, H, W\], got \[2, 4, 4, 6\]"),
        ({"hidden_states": (2, 4, 3, 5, 6)}, "latent height must be a positive multiple of the patch 2, got 5"),
        ({"hidden_states": (2, 4, 3, 4, 0)}, "latent width must be a positive multiple of the patch 2, got 0"),
        ({"timestep": ()}, r"timestep must be \[2\], .* got \[\]"),
        ({"timestep": (3,)}, r"timestep must be \[2\], .* got \[3\]"),
        ({"timestep": (1, 3)}, r"timestep must be \[2\], \[2, 3\] \(frames\) or \[2, 18\] \(tokens\), got \[1, 3\]"),
        ({"timestep": (2, 4)}, r"got \[2, 4\]"),
        ({"timestep": (2, 18, 1)}, r"got \[2, 18, 1\]"),
        ({"encoder_hidden_states": (2, 5, 13)}, r"encoder_hidden_states must be \[2, L, 12\], got \[2, 5, 13\]"),
        ({"encoder_hidden_states": (1, 5, 12)}, r"encoder_hidden_states must be \[2, L, 12\], got \[1, 5, 12\]"),
        ({"encoder_attention_mask": (2, 4)}, r"encoder_attention_mask must be \[2, 5\], got \[2, 4\]"),
    ],
)
def test_input_that_does_not_fit_is_named(
    dit: VideoDiT, inputs: dict[str, Tensor], change: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        predict(dit, inputs, **{name: torch.ones(shape) for name, shape in change.items()})
