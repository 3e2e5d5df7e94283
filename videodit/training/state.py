"""What training changes, as tensors by name, and the moving average of the parameters.

The names are the same whatever the model is wrapped in (DDP, FSDP2, ``torch.compile``, checkpointing), so a state
saved by two processes can be loaded by one and the other way round; see :mod:`videodit.training.checkpoints`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from videodit.errors import InputError
from videodit.training.optimizers import local_part, set_lr

if TYPE_CHECKING:
    from videodit.training.checkpoints import Checkpoint

_WRAPPERS = re.compile(
    r"^(module\.|_orig_mod\.|_checkpoint_wrapped_module\.)+|_orig_mod\.|_checkpoint_wrapped_module\."
)
_CHUNK = 64  # tensors that an update of the averages converts at once


def stable_name(name: str) -> str:
    """A parameter's name without what DDP, ``torch.compile`` and checkpoint wrappers put into it."""
    return _WRAPPERS.sub("", name)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that have ``requires_grad``, by stable name; those of FSDP2 in their sharded form.

    Raises:
        InputError: two parameters come to one name.
    """
    # After a forward without a backward the root's parameters are whole: not the tensors that training changes.
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    named: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if stable_name(name) in named:
            raise InputError(f"two parameters are called {stable_name(name)!r}; the second one is {name!r}")
        named[stable_name(name)] = parameter
    return named


class Ema:
    """Exponential moving averages of a model's trainable parameters, in fp32.

    After step ``n`` (the first is 1), with ``d = min(decay, (1 + n) / (10 + n))`` where there is a warm-up, else
    ``d = decay``::

        average = d · average + (1 - d) · parameter

    The warm-up is that of TensorFlow's ``ExponentialMovingAverage`` (``num_updates``). Nothing but the step counts,
    so a checkpoint holds the averages alone.

    Args:
        model: wrapped and placed as it will be trained; the averages start as its parameters.
        decay: in [0, 1).
        warmup: follow the parameters faster in the first steps.

    Raises:
        InputError: a decay out of its range, or a model without trainable parameters.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"the decay of averages must be in [0, 1), got {decay}")
        self.model, self.decay, self.warmup = model, decay, warmup
        self.parameters = trainable_parameters(model)
        if not self.parameters:
            raise InputError("there is no trainable parameter to average")
        self.averages = {name: p.detach().to(torch.float32, copy=True) for name, p in self.parameters.items()}
        self.is_swapped = False

    def decay_at(self, step: int) -> float:
        """The decay of the update after a step, counted from 1."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters, after the optimizer's step.

        Args:
            step: how many steps the optimizer has made, this one included: at least 1.

        Raises:
            InputError: a step below 1.
            RuntimeError: the averages are in the model.
        """
        if step < 1:
            raise InputError(f"averages are updated after a step, counted from 1; got {step}")
        self._check_own_place()
        weight = 1 - self.decay_at(step)
        names = list(self.averages)
        for start in range(0, len(names), _CHUNK):
            part = names[start : start + _CHUNK]
            averages = [local_part(self.averages[name]) for name in part]
            torch._foreach_lerp_(averages, [local_part(self.parameters[name]).float() for name in part], weight)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The averages are the model's parameters inside; afterwards those are back, bit for bit.

        Every rank enters and leaves together. What happens to the parameters inside is lost.

        Raises:
            RuntimeError: the averages are in the model already.
        """
        self._check_own_place()
        trainable_parameters(self.model)  # shards alone are swapped: a gathered copy would stay as it was
        with torch.no_grad():
            kept = {name: local_part(p).clone() for name, p in self.parameters.items()}
            self.is_swapped = True
            for name, parameter in self.parameters.items():
                local_part(parameter).copy_(local_part(self.averages[name]))
        try:
            yield
        finally:
            trainable_parameters(self.model)
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    local_part(parameter).copy_(kept[name])
            self.is_swapped = False

    def _check_own_place(self) -> None:
        if self.is_swapped:
            raise RuntimeError("the averages are in the model; leave swapped() first")


class TrainingState:
    """All tensors that training changes, by name.

    | name | what |
    |---|---|
    | ``model.<parameter>`` | trainable parameters; a LoRA's frozen base is not among them |
    | ``ema.<parameter>`` | their averages, fp32 |
    | ``optimizer.<parameter>.<key>`` | what the optimizer holds of each, such as ``exp_avg`` and ``step`` |
    | ``optimizer.<parameter>.<key>.<part>`` | where that is quantized: its plain parts (codes, scale, map) |

    Learning rate and other settings of the optimizer are not among them: they follow from config and step.

    Args:
        model: wrapped and placed as it is trained: plain, in DDP, or sharded by FSDP2.
        optimizers: one, or several, over parameters of the model; each itself or accelerate's wrapper around it.
        ema: averages of the same model, if there are any.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        ema: Ema | None = None,
    ) -> None:
        self.model, self.ema = model, ema
        several = optimizers if isinstance(optimizers, Sequence) else [optimizers]
        self.optimizers: list[torch.optim.Optimizer] = [getattr(one, "optimizer", one) for one in several]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves, not copies: what is written into one changes the training.

        Parameters that FSDP2 shards are DTensors, and so is all that has their shape; the rest is plain.

        Raises:
            InputError: the optimizer has parameters that are not the model's, or holds what is no tensor, or
                quantized tensors of sharded parameters.
            RuntimeError: the averages are in the model.
        """
        if self.ema is not None and self.ema.is_swapped:
            raise RuntimeError("the averages are in the model; leave swapped() before the state is taken")
        parameters = trainable_parameters(self.model)
        found: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in parameters.items()}
        if self.ema is not None:
            found |= {f"ema.{name}": average for name, average in self.ema.averages.items()}
        for optimizer in self.optimizers:
            for name, parameter in _optimized(optimizer, parameters).items():
                for key, value in optimizer.state.get(parameter, {}).items():
                    if value is not None:
                        found |= _flat(f"optimizer.{name}.{key}", value)
        return found

    def load(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint's tensors in place, bit for bit; every rank makes the call.

        The optimizer holds afterwards what it held when the checkpoint was written: also where it is new and holds
        nothing yet, or where it held nothing then.

        Args:
            checkpoint: what :meth:`~videodit.training.checkpoints.CheckpointStore.open` returns.

        Raises:
            InputError: names, shapes or dtypes differ between the checkpoint and this state.
        """
        held = set()
        for name in checkpoint.specs:
            if name.startswith("optimizer."):
                rest = name.removeprefix("optimizer.")
                held |= {rest.rsplit(".", 1)[0], rest.rsplit(".", 2)[0]}  # with a key, or with a key and a part
        for optimizer in self.optimizers:
            state, optimized = optimizer.state, _optimized(optimizer, trainable_parameters(self.model))
            for name, parameter in optimized.items():
                if name not in held:
                    state.pop(parameter, None)
            missing = [p for name, p in optimized.items() if name in held and not state.get(p)]
            if missing:
                _make_state(optimizer, missing)
        checkpoint.fill(self.tensors())


