"""FLOPs of training, against counts by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from videodit import VideoDiT
from videodit.training.flops import count_flops, matmul_peak, mfu, training_flops

# Two heads of 16, MLP of 64, 8 x 8 tokens of 2 x 2 latents in 2 frames, 5 tokens of text.
DIM, FFN, TEXT_DIM, LAYERS, TEXT = 32, 64, 24, 3, 5
LATENTS = (2, 16, 16)
TOKENS = 128


def tiny(**options: Any) -> VideoDiT:
    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "text_dim": TEXT_DIM,
        "ffn_dim": FFN,
        "num_layers": LAYERS,
    }
    with torch.device("meta"):
        return VideoDiT(**(sizes | options))


def block_forward(tokens: int) -> int:
    """FLOPs of a cross block's forward: two for each weight and token that it sees, and attention."""
    self_attention = 2 * 4 * DIM * DIM * tokens + 4 * tokens * tokens * DIM
    cross_attention = 2 * 2 * DIM * DIM * (tokens + TEXT) + 4 * tokens * TEXT * DIM
    return self_attention + cross_attention + 2 * 2 * DIM * FFN * tokens


def test_each_block_counts_exactly() -> None:
    difference = training_flops(tiny(num_layers=4), LATENTS, text_tokens=TEXT)
    difference -= training_flops(tiny(), LATENTS, text_tokens=TEXT)
    # A backward is two products for each of the forward: one for the weights, one for what came in.
    assert difference == 3 * block_forward(TOKENS)


def test_full_fine_tuning_is_six_flops_a_weight_and_token_and_attention() -> None:
    model = tiny(num_attention_heads=8, attention_head_dim=32, ffn_dim=1024, num_layers=6)
    weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "attn2.to_k" not in name)
    weights -= sum(p.numel() for name, p in model.named_parameters() if "embedder" in name or "attn2.to_v" in name)
    weights -= model.time_proj.weight.numel()  # these see the timestep, those above the text alone
    width, layers = 256, 6
    by_hand = 6 * weights * TOKENS + 12 * layers * TOKENS**2 * width
    assert training_flops(model, LATENTS, text_tokens=TEXT) == pytest.approx(by_hand, rel=0.03)


def test_frozen_weights_cost_no_gradient() -> None:
    full = training_flops(tiny(), LATENTS, text_tokens=TEXT)
    model = tiny()
    model.requires_grad_(False)
    model.proj_out.requires_grad_(True)
    last_layer_alone = training_flops(model, LATENTS, text_tokens=TEXT)
    forward = (full - 3 * LAYERS * block_forward(TOKENS)) // 3 + LAYERS * block_forward(TOKENS)
    # The first layers have no gradient for what comes in: the forward is a little more than a third.
    assert last_layer_alone == pytest.approx(forward, rel=0.05)
    assert last_layer_alone < 0.4 * full


def with_lora(rank: int, **options: Any) -> VideoDiT:
    from peft import LoraConfig

    model = tiny(**options)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=rank, target_modules=r"blocks\.\d+\.attn1\.to_[qkv]"))
    return model


def test_lora_saves_the_gradients_of_the_base() -> None:
    rank = 2
    model = with_lora(rank, num_layers=4)
    before = {name: (p.device, p.requires_grad) for name, p in model.named_parameters()}
    difference = training_flops(model, LATENTS, text_tokens=TEXT)
    difference -= training_flops(with_lora(rank), LATENTS, text_tokens=TEXT)
    # Frozen weights: forward, and the gradient of what came in; the text, frozen all the way, has none.
    by_hand = 2 * (2 * 6 * DIM * DIM + 2 * 2 * DIM * FFN) * TOKENS + 2 * 2 * DIM * DIM * TEXT
    by_hand += 3 * 4 * TOKENS * TOKENS * DIM + 2 * 4 * TOKENS * TEXT * DIM
    by_hand += 3 * 3 * 2 * 2 * DIM * rank * TOKENS
    assert difference == by_hand
    assert {name: (p.device, p.requires_grad) for name, p in model.named_parameters()} == before


def test_recomputation_does_not_count() -> None:
    model = tiny()
    plain = training_flops(model, LATENTS, text_tokens=TEXT)
    model.enable_gradient_checkpointing()
    assert training_flops(model, LATENTS, text_tokens=TEXT) == plain
    assert model.gradient_checkpointing


def test_clips_of_a_batch_add_up() -> None:
    # All but the time embedding, which is one row a clip, too.
    one, three = (training_flops(tiny(), LATENTS, text_tokens=TEXT, batch=n) for n in (1, 3))
    assert three == 3 * one


@pytest.mark.parametrize(
    "options",
    [
        {"block": "joint", "num_single_layers": 1, "final_layer": "linear", "pooled_dim": 8, "guidance_embeds": True},
        {"image_dim": 16},
        {"attention": "factorized", "frame_embedding": True},
    ],
)
def test_counts_models_with_other_inputs(options: dict[str, Any]) -> None:
    assert training_flops(tiny(**options), LATENTS, text_tokens=TEXT) > 1e7


def test_keeps_the_weights_of_the_model() -> None:
    torch.manual_seed(0)
    model = VideoDiT(num_attention_heads=2, attention_head_dim=16, in_channels=4, text_dim=8, ffn_dim=16, num_layers=1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    training_flops(model, (1, 4, 4), text_tokens=2)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_refuses_what_cannot_be_counted() -> None:
    model = tiny()
    with pytest.raises(ValueError, match=r"before it is wrapped.*DataParallel"):
        training_flops(nn.DataParallel(model), LATENTS, text_tokens=TEXT)  # type: ignore[arg-type]
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        training_flops(model, LATENTS, text_tokens=TEXT)


def test_counts_a_product() -> None:
    a, b = torch.empty(3, 5, device="meta"), torch.empty(5, 7, device="meta")
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_peak_and_utilization() -> None:
    state = torch.get_rng_state()
    peak = matmul_peak("cpu", torch.float32, seconds=0.02)
    assert peak > 1e6
    assert torch.equal(torch.get_rng_state(), state)
    assert mfu(peak, 2.0, peak) == pytest.approx(0.5)
    assert mfu(8e12, 2.0, 1e12, devices=4) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="above 0, got 0, 1 and 1"):
        mfu(1.0, 0, 1)
    with pytest.raises(ValueError, match="seconds must be above 0, got 0"):
        matmul_peak("cpu", torch.float32, seconds=0)
