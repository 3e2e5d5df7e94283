"""The loop that the trained stages share: it logs, validates, saves, stops on a signal and resumes."""

from __future__ import annotations

import json
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mini.processes import RANK, WORLD, agree, average
from videodit.errors import Stopped
from videodit.files import replacing, write_whole
from videodit.hardware import compute_dtype
from videodit.training.checkpoints import Checkpoint, CheckpointStore
from videodit.training.log import read_log
from videodit.training.signals import StopSignals
from videodit.training.state import Ema, TrainingState


class Step(NamedTuple):
    """What one step of training did, in one process.

    Attributes:
        metrics: single numbers, left on the device: to read one at every step would make the processor wait.
        clips: how many clips it saw.
        flops: of forward and backward; see :mod:`mini.flops`.
    """

    metrics: dict[str, Tensor]
    clips: int
    flops: float


class Progress:
    """Means and rates since the last line of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self.clips, self.flops, self.seconds = 0, 0.0, 0.0

    def add(self, done: Step, norm: Tensor, seconds: float) -> None:
        """Take in a step that lasted so many seconds."""
        for name, value in (done.metrics | {"grad_norm": norm}).items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] += 1
        self.clips, self.flops, self.seconds = self.clips + done.clips, self.flops + done.flops, self.seconds + seconds

    def row(self) -> dict[str, float]:
        """Clips and floating point operations a second over all processes, and the means of this one's metrics."""
        rates = {
            "samples_per_second": round(self.clips * WORLD / self.seconds, 1),
            "tflops": round(self.flops * WORLD / self.seconds / 1e12, 4),
        }
        return rates | {name: round(total.item() / self.counts[name], 5) for name, total in self.sums.items()}


