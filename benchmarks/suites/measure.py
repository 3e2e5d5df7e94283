"""How a case is measured: its sides take turns in one process, and each says what it costs and what came out of it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

Row = dict[str, Any]
Call = Callable[[int], Any]

_NO_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How backends say it that do not raise OutOfMemoryError."""


class Case(NamedTuple):
    """Something to be measured.

    Attributes:
        name: of the case, by which it can be picked.
        run: measures it; a row for each side.
    """

    name: str
    run: Callable[[], list[Row]]


@dataclass
class Bench:
    """Where and how long a suite measures.

    Attributes:
        device: that computes.
        seconds: of a case's rounds at most; the round that is going on then is finished.
        rounds: of a case at most.
        tiny: toy sizes, to try everything out.
        seed: of weights and inputs.
    """

    device: torch.device
    seconds: float = 8.0
    rounds: int = 30
    tiny: bool = False
    seed: int = 0
    peaks: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def peak(self, dtype: torch.dtype) -> float:
        """FLOP/s of the fastest matrix product in a dtype, measured once in a run."""
        name = dtype_name(dtype)
        if name not in self.peaks:
            from videodit.training.flops import matmul_peak

            self.peaks[name] = matmul_peak(self.device, dtype, seconds=0.05 if self.tiny else 0.5)
        return self.peaks[name]

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


@dataclass
class Side:
    """One of those that are compared.

    Attributes:
        name: who it is and what it does.
        call: does it once; gets the number of the round, below 0 while warming up, and gives what is compared.
        weights: bytes that it stands on, which are there before the call.
        before: what has to be set before each call; not timed.
        facts: more to tell in its row, when all is done.
        kept: what is compared of what the call gives.
        refused: why it cannot run, if that is known already.
    """

    name: str
    call: Call
    weights: int = 0
    before: Callable[[], object] = lambda: None
    facts: Callable[[], Row] = dict
    kept: Callable[[Any], Any] = lambda output: output
    refused: str | None = None
    failed: bool = False
    output: Tensor | None = None
    peak: int | None = None
    seconds: dict[int, float] = field(default_factory=dict)  # by round
    cpu: list[float] = field(default_factory=list)


# ---- what may go wrong -------------------------------------------------------------------------------


def refusal(error: BaseException) -> str | None:
    """What to say of an error that is this machine's and not the program's, or None."""
    text = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in text for words in _NO_MEMORY):
        return "does not fit in memory"
    return f"not installed: {text}" if isinstance(error, ImportError) else None


def in_one_line(error: BaseException) -> str:
    """An error's kind and the beginning of its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def attempt(side: Side, turn: int) -> Any:
    """Call a side; after an error, which it keeps in words, everything that the call left is cleared away."""
    try:
        return side.call(turn)
    except Exception as error:
        side.refused = refusal(error)
        if side.refused is None:
            side.refused, side.failed = in_one_line(error), True
    # outside the handler, which holds on to the tensors of the call
    release()
    return None


def release() -> None:
    """Give back memory that nothing needs any more, as far as that can be done."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---- memory ------------------------------------------------------------------------------------------


def _status(name: str) -> int:
    """A size that Linux tells of this process, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


class MemoryRise:
    """How far memory rises while something goes on: a GPU's exactly; of a CPU the pages in use, on Linux."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.bytes: int | None = None

    def __enter__(self) -> MemoryRise:
        self._known = True
        if self.bench.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.bench.device)
            self._before = torch.cuda.memory_allocated(self.bench.device)
            return self
        try:
            with contextlib.suppress(AttributeError):  # a C library other than GNU's
                ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
            self._before = _status("VmRSS")
        except OSError:
            self._known = False
        return self

    def __exit__(self, *error: object) -> None:
        if self.bench.on_gpu:
            self.bytes = torch.cuda.max_memory_allocated(self.bench.device) - self._before
        elif self._known:
            self.bytes = max(0, _status("VmHWM") - self._before)


# ---- the turns ---------------------------------------------------------------------------------------


