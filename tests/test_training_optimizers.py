"""Optimizers, the learning rate's course and clipping, in one process; several are in test_training_checkpoints."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videodit import VideoDiT
from videodit.training.optimizers import clip_grad_norm, lr_factor, make_optimizer, set_lr


class Small(nn.Module):
    """A matrix, a bias, a table of two axes that is no matrix, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        self.table = nn.Parameter(torch.randn(2, 64))
        self.frozen = nn.Linear(64, 64).requires_grad_(False)


def train(model: Small, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 64, generator=generator)
        (model.layer(x) * model.table[0] + model.table[1] - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_decay_pulls_on_matrices_alone() -> None:
    model = Small()
    optimizer = make_optimizer("adamw", model.named_parameters(), lr=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.layer.weight.detach(), before["layer.weight"] * 0.95)
    for name, parameter in model.named_parameters():
        if name != "layer.weight":
            assert torch.equal(parameter, before[name]), name


def test_tables_and_norms_of_the_transformer_do_not_decay() -> None:
    with torch.device("meta"):
        model = VideoDiT(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, text_dim=8, ffn_dim=16, num_layers=1,
            rope=None, position_embedding="learned", learned_grid=(1, 2, 2),
        )  # fmt: skip
    optimizer = make_optimizer("adamw", model.named_parameters(), lr=0.1, weight_decay=0.5)
    free = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in free}
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert names == {name for name, _ in model.named_parameters()} - linear
    assert {"scale_shift_table", "blocks.0.scale_shift_table", "learned_positions"} <= names


def test_eight_bits_train_like_thirty_two() -> None:
    results = {}
    with torch.compiler.set_stance("force_eager"):  # torchao compiles its step
        for kind in ("adamw", "adamw8bit"):
            torch.manual_seed(0)
            model = Small()
            optimizer = make_optimizer(kind, model.named_parameters(), lr=1e-2)
            train(model, optimizer, 20)
            results[kind] = model.layer.weight.detach()
            if kind == "adamw8bit":
                assert type(optimizer.state[model.layer.weight]["exp_avg"]).__name__ == "OptimState8bit"
    moved = (results["adamw"] - torch.eye(64)).norm()
    assert (results["adamw8bit"] - results["adamw"]).norm() < 0.05 * moved


def test_learning_rate_is_set_in_place() -> None:
    with torch.compiler.set_stance("force_eager"):
        for kind in ("adamw", "adamw8bit"):
            model = Small()
            optimizer = make_optimizer(kind, model.named_parameters(), lr=1e-2)
            set_lr(optimizer, 0.0)
            before = model.layer.weight.detach().clone()
            train(model, optimizer, 1)
            assert torch.equal(model.layer.weight, before)
            set_lr(optimizer, 1e-3)
            train(model, optimizer, 1)
            assert not torch.equal(model.layer.weight, before)
            assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-3])


def test_missing_torchao_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ValueError, match=r'adamw8bit needs torchao: pip install "videodit\[quant\]"'):
        make_optimizer("adamw8bit", Small().named_parameters(), lr=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "sgd"}, "must be one of adamw, adamw8bit, got 'sgd'"),
        ({"lr": 0.0}, "lr must be a number above 0, got 0.0"),
        ({"lr": math.nan}, "lr must be a number above 0, got nan"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ({"eps": -1.0}, "eps must be a number of at least 0, got -1.0"),
        ({"weight_decay": math.inf}, "weight_decay must be a number of at least 0, got inf"),
        ({"params": [("w", nn.Parameter(torch.ones(2), requires_grad=False))]}, "no trainable parameter"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"kind": "adamw", "params": Small().named_parameters(), "lr": 1e-3}
    with pytest.raises(ValueError, match=message):
        make_optimizer(**(arguments | options))


def test_learning_rate_warms_up_and_falls() -> None:
    def course(**options: Any) -> list[float]:
        return [lr_factor(step, total_steps=8, **options) for step in range(10)]

    assert course(schedule="constant", warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    cosine = course(schedule="cosine", warmup_steps=4, final=0.2)
    half = math.sqrt(0.5)
    falling = [1, 0.2 + 0.4 * (1 + half), 0.6, 0.2 + 0.4 * (1 - half), 0.2, 0.2]
    assert cosine == pytest.approx([0.25, 0.5, 0.75, 1, *falling])
    assert course(schedule="cosine", warmup_steps=0)[0] == 1
    assert course(schedule="cosine", warmup_steps=20)[7] == 0.4  # a run that ends while it warms up


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, "constant, cosine"),
        ({"step": -1}, "got -1 and 8"),
        ({"total_steps": 0}, "got 0 and 0"),
        ({"warmup_steps": -1}, "at least 0, got -1"),
        ({"final": 2.0}, r"in \[0, 1\], got 2.0"),
    ],
)
def test_refuses_a_bad_course(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"step": 0, "schedule": "cosine", "warmup_steps": 2, "total_steps": 8}
    with pytest.raises(ValueError, match=message):
        lr_factor(**(arguments | options))


def with_gradients(*gradients: Tensor) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return [*parameters, nn.Parameter(torch.zeros(3))]


def test_clipping_keeps_the_direction() -> None:
    gradients = [torch.tensor([[3.0, 0.0]]), torch.tensor([0.0, -4.0])]
    parameters = with_gradients(*gradients)
    norm = clip_grad_norm(parameters, 0.5)
    assert norm.shape == ()
    assert norm == 5
    for parameter, gradient in zip(parameters, gradients, strict=False):
        torch.testing.assert_close(parameter.grad, gradient / 10)
    assert parameters[-1].grad is None


def test_small_gradients_are_left_alone() -> None:
    for limit in (None, 5.1):
        gradient = torch.tensor([3.0, 4.0])
        (parameter, _) = with_gradients(gradient)
        assert clip_grad_norm([parameter], limit) == 5
        assert torch.equal(parameter.grad, gradient)
    assert clip_grad_norm([nn.Parameter(torch.zeros(3))], 1.0) == 0


def test_norm_of_low_precision_is_taken_in_high() -> None:
    gradient = torch.randn(1 << 15).bfloat16()
    norm = clip_grad_norm(with_gradients(gradient), None)
    assert norm.dtype == torch.float32
    torch.testing.assert_close(norm, gradient.float().norm())


def test_agrees_with_torch() -> None:
    gradients = [torch.randn(7, 5), torch.randn(11), torch.randn(2, 3, 4)]
    mine, theirs = with_gradients(*gradients), with_gradients(*gradients)
    torch.testing.assert_close(clip_grad_norm(mine, 0.3), nn.utils.clip_grad_norm_(theirs, 0.3))
    for one, other in zip(mine[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_norm_that_is_no_number_is_told() -> None:
    assert clip_grad_norm(with_gradients(torch.tensor([1.0, math.nan])), 1.0).isnan()
    with pytest.raises(ValueError, match="max_norm must be above 0 or None, got 0"):
        clip_grad_norm([], 0.0)
