"""Muon for matrices and kernels, AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from videodit.hardware import compute_dtype

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, of which there are five."""


class KernelMuon(torch.optim.Optimizer):
    """Muon (Jordan et al., "Muon", 2024) for matrices and for convolution kernels, seen as ``[out, in·k³]``.

    What torch's does one matrix after the other is done here for all matrices of a shape at a time: a small network
    has a hundred of them, and a GPU would spend the step on starting work. Rates are scaled as there by
    ``adjust_lr_fn="match_rms_adamw"``, so that AdamW's fit (Liu et al., "Muon is Scalable for LLM Training", 2025).
    """

    def __init__(
        self, parameters: list[torch.nn.Parameter], lr: float, *, weight_decay: float = 0.01, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # nothing here evaluates a loss again
        """Take a step with the gradients that are there."""
        for group in self.param_groups:
            same: dict[tuple[int, int], list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same[parameter.shape[0], parameter[0].numel()].append(parameter)
            for shape, parameters in same.items():
                self._step(parameters, shape, group["lr"], group["weight_decay"], group["momentum"])

    def _step(
        self, parameters: list[torch.nn.Parameter], shape: tuple[int, int], lr: float, decay: float, momentum: float
    ) -> None:
        grads = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        updates = torch._foreach_lerp(grads, buffers, momentum)  # Nesterov's
        directions = orthogonalised(torch.stack([update.reshape(shape) for update in updates]))
        torch._foreach_mul_(parameters, 1 - lr * decay)
        adjusted = 0.2 * max(shape) ** 0.5 * lr
        steps = [d.view(p.shape).to(p.dtype) for d, p in zip(directions, parameters, strict=True)]
        torch._foreach_add_(parameters, steps, alpha=-adjusted)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices ``[N, rows, columns]`` with their singular values brought near 1.

    Newton–Schulz of the fifth order, of the shorter side's Gram matrices, after Jordan et al., "Muon" (2024). In bf16
    as torch's, or in fp32 where the device does not compute in bf16: there bf16 is many times slower.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(compute_dtype(matrices.device))
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # spectral norms are at most 1
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).contiguous()


def muon_and_adamw(modules: list[torch.nn.Module], *, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for matrices and kernels inside the blocks, AdamW for all that comes in, goes out or has one axis."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            edge = any(part in name for part in ("embed", "shared", "conv_in", "conv_out", "proj_out", "table"))
            flat = parameter.ndim < 2 or parameter.numel() < 4 * parameter.shape[0]
            (others if edge or flat else matrices).append(parameter)
    return [
        KernelMuon(matrices, muon_lr),
        torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.97), weight_decay=0.01),
    ]
