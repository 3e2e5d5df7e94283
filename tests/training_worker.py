"""What test_training_checkpoints runs in processes of its own.

``torchrun training_worker.py several FOLDER`` trains, saves and loads with FSDP2 and DDP and writes what it saw into
``FOLDER/seen.json``; ``python training_worker.py kill FOLDER`` has saves killed at every moment.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videodit import VideoDiT
from videodit.training import checkpoints, shards
from videodit.training.checkpoints import CheckpointStore
from videodit.training.optimizers import clip_grad_norm, make_optimizer
from videodit.training.state import Ema, TrainingState

GRID = (1, 2, 2)


class Run(NamedTuple):
    """What is trained; ``model`` is wrapped, ``losses`` are of every step so far."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema
    losses: list[float]
    norms: list[float]

    @property
    def state(self) -> TrainingState:
        return TrainingState(self.model, self.optimizer, self.ema)

    def train(self, *steps: int, rank: int = 0, world: int = 1) -> None:
        """Steps of two samples in all, which are functions of the step."""
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            latents, text = torch.randn(2, 4, 1, 4, 4, generator=generator), torch.randn(2, 3, 8, generator=generator)
            mine = slice(rank * 2 // world, (rank + 1) * 2 // world)
            out = self.model(latents[mine], torch.full((2,), 500.0)[mine], text[mine]).sample
            loss = (out - latents[mine]).square().mean()
            loss.backward()
            self.norms.append(float(clip_grad_norm(self.model.parameters(), 1.0)))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.ema.update(step)
            self.losses.append(loss.item())


def make_model(seed: int) -> VideoDiT:
    """A tiny transformer; some of its parameters cannot be split evenly, one not at all."""
    torch.manual_seed(seed)
    model = VideoDiT(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        text_dim=8,
        ffn_dim=63,
        num_layers=2,
        rope=None,
        position_embedding="learned",
        learned_grid=GRID,
        learned_text=3,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def make_run(seed: int, wrap: Any = lambda model: model, kind: Any = "adamw") -> Run:
    """A model of random weights that the wrapper got, and a fresh optimizer."""
    model = wrap(make_model(seed))
    optimizer = make_optimizer(kind, model.named_parameters(), lr=1e-2, weight_decay=0.1)
    return Run(model, optimizer, Ema(model, decay=0.9), [], [])


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without their splits, in memory of their own."""
    plain = {name: t.full_tensor() if hasattr(t, "full_tensor") else t for name, t in tensors.items()}
    return {name: t.detach().clone().contiguous() for name, t in plain.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether names, dtypes and bits are the same."""
    return one.keys() == other.keys() and all(
        t.dtype == other[name].dtype and t.shape == other[name].shape and torch.equal(t, other[name])
        for name, t in one.items()
    )


def shard(model: VideoDiT) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return model


def distribute(folder: Path) -> None:
    """FSDP2 and DDP: save here for a load by one process, and load what one process saved."""
    from torch import distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    seen: dict[str, Any] = {"world": world}
    for name, wrap in (("fsdp", shard), ("ddp", DistributedDataParallel)):
        run = make_run(0, wrap)
        run.train(1, 2, rank=rank, world=world)
        state = whole(run.state.tensors())
        store = CheckpointStore(folder / name, keep=2)
        saved = store.save(2, run.state.tensors(), {"by": name})
        if rank == 0:
            save_file(state, folder / f"{name}.safetensors")
        run.train(3, rank=rank, world=world)
        losses, after = run.losses[-1], whole(run.state.tensors())

        again = make_run(1, wrap)
        again.state.load(store.open(saved))
        loaded = same(whole(again.state.tensors()), state)
        again.train(3, rank=rank, world=world)
        resumed = again.losses[-1] == losses and same(whole(again.state.tensors()), after)

        with torch.no_grad():  # after it the root of FSDP2 keeps its parameters whole
            again.model(torch.zeros(1, 4, 1, 4, 4), torch.zeros(1), torch.zeros(1, 3, 8))
        other = CheckpointStore(folder / "single", keep=1)
        again.state.load(other.open(other.latest()))
        from_single = same(whole(again.state.tensors()), load_file(folder / "single.safetensors"))
        seen[name] = {
            "loaded": loaded,
            "resumed": resumed,
            "from_single": from_single,
            "differing": other.open(other.latest()).differing(again.state.tensors()),
            "norms": run.norms,
            "averages": swaps(again),
            "errors": errors(store, run, rank),
        }
    seen["quantized"] = refusal()
    both: list[Any] = [None, None]
    dist.all_gather_object(both, seen)
    if rank == 0:
        (folder / "seen.json").write_text(json.dumps(both))
    dist.destroy_process_group()


def swaps(run: Run) -> list[bool]:
    """Whether validation sees the averages, and whether the parameters come back."""
    clip = torch.ones(1, 4, 1, 4, 4), torch.full((1,), 300.0), torch.ones(1, 3, 8)
    with torch.no_grad():
        before = run.model(*clip).sample
        with run.ema.swapped():
            inside = run.model(*clip).sample
        after = run.model(*clip).sample
        averages = {name.removeprefix("ema."): t for name, t in whole(run.state.tensors()).items() if "ema." in name}
        expected = torch.func.functional_call(make_model(2), averages, clip).sample
    return [torch.equal(inside, expected), torch.equal(before, after), not torch.equal(before, inside)]


def errors(store: CheckpointStore, run: Run, rank: int) -> list[str]:
    """What a rank is told when one rank finds the disk full, or its device lost."""

    def no_room(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def broken(*_: Any) -> Any:
        raise RuntimeError("the device is lost")

    told = []
    sharded = any(hasattr(t, "full_tensor") for t in run.state.tensors().values())
    writer = 1 if sharded else 0  # of DDP the first rank writes alone
    for failing in (no_room, broken):
        patched = failing if rank == writer else shards.write_tensors
        with mock.patch.object(checkpoints, "write_tensors", patched):
            try:
                store.save(3, run.state.tensors(), {})
            except (OSError, RuntimeError) as error:
                told.append(f"{type(error).__name__}: {error}")
    return told


def refusal() -> str:
    try:
        make_optimizer("adamw8bit", shard(make_model(0)).named_parameters(), lr=1e-3)
    except ValueError as error:
        return str(error)
    return ""


def kill(folder: Path) -> None:
    """Kill a save before each of the things that it does to the disk; see that a whole checkpoint is there."""
    torch.set_num_threads(1)
    seen = []
    for moment in range(100):
        store = CheckpointStore(folder / f"{moment:02d}", keep=1)
        store.save(1, {"model.x": torch.full((3,), 1.0), "ema.x": torch.zeros(3)}, {"at": 1})
        child = os.fork()
        if child == 0:
            save_until(store, moment)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        left = sorted(path.name for path in store.folder.iterdir())
        store.clear_leftovers()  # as at the next start
        x = torch.zeros(3)
        latest = store.latest()
        about = None if latest is None else store.load(latest, {"model.x": x, "ema.x": torch.ones(3)})
        seen.append(
            {
                "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
                "left": left,
                "about": about,
                "x": x.tolist(),
                "cleared": sorted(path.name for path in store.folder.iterdir()),
            }
        )
        if not seen[-1]["killed"]:
            break
    (folder / "seen.json").write_text(json.dumps(seen))


def save_until(store: CheckpointStore, moment: int) -> None:
    """Save steps 1 (again) and 2, but die before a certain call."""
    counted = -1

    def before(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal counted
            counted += 1
            if counted == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    with (
        mock.patch.object(os, "fsync", before(os.fsync)),
        mock.patch.object(os, "unlink", before(os.unlink)),
        mock.patch.object(shutil, "rmtree", before(shutil.rmtree)),
        mock.patch.object(Path, "rename", before(Path.rename)),
        mock.patch.object(Path, "mkdir", before(Path.mkdir)),
    ):
        for step in (1, 2):
            tensors = {"model.x": torch.full((3,), float(step)), "ema.x": torch.zeros(3)}
            store.save(step, tensors, {"at": step})


if __name__ == "__main__":
    {"several": distribute, "kill": kill}[sys.argv[1]](Path(sys.argv[2]))