class Averages(Ema):
    """Averages that are the parameters after the first step, and from then on a step behind :class:`Ema`'s warm-up."""

    def decay_at(self, step: int) -> float:
        """The decay of the update after a step, counted from 1."""
        return super().decay_at(step - 1) if step > 1 else 0.0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters; rounded as it was for the weights that are published."""
        averages = list(self.averages.values())
        away = torch._foreach_sub(averages, list(self.parameters.values()))
        torch._foreach_sub_(averages, away, alpha=1 - self.decay_at(step))


class Trainer:
    """Runs ``step`` until the time or the steps are used up; logs, validates, saves, stops on a signal and resumes.

    Args:
        folder: where the stage keeps its state, its best weights and its log.
        modules: what is trained, by name.
        optimizers: their optimizers.
        minutes: training time of all starts together, validation included.
        steps: how many steps to train in place of the minutes.
        warmup_steps: steps over which learning rates rise.
        cooldown: last share of time or steps over which they fall to zero, linearly.
        ema_decay: decay of the averaged weights, which later stages use.
        seed: seed of everything random; step ``n`` of process ``r`` draws from ``seed + n·processes + r``.
        validate: is called in every process, with the averaged weights in the modules; returns rates from 0 to 1 by
            name in the first process, ``adherence`` among them, by which the best weights are chosen, or nothing
            where there is nothing to measure with.
        validate_minutes: time between two calls of it; there is one more at the end.
        measured_by: hashes, by name, of what ``validate`` measures with. Best weights that were chosen with anything
            else do not count.

    Raises:
        SystemExit: the folder holds the state of networks of other sizes.
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
        steps: int | None = None,
        warmup_steps: int = 50,
        cooldown: float = 0.5,
        ema_decay: float = 0.998,
        seed: int = 0,
        validate: Callable[[], dict[str, float]] | None = None,
        validate_minutes: float = 1.0,
        measured_by: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.modules, self.optimizers = folder, modules, optimizers
        self.minutes, self.steps, self.seed = minutes, steps, seed
        self.warmup_steps, self.cooldown = warmup_steps, cooldown
        self.validate, self.validate_seconds = validate, validate_minutes * 60
        self.measured_by = measured_by or {}
        together = nn.ModuleDict(modules)
        self.ema = Averages(together, decay=ema_decay)
        self.state = TrainingState(together, optimizers, self.ema)
        self.store = CheckpointStore(folder / "checkpoints", keep=1)
        self.base_lr = [[g["lr"] for g in o.param_groups] for o in optimizers]
        self.step, self.seconds = 0, 0.0
        self.validated_step, self.validated_seconds = 0, 0.0
        self.adherence: float | None = None
        self.signals = StopSignals()
        folder.mkdir(parents=True, exist_ok=True)
        self.store.clear_leftovers()
        if (latest := self.store.latest()) is not None:
            self._load(self.store.open(latest))
        self._cut_log()
        if (folder / "best.safetensors").is_file() and self.best() is None:
            self.validated_step, self.adherence = 0, None
            if not RANK:
                names = " or ".join(self.measured_by)
                print(f"{folder / 'best.safetensors'} was chosen with another {names}: it does not count", flush=True)

    # ---- the loop

    def run(self, train_step: Callable[[torch.Generator], Step]) -> None:
        """Train until the time or the steps are used up.

        Raises:
            Stopped: SIGTERM, SIGINT or SIGHUP came, and the state was saved.
        """
        with self.signals:
            stopped = self._loop(train_step)
            if not stopped and self.validate is not None and self.validated_step < self.step:
                self._validate()
                _, stopped = agree(self.seconds, self.signals.number is not None)
            self.save()
        if stopped:
            message = f"{self.folder.name} stopped at step {self.step}; the same command goes on from there"
            raise Stopped(self.signals.number or signal.SIGTERM, message)

    def _loop(self, train_step: Callable[[torch.Generator], Step]) -> bool:
        """Train until the time or the steps are used up, False, or somebody wants it to stop, True."""
        for module in self.modules.values():
            module.train()
        logged = start = time.monotonic()
        before, stop, progress = self.seconds, False, Progress()
        saved = before
        while self.done < 1 and not stop:
            begun = time.monotonic()
            generator = torch.Generator().manual_seed(self.seed + self.batch_index)
            torch.manual_seed(self.seed + self.batch_index)
            self._set_lr()
            done = train_step(generator)
            norm = self._update()
            self.step += 1
            progress.add(done, norm, time.monotonic() - begun)
            self.seconds, stop = agree(before + time.monotonic() - start, self.signals.number is not None)
            if self.seconds - self.validated_seconds > self.validate_seconds and self.validate is not None and not stop:
                self._validate()
                self.seconds, stop = agree(before + time.monotonic() - start, self.signals.number is not None)
                self.validated_seconds = self.seconds  # from its end, or a long one would follow every step
                saved = float("-inf")  # best weights and the state that knows of them belong together
            if time.monotonic() - logged > self.seconds_between_logs and not RANK:
                self._log(progress.row())
                logged, progress = time.monotonic(), Progress()
            if self.seconds - saved > self.seconds_between_saves:  # the first process's, so that all save together
                self.save()
                saved = self.seconds
        if progress.clips and not RANK:
            self._log(progress.row())
        return stop

    def _update(self) -> Tensor:
        """Average, clip and apply the gradients; the norm that they had."""
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        average([p.grad for p in parameters if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.step + 1)
        return norm

    @property
    def batch_index(self) -> int:
        """Counts batches over all steps and processes."""
        return self.step * WORLD + RANK

    @property
    def done(self) -> float:
        """The share of time or steps that is behind it; a run of no time is done at once."""
        if self.steps is not None:
            return self.step / self.steps
        return self.seconds / (self.minutes * 60) if self.minutes else 1.0

    def _set_lr(self) -> None:
        factor = min(1.0, (self.step + 1) / self.warmup_steps, max(1 - self.done, 0.0) / self.cooldown)
        for optimizer, base in zip(self.optimizers, self.base_lr, strict=True):
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * factor

    # ---- what is measured

    @torch.no_grad()
    def _validate(self) -> None:
        """Measure the averaged weights; keep them if none before did better."""
        assert self.validate is not None
        self.save()  # whoever wants it to stop may not wait until it is over
        with self.ema.swapped():
            for module in self.modules.values():
                module.eval()
            rates = self.validate()
            self.validated_step = self.step
            if rates and not RANK:
                self.adherence = rates["adherence"]
                self._write({"kind": "validation"} | self._when() | rates)
                if self.adherence >= (self.best() or 0.0):
                    self._save_best(self.adherence)
        for module in self.modules.values():
            module.train()

    def best(self) -> float | None:
        """The best adherence so far, or ``None`` before the first that was measured as now."""
        if not (self.folder / "best.safetensors").is_file():
            return None
        with safe_open(self.folder / "best.safetensors", framework="pt") as file:
            about = file.metadata()
        return float(about["adherence"]) if about.items() >= self.measured_by.items() else None

    def _save_best(self, adherence: float) -> None:
        tensors = {
            f"{name}.{key}": value.to("cpu", torch.bfloat16, copy=True).contiguous()
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }
        about = {"adherence": repr(adherence), "step": str(self.step)} | self.measured_by
        with replacing(self.folder / "best.safetensors") as partial:
            save_file(tensors, partial, metadata=about)

    def use_ema(self) -> None:
        """Put the averaged weights into the modules, to stay there."""
        with torch.no_grad():
            for name, parameter in self.ema.parameters.items():
                parameter.copy_(self.ema.averages[name])
        for module in self.modules.values():
            module.eval()

    def use_best(self) -> str:
        """Put the averaged weights of the best validation into the modules, or the last where there was none.

        Returns:
            Which weights these are, in words.
        """
        self.use_ema()
        if (best := self.best()) is None:
            return f"the last weights, of step {self.step}: nothing was validated"
        with safe_open(self.folder / "best.safetensors", framework="pt") as file:
            step = file.metadata()["step"]
            for name, module in self.modules.items():
                module.load_state_dict({key: file.get_tensor(f"{name}.{key}") for key in module.state_dict()})
        return f"the best validated weights, of step {step} of {self.step}, adherence {best:.3f}"

    # ---- the log

    def _when(self) -> dict[str, float]:
        return {"step": self.step, "seconds": round(self.seconds, 1)}

    def _log(self, row: dict[str, float]) -> None:
        known = {} if self.adherence is None else {"adherence": self.adherence}
        self._write({"kind": "train"} | self._when() | row | known)

    def _write(self, row: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        left = max(0.0, self.minutes - self.seconds / 60)
        told = f"{left:.1f} min left" if self.steps is None else f"of {self.steps} steps"
        print("  ".join(f"{k} {v}" for k, v in row.items()), f" {told}", flush=True)

    def _cut_log(self) -> None:
        """Drop what was logged after the state was saved: those steps come again."""
        log = self.folder / "log.jsonl"
        if log.is_file() and not RANK:
            rows = [row for row in read_log(log) if row["step"] <= self.step]
            write_whole(log, "".join(json.dumps(row) + "\n" for row in rows).encode())

    # ---- the state

    def save(self) -> None:
        """Write a checkpoint, then remove the one before; every process makes the call."""
        about = {
            "seconds": self.seconds,
            "validated": [self.validated_step, self.validated_seconds, self.adherence],
        }
        self.store.save(self.step, self.state.tensors(), about)

    def _load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            SystemExit: it is of other networks; nothing of it is loaded then.
        """
        here = {
            name: tuple(tensor.shape)
            for name, tensor in self.state.tensors().items()
            if not name.startswith("optimizer.")
        }
        there = {name: spec.shape for name, spec in checkpoint.specs.items() if not name.startswith("optimizer.")}
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                raise SystemExit(
                    f"{self.folder} holds a run of another preset or seed: {key} is {there.get(key)} there and "
                    f"{here.get(key)} here; give another --out"
                )
        self.state.load(checkpoint)
        self.step, self.seconds = checkpoint.step, checkpoint.about["seconds"]
        self.validated_step, self.validated_seconds, self.adherence = checkpoint.about["validated"]
        if not RANK:
            print(f"resuming {self.folder.name} at step {self.step}, {self.seconds / 60:.1f} min", flush=True)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 arithmetic over fp32 weights, where the device has it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute_dtype(device) is torch.bfloat16)
