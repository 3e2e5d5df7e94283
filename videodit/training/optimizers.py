"""Optimizers, the learning rate's course, and clipping of gradients.

The learning rate is a pure function of the step (:func:`lr_factor`), so a checkpoint does not hold it.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from videodit.arguments import check_choice
from videodit.errors import InputError
from videodit.json_types import JsonObject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.device_mesh import DeviceMesh

OptimizerKind = Literal["adamw", "adamw8bit"]
Schedule = Literal["constant", "cosine"]


def make_optimizer(
    kind: OptimizerKind,
    params: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) over trainable parameters.

    Weight decay pulls on matrices alone: parameters of two axes or more that are called ``weight`` (of a linear
    layer, of a LoRA's halves, …). Norms, biases, modulation tables and positions are left free.

    Args:
        kind: ``"adamw"``, or ``"adamw8bit"``: torchao's, with both moments in blocks of 8-bit codes.
        params: names and parameters, as ``model.named_parameters()`` gives them; frozen ones are left out.
        lr: learning rate at its peak, above 0.
        betas: decay of the first and the second moment, each in [0, 1).
        eps: added to the root of the second moment, at least 0.
        weight_decay: share of a matrix that is taken off, times the learning rate, at each step; at least 0.

    Raises:
        InputError: an unknown kind, a number out of its range, no trainable parameter, 8 bits for parameters that
            are split over devices, or torchao is not installed.
    """
    check_choice(kind, get_args(OptimizerKind), "the optimizer")
    if not lr > 0 or not math.isfinite(lr):
        raise InputError(f"lr must be a number above 0, got {lr}")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"betas must be two numbers in [0, 1), got {betas}")
    for name, value in (("eps", eps), ("weight_decay", weight_decay)):
        if not value >= 0 or not math.isfinite(value):
            raise InputError(f"{name} must be a number of at least 0, got {value}")
    trainable = {name: p for name, p in params if p.requires_grad}
    if not trainable:
        raise InputError("there is no trainable parameter: every one has requires_grad=False")
    matrices = [p for name, p in trainable.items() if is_matrix(name, p)]
    others = [p for name, p in trainable.items() if not is_matrix(name, p)]
    groups = [
        {"params": group, "weight_decay": decay} for group, decay in ((matrices, weight_decay), (others, 0.0)) if group
    ]
    options: JsonObject = {"lr": lr, "betas": tuple(betas), "eps": eps}
    if kind == "adamw":
        return torch.optim.AdamW(groups, fused=all(p.is_cuda for p in trainable.values()), **options)
    if any(isinstance(p, DTensor) for p in trainable.values()):
        raise InputError("adamw8bit does not work with parameters split over devices (FSDP); use adamw")
    return _adamw_8bit()(groups, **options)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether weight decay pulls on a parameter: one of a matrix product, not a table that is added."""
    return parameter.ndim >= 2 and (name.endswith(".weight") or name == "weight")


def _adamw_8bit() -> type[torch.optim.Optimizer]:
    try:
        with _quiet():
            from torchao.optim import AdamW8bit
    except ImportError as error:
        raise InputError(f'adamw8bit needs torchao: pip install "videodit[quant]" ({error})') from None
    found: type[torch.optim.Optimizer] = AdamW8bit
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """torchao logs each kernel that was built for another machine, and warns of its own use of torch."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups; torchao keeps it in a tensor, which has to stay the same one."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def lr_factor(step: int, *, schedule: Schedule, warmup_steps: int, total_steps: int, final: float = 0.0) -> float:
    """What the peak learning rate is multiplied with at a step.

    With ``w`` steps of warm-up and ``n`` in all::

        step < w:    (step + 1) / w
        "constant":  1
        "cosine":    final + (1 - final) · (1 + cos(π · min(1, (step - w) / (n - w)))) / 2

    The cosine is Loshchilov and Hutter's ("SGDR", 2017, equation 5, without restarts).

    Args:
        step: the step that is about to be made, from 0.
        schedule: what follows the warm-up.
        warmup_steps: 0 for none; a run may end within them.
        total_steps: steps of the whole run; a cosine ends there and stays.
        final: where the cosine ends, in [0, 1].

    Raises:
        InputError: an unknown schedule, or a number out of its range.
    """
    check_choice(schedule, get_args(Schedule), "the schedule")
    if step < 0 or total_steps < 1:
        raise InputError(f"step must be at least 0 and total_steps at least 1, got {step} and {total_steps}")
    if warmup_steps < 0:
        raise InputError(f"warmup_steps must be at least 0, got {warmup_steps}")
    if not 0 <= final <= 1:
        raise InputError(f"final must be in [0, 1], got {final}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def clip_grad_norm(params: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale gradients so that their norm, all together, is at most ``max_norm``.

    A collective call where parameters are split over devices: every rank makes it. A norm that is not finite makes
    the gradients so, too: look at it before the optimizer's step.

    Args:
        params: parameters, plain or DTensors; those without a gradient do not count.
        max_norm: above 0; ``None`` measures and leaves the gradients alone.

    Returns:
        The norm before clipping: a plain fp32 tensor without axes, the same on every rank. Squares are summed in
        fp32 whatever the gradients' dtype.

    Raises:
        InputError: ``max_norm`` is not above 0, or a gradient is a sum that was not carried out yet.
    """
    if max_norm is not None and not max_norm > 0:
        raise InputError(f"max_norm must be above 0 or None, got {max_norm}")
    gradients = [p.grad for p in params if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    shards: dict[tuple[DeviceMesh, tuple[int, ...]] | None, list[Tensor]] = {}
    for gradient in gradients:
        shards.setdefault(_split_over(gradient), []).append(local_part(gradient))
    total = torch.zeros((), device=local_part(gradients[0]).device)
    for split, tensors in shards.items():
        square = torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float32)).square().sum()
        if split is not None:
            mesh, axes = split
            for axis in axes:
                torch.distributed.all_reduce(square, group=mesh.get_group(axis))
        total += square
    norm = total.sqrt()
    if max_norm is not None:
        # The small number is torch's own: a norm of 0 divides by it.
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for tensors in shards.values():
            torch._foreach_mul_(tensors, factor)
    return norm


def _split_over(gradient: Tensor) -> tuple[DeviceMesh, tuple[int, ...]] | None:
    """The mesh and its axes that a gradient is split over; ``None`` where every rank has the whole."""
    if not isinstance(gradient, DTensor):
        return None
    if any(placement.is_partial() for placement in gradient.placements):
        raise InputError(f"a gradient is not summed over the ranks yet: {gradient.placements}")
    axes = tuple(i for i, placement in enumerate(gradient.placements) if placement.is_shard())
    return (gradient.device_mesh, axes) if axes else None


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, the same memory: all of it where it is not split over devices."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
