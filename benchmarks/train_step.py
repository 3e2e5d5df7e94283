"""A training step of a Wan-1.3B-shaped transformer with random weights, beside diffusers' own class.

    python benchmarks/train_step.py --json train_step.json
    python benchmarks/train_step.py --method full --checkpointing full --compile
    python benchmarks/train_step.py --device cpu --tiny

Clips of 832x480, 81 frames: latents of 16x21x60x104, 32,760 tokens, and 512 tokens of text. A step is what the trainer
does: forward under bf16 autocast, backward, clipping, AdamW. Full fine-tuning has fp32 weights; a LoRA of rank 32 has
fp32 adapters on bf16 weights. Both classes have the same weights, live in one process and take turns. diffusers' has no
selective checkpointing: where ours keeps attention's output, its own recomputes all. No network is needed.

Shown is the median of the rounds, with the fastest and the slowest; model TFLOP/s (`videodit/training/flops.py`; what
checkpointing computes again does not count) and their share of what the device reaches in its fastest matrix product;
and the peak memory that a class needs, without what the other one holds. A case that does not fit is named and skipped,
and each takes ``--seconds`` at most, once it has warmed up. The JSON is written after each.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videodit.cli.boundary import run as run_command
from videodit.cli.common import quiet_torchao
from videodit.files import write_whole

METHODS = ("full", "lora")
KINDS = ("none", "full", "selective")
TOLERANCE = 0.02
"""Between the first losses of the two classes, relative; bf16 explains less."""


class Shape(NamedTuple):
    """Of the transformer, as diffusers' config has it, and of what goes in."""

    config: dict[str, Any]
    latents: tuple[int, int, int]
    text_tokens: int