def compare(
    bench: Bench,
    sides: Sequence[Side],
    *,
    dtype: torch.dtype | None = None,
    flops: int | None = None,
    baseline: str = "diffusers",
    reference: Tensor | None = None,
    warm_ups: int = 2,
) -> list[Row]:
    """Measure sides against each other.

    Each is called a few times to warm up; what the first call gives is compared, and the last one's memory counts. Then
    they take turns, in the other direction every second round.

    Args:
        bench: where and how long.
        sides: who; those that are refused get a row as well.
        dtype: what is computed in.
        flops: model FLOPs of a call.
        baseline: the beginning of the name of the side that the others are compared with; the first that fits counts.
        reference: the output in fp32.
        warm_ups: calls before anything is timed, at least 1.

    Returns:
        A row for each side, in order.
    """
    with torch.no_grad():
        for side in sides:
            _warm(bench, side, warm_ups)
        begin = time.perf_counter()
        for turn in range(bench.rounds):
            if turn and time.perf_counter() - begin > bench.seconds:
                break
            for side in sides if turn % 2 == 0 else sides[::-1]:
                if side.refused is None:
                    _timed(bench, side, turn)
    base = next((side for side in sides if side.name.startswith(baseline)), None)
    return [_row(bench, side, base, dtype=dtype, flops=flops, reference=reference) for side in sides]


def _warm(bench: Bench, side: Side, calls: int) -> None:
    """Call a side a few times; keep the first output, and the memory of the last call."""
    for turn in range(-calls, 0):
        if side.refused is not None:
            return
        side.before()
        if turn == -1:
            release()
        with MemoryRise(bench) as rise:
            output = attempt(side, turn)
            bench.wait()
        if turn == -calls and side.refused is None:
            side.output = side.kept(output)
        side.peak = None if rise.bytes is None else side.weights + rise.bytes


def _timed(bench: Bench, side: Side, turn: int) -> None:
    """One call to its end."""
    side.before()
    bench.wait()
    started, cpu = time.perf_counter(), time.process_time()
    attempt(side, turn)
    bench.wait()
    if side.refused is None:
        side.seconds[turn] = time.perf_counter() - started
        side.cpu.append(time.process_time() - cpu)


def _row(
    bench: Bench,
    side: Side,
    base: Side | None,
    *,
    dtype: torch.dtype | None,
    flops: int | None,
    reference: Tensor | None,
) -> Row:
    row: Row = {"side": side.name, "dtype": None if dtype is None else dtype_name(dtype)}
    if side.refused is not None or not side.seconds:
        return row | {"note": side.refused, "failed": side.failed}
    row |= spread(list(side.seconds.values())) | {"cpu_seconds": statistics.median(side.cpu)}
    if base is not None and base is not side and base.seconds:
        row["times"] = statistics.median(base.seconds[i] / side.seconds[i] for i in side.seconds if i in base.seconds)
    if flops is not None:
        row["tflops"] = flops / row["seconds"] / 1e12
        if dtype is not None:
            row["share_of_peak"] = flops / row["seconds"] / bench.peak(dtype)
    row["peak_memory_gb"] = None if side.peak is None else side.peak / 1e9
    if base is not None and base is not side and base.output is not None and side.output is not None:
        row["difference"] = largest(side.output, base.output)
    if reference is not None and side.output is not None:
        row["error"] = rms(side.output, reference)
    return row | side.facts()  # which may know better


# ---- numbers -----------------------------------------------------------------------------------------


def spread(seconds: Sequence[float]) -> Row:
    """The middle and the ends of some times."""
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "rounds": len(seconds),
    }


def largest(one: Tensor, other: Tensor) -> float:
    """The largest difference, in parts of the other's largest value."""
    one, other = one.float(), other.float()
    return float((one - other).abs().max() / other.abs().max())


def rms(one: Tensor, other: Tensor) -> float:
    """The difference's root mean square, in parts of the other's."""
    one, other = one.float(), other.float()
    return float((one - other).square().mean().sqrt() / other.square().mean().sqrt())


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def weights_of(*modules: Any) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers()))


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """No TF32 meanwhile, which convolutions take by themselves."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
