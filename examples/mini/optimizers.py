"""Muon for matrices and kernels, AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch


class KernelMuon:
    """torch's Muon (Jordan et al., "Muon", 2024) for convolution kernels, too, seen as matrices ``[out, in·k³]``."""

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float) -> None:
        self.parameters = parameters
        self.views = [torch.nn.Parameter(p.data.view(p.shape[0], -1)) for p in parameters]  # the same memory
        self.muon = torch.optim.Muon(self.views, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.state_dict, self.load_state_dict = self.muon.state_dict, self.muon.load_state_dict

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Muon's own: loading a state puts new ones in their place."""
        return self.muon.param_groups

    def step(self) -> None:
        for view, parameter in zip(self.views, self.parameters, strict=True):
            view.grad = None if parameter.grad is None else parameter.grad.view(view.shape)
        self.muon.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def muon_and_adamw(modules: list[torch.nn.Module], *, muon_lr: float, adam_lr: float) -> list[Any]:
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