def _optimized(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The optimizer's parameters by name."""
    names = {id(p): name for name, p in parameters.items()}
    optimized = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    foreign = sum(id(p) not in names for p in optimized)
    if foreign:
        raise InputError(f"{foreign} of the optimizer's {len(optimized)} parameters are not the model's")
    return {names[id(p)]: p for p in optimized}


def _make_state(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Have the optimizer make its tensors for these parameters.

    No optimizer offers that by itself. A step with gradients of 0 and a learning rate of 0 does it for any kind
    and changes nothing else that stays: what it writes is overwritten by the checkpoint.
    """
    groups = optimizer.param_groups
    everything = [p for group in groups for p in group["params"]]
    gradients, rates = [p.grad for p in everything], [float(group["lr"]) for group in groups]
    chosen = {id(p) for p in parameters}
    for parameter in everything:
        parameter.grad = torch.zeros_like(parameter) if id(parameter) in chosen else None
    set_lr(optimizer, 0.0)
    try:
        optimizer.step()
    finally:
        for parameter, gradient in zip(everything, gradients, strict=True):
            parameter.grad = gradient
        for group, rate in zip(groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def _flat(name: str, value: object) -> dict[str, Tensor]:
    """A tensor, or the plain tensors that a quantized one consists of."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; of an optimizer's state only tensors can be saved")
    if isinstance(value, DTensor):
        if type(value.to_local()) is not Tensor:
            raise InputError(f"{name} is quantized and split over devices, which is not supported; use adamw")
        return {name: value}
    if not hasattr(value, "__tensor_flatten__"):
        return {name: value}
    parts, _ = value.__tensor_flatten__()
    return {f"{name}.{part}": getattr(value, part) for part in parts}
