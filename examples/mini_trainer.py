"""What the trained stages of train_mini.py share: processes, optimizers, and a loop that saves and resumes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

# ---- processes -----------------------------------------------------------------------------------

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def average(tensors: list[Tensor]) -> None:
    """The mean over all processes, in place, in one message."""
    if WORLD > 1:
        flat = torch.cat([t.flatten() for t in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, (flat / WORLD).split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def from_first(value: float) -> float:
    """The first process's value, so that all stop and cool down together."""
    if WORLD == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    torch.distributed.broadcast(tensor, 0)
    return tensor.item()


# ---- optimizers ----------------------------------------------------------------------------------


class KernelMuon:
    """torch's Muon (Jordan et al., "Muon", 2024) for convolution kernels, too, seen as matrices ``[out, in·k³]``."""

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float) -> None:
        self.parameters = parameters
        self.views = [torch.nn.Parameter(p.data.view(p.shape[0], -1)) for p in parameters]  # the same memory
        self.muon = torch.optim.Muon(self.views, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.param_groups = self.muon.param_groups
        self.state_dict, self.load_state_dict = self.muon.state_dict, self.muon.load_state_dict

    def step(self) -> None:
        for view, parameter in zip(self.views, self.parameters, strict=True):
            view.grad = None if parameter.grad is None else parameter.grad.view(view.shape)
        self.muon.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def muon_and_adamw(modules: list[torch.nn.Module], *, muon_lr: float, adam_lr: float) -> list[Any]:
    """Muon for matrices and kernels inside the blocks, AdamW for all that comes in, goes out or has one axis."""
    matrices, others = [], []
    for module in modules:
        for name, parameter in module.named_parameters():
            edge = any(part in name for part in ("embed", "shared", "conv_in", "conv_out", "proj_out", "table"))
            flat = parameter.ndim < 2 or parameter.numel() < 4 * parameter.shape[0]
            (others if edge or flat else matrices).append(parameter)
    return [
        KernelMuon(matrices, muon_lr),
        torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.97), weight_decay=0.01),
    ]


# ---- the loop that all trained stages share ------------------------------------------------------


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Nested dicts and lists as JSON; their tensors go to ``tensors`` and leave a number behind."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[key, pack(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        return [pack(inner, tensors) for inner in value]
    return value


def unpack(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    """The inverse of :func:`pack`."""
    if isinstance(value, dict):
        if "tensor" in value:
            return tensor(value["tensor"])
        return {key: unpack(inner, tensor) for key, inner in value["dict"]}
    return [unpack(inner, tensor) for inner in value] if isinstance(value, list) else value


class Trainer:
    """Runs ``step`` until the minutes are used up; logs, saves and resumes.

    Args:
        folder: where the stage keeps its state and its log.
        modules: what is trained, by name.
        optimizers: their optimizers.
        minutes: training time of all starts together.
        warmup_steps: steps over which learning rates rise.
        cooldown: last share of the time over which they fall to zero, linearly.
        ema_decay: decay of the averaged weights, which later stages use.
        seed: seed of everything random; step ``n`` of process ``r`` draws from ``seed + n·processes + r``.
    """

    seconds_between_logs = 10
    seconds_between_saves = 60

    def __init__(
        self,
        folder: Path,
        modules: dict[str, torch.nn.Module],
        optimizers: list[Any],
        *,
        minutes: float,
        warmup_steps: int = 50,
        cooldown: float = 0.5,
        ema_decay: float = 0.998,
        seed: int = 0,
    ) -> None:
        self.folder, self.modules, self.optimizers = folder, modules, optimizers
        self.minutes, self.warmup_steps, self.cooldown, self.seed = minutes, warmup_steps, cooldown, seed
        self.ema = {k: EMAModel(m.parameters(), decay=ema_decay) for k, m in modules.items()}
        self.base_lr = [[g["lr"] for g in o.param_groups] for o in optimizers]
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.safetensors").is_file():
            self._load()

    def run(self, train_step: Callable[[torch.Generator], dict[str, Tensor]], *, clips_per_step: int) -> None:
        """Train until the minutes are used up."""
        for module in self.modules.values():
            module.train()
        logged_step, saved = self.step, time.monotonic()
        logged = start = time.monotonic()
        before = self.seconds
        while self.seconds < self.minutes * 60:
            generator = torch.Generator().manual_seed(self.seed + self.batch_index)
            torch.manual_seed(self.seed + self.batch_index)
            self._set_lr()
            metrics = train_step(generator)
            average([p.grad for m in self.modules.values() for p in m.parameters() if p.grad is not None])
            norm = torch.nn.utils.clip_grad_norm_([p for m in self.modules.values() for p in m.parameters()], 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            for name, module in self.modules.items():
                self.ema[name].step(module.parameters())
            self.step += 1
            now = time.monotonic()
            self.seconds = from_first(before + now - start)
            if RANK:
                continue
            if now - logged > self.seconds_between_logs:
                rate = (self.step - logged_step) * clips_per_step * WORLD / (now - logged)
                self._log(metrics | {"grad_norm": norm}, rate)
                logged, logged_step = now, self.step
            if now - saved > self.seconds_between_saves:
                self.save()
                saved = time.monotonic()
        if not RANK:
            self.save()

    @property
    def batch_index(self) -> int:
        """Counts batches over all steps and processes."""
        return self.step * WORLD + RANK

    def _set_lr(self) -> None:
        left = 1 - self.seconds / (self.minutes * 60)
        factor = min(1.0, (self.step + 1) / self.warmup_steps, max(left, 0.0) / self.cooldown)
        for optimizer, base in zip(self.optimizers, self.base_lr, strict=True):
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * factor

    def _log(self, metrics: dict[str, Tensor], rate: float) -> None:
        row = {"step": self.step, "seconds": round(self.seconds, 1), "clips_per_second": round(rate, 1)}
        row |= {k: round(v.item(), 5) for k, v in metrics.items()}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        left = max(0.0, self.minutes - self.seconds / 60)
        print("  ".join(f"{k} {v}" for k, v in row.items()), f" {left:.1f} min left", flush=True)

    def save(self) -> None:
        """Write the whole state beside the old one, then put it in its place."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "ema": {k: e.state_dict() for k, e in self.ema.items()},
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(pack(state, tensors))
        save_file(tensors, self.folder / "state.tmp", metadata={"tree": tree})
        os.replace(self.folder / "state.tmp", self.folder / "state.safetensors")

    def _load(self) -> None:
        with safe_open(self.folder / "state.safetensors", framework="pt") as file:
            state = unpack(json.loads(file.metadata()["tree"]), file.get_tensor)
        self.step, self.seconds = state["step"], state["seconds"]
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
            self.ema[name].load_state_dict(state["ema"][name])
            self.ema[name].to(next(module.parameters()).device)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        print(f"resuming {self.folder.name} at step {self.step}, {self.seconds / 60:.1f} min", flush=True)

    def use_ema(self) -> None:
        """Put the averaged weights into the modules."""
        for name, module in self.modules.items():
            self.ema[name].copy_to(module.parameters())
            module.eval()


def autocast(device: torch.device) -> torch.autocast:
    """bf16 arithmetic over fp32 weights."""
    return torch.autocast(device.type, dtype=torch.bfloat16)