WAN = Shape({"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}, (21, 60, 104), 512)
TINY = Shape(
    {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "ffn_dim": 64, "text_dim": 32},
    (3, 8, 8),
    16,
)


@dataclass
class Side:
    """One of the two classes, with its optimizer and what was measured."""

    name: str
    model: Any
    optimizer: torch.optim.Optimizer
    seconds: list[float] = field(default_factory=list)
    loss: float = 0.0
    peak: int = 0
    fits: bool = True

    def begin(self, kind: str) -> None:
        """Forget what was measured, and compute activations again in the way of a case."""
        from videodit.training.model import set_checkpointing

        self.seconds, self.loss, self.peak, self.fits = [], 0.0, 0, True
        self.model.disable_gradient_checkpointing()
        set_checkpointing(self.model, kind)

    def step(self, batch: dict[str, Tensor], device: torch.device) -> tuple[float, float]:
        """One step to its end: its loss and its seconds."""
        from videodit.training.optimizers import clip_grad_norm

        wait(device)
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            noisy = 0.5 * batch["clean"] + 0.5 * batch["noise"]
            out = self.model(noisy.bfloat16(), batch["timestep"], batch["text"], return_dict=False)[0]
            loss = (out.float() - (batch["noise"] - batch["clean"])).square().mean()
        loss.backward()
        clip_grad_norm([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        wait(device)
        return loss.item(), time.perf_counter() - started

    @property
    def held(self) -> int:
        """Bytes that it holds between steps."""
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        tensors = [*self.model.parameters(), *self.model.buffers(), *filter(torch.is_tensor, state)]
        return sum(tensor.nbytes for tensor in tensors)


# ---- what is measured --------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def narrow(model: Any) -> None:
    """Weights in bf16, as a pipeline loads them: but for what the class wants in fp32."""
    kept = set(model._keep_in_fp32_modules)
    for name, parameter in model.named_parameters():
        if not kept & set(name.split(".")):
            parameter.data = parameter.data.bfloat16()


def make_sides(method: str, shape: Shape, args: argparse.Namespace, device: torch.device) -> list[Side]:
    """Both classes with the same random weights, ours first."""
    from videodit.families.parity import MEMBERS, Member, randomize
    from videodit.training.config import Method
    from videodit.training.model import make_trainable
    from videodit.training.optimizers import make_optimizer

    torch.manual_seed(args.seed)
    member = Member("wan", shape.config, MEMBERS["wan"].call)
    with torch.device(device):
        theirs = randomize(member.theirs())
        ours = member.ours(theirs)
    how = Method(kind="lora", rank=args.rank) if method == "lora" else Method(kind="full")
    sides = []
    for name, model in (("videodit", ours), ("diffusers", theirs)):
        if method == "lora":
            narrow(model)
        make_trainable(model, how, seed=args.seed)
        model.to(device).train()
        if args.attention is not None:
            model.set_attention_backend(args.attention)
        if args.compile:
            model.compile_repeated_blocks(dynamic=False)
        optimizer = make_optimizer("adamw", model.named_parameters(), lr=1e-5, weight_decay=0.01)
        sides.append(Side(name, model, optimizer))
    return sides


def make_batch(shape: Shape, side: Side, *, seed: int, device: torch.device) -> dict[str, Tensor]:
    """One clip at the noise level in the middle."""
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 1, side.model.config.in_channels, *shape.latents, generator=generator)
    text = torch.randn(1, shape.text_tokens, side.model.config.text_dim, generator=generator).bfloat16()
    batch = {"clean": clean, "noise": noise, "text": text, "timestep": torch.tensor([500.0])}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def attempt(side: Side, batch: dict[str, Tensor], device: torch.device) -> tuple[float, float] | None:
    """A step; ``None``, and what is left of it cleared away, if the device has not the memory for it."""
    try:
        return side.step(batch, device)
    except torch.OutOfMemoryError:
        side.fits = False
    # outside the handler, which holds on to the tensors of the forward
    side.optimizer.zero_grad(set_to_none=True)
    release(device)
    return None


def warm(sides: Sequence[Side], batch: dict[str, Tensor], device: torch.device) -> None:
    """The first steps of each: its first loss, its peak memory, and whether it fits at all."""
    for side in sides:
        others = sum(other.held for other in sides if other is not side)
        first = attempt(side, batch, device)  # which also makes the optimizer's state
        if first is None:
            continue
        side.loss = first[0]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        attempt(side, batch, device)
        if device.type == "cuda":
            side.peak = torch.cuda.max_memory_allocated(device) - others


def release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure(
    sides: Sequence[Side], batch: dict[str, Tensor], kind: str, *, rounds: int, seconds: float, device: torch.device
) -> None:
    """Time one case: the sides take turns until the rounds are done or the time is up.

    Raises:
        SystemExit: their losses are not those of the same network.
    """
    for side in sides:
        # diffusers' class keeps nothing of a block but its input
        side.begin("full" if side.name == "diffusers" and kind == "selective" else kind)
    warm(sides, batch, device)
    first = [side.loss for side in sides if side.fits]
    # A later case starts from weights that the steps before have moved, in each class by its own rounding.
    if len(first) == 2 and abs(first[0] - first[1]) > TOLERANCE * abs(first[1]):
        raise SystemExit(f"error: the losses of the two classes are {first[0]} and {first[1]}: not the same network")
    begin = time.perf_counter()
    for turn in range(rounds):
        if turn and time.perf_counter() - begin > seconds:
            break
        for side in sides if turn % 2 == 0 else sides[::-1]:
            if side.fits and (done := attempt(side, batch, device)) is not None:
                side.seconds.append(done[1])


def records_of(sides: Sequence[Side], method: str, kind: str, *, flops: int, peak: float) -> list[dict[str, Any]]:
    """What is told of a case."""
    from videodit.training.flops import mfu

    records = []
    for side in sides:
        record: dict[str, Any] = {"method": method, "checkpointing": kind, "class": side.name, "fits": side.fits}
        if side.fits:
            median = statistics.median(side.seconds)
            record |= {
                "seconds": median,
                "fastest": min(side.seconds),
                "slowest": max(side.seconds),
                "rounds": len(side.seconds),
                "tflops": flops / median / 1e12,
                "share_of_peak": mfu(flops, median, peak),
                "peak_memory_gb": side.peak / 1e9 or None,
                "first_loss": side.loss,
            }
        records.append(record)
    return records


# ---- the command -------------------------------------------------------------------------------------

HEAD = ("method", "checkpointing", "class", "step s", "fastest", "slowest", "TFLOP/s", "of peak", "GB")


def line(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:{max(9, len(name))}}" for cell, name in zip(cells, HEAD, strict=True)).rstrip()


def told(record: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [record["method"], record["checkpointing"], record["class"]]
    if not record["fits"]:
        return line([*cells, *[""] * (len(HEAD) - 3)]).rstrip() + "  does not fit in memory beside the other"
    memory = record["peak_memory_gb"]
    cells += [f"{record[name]:.3f}" for name in ("seconds", "fastest", "slowest")]
    cells += [f"{record['tflops']:.4g}", f"{100 * record['share_of_peak']:.1f} %"]
    return line([*cells, "-" if memory is None else f"{memory:.2f}"])


def run(args: argparse.Namespace, device: torch.device) -> None:
    """All cases, each printed and written when it is done."""
    from videodit.training.flops import matmul_peak, training_flops

    shape = TINY if args.tiny else WAN
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    peak = matmul_peak(device, torch.bfloat16)
    print(f"{name}, torch {torch.__version__}, matrix products reach {peak / 1e12:.4g} TFLOP/s in bf16")
    print(line(HEAD))
    settings = {key: getattr(args, key) for key in ("tiny", "rank", "attention", "compile", "rounds", "seed")}
    settings |= {"device": name, "torch": torch.__version__, "latents": shape.latents, "matmul_tflops": peak / 1e12}
    records: list[dict[str, Any]] = []
    for method in args.method:
        sides = make_sides(method, shape, args, device)
        flops = training_flops(sides[0].model, shape.latents, text_tokens=shape.text_tokens)
        batch = make_batch(shape, sides[0], seed=args.seed, device=device)
        for kind in args.checkpointing:
            measure(sides, batch, kind, rounds=args.rounds, seconds=args.seconds, device=device)
            new = records_of(sides, method, kind, flops=flops, peak=peak)
            for record in new:
                print(told(record), flush=True)
            records += new
            if args.json is not None:
                content = json.dumps({"settings": settings, "records": records}, indent=2) + "\n"
                write_whole(args.json, content.encode())
            release(device)
        del sides
        release(device)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=METHODS, help="default: all")
    parser.add_argument("--checkpointing", nargs="+", choices=KINDS, default=KINDS, help="default: all")
    parser.add_argument("--rank", type=int, default=32, help="of the LoRA; default: 32")
    parser.add_argument("--attention", help="a backend of diffusers for both; default: torch's choice")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of both")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=60, help="of a case at most; default: 60")
    parser.add_argument("--device", help="default: the fastest that is here")
    parser.add_argument("--tiny", action="store_true", help="a toy of the same kind, for a try on a CPU")
    parser.add_argument("--seed", type=int, default=0, help="of weights, latents and text; default: 0")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(arguments)
    for name in ("rank", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; it must be at least 1")
    if not args.seconds > 0:
        parser.error(f"--seconds is {args.seconds}; it must be above 0")
    quiet_torchao()
    from videodit.hardware import parse_device

    try:
        device = torch.device(parse_device(args.device))
        if device.type == "cpu" and not args.tiny:
            parser.error("a CPU takes hours for these; give --tiny, or --device of a GPU")
        with warnings.catch_warnings():
            # diffusers' norms of queries and keys, whose fp32 weights meet bf16
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
            run(args, device)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(run_command(main))
