"""How many of torch's threads a run on a CPU gets.

Threads of OpenMP wait for each other, busily, at the end of every operation. Where other programs use the cores, too, a
small model is many times slower with several than with one. And sums are added up in another order by another number of
threads, so that frames differ in their last bits. So the number follows from the work and the cores alone, by a rule
that no measurement takes part in, and recipes tell it.
"""

from __future__ import annotations

import functools
import os
import reprlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from videodit.errors import InputError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Run = TypeVar("Run", bound=Callable[..., Any])

FLOPS_A_THREAD = 2**26
"""FLOPs of one linear layer of the transformer for each thread: a core's work of a millisecond or so, which is what
waiting costs where others use the machine."""
MAX_THREADS = 1024
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Of the environment: where one of them is set, the number of threads is the user's."""

_lock = threading.Lock()
_running: list[int] = []  # the numbers of all blocks of use_threads that go on at this moment
_outside = 1  # torch's number before the first of them
_inside = threading.local()  # whether this thread of Python is in one


def threads_for(tokens: int, width: int | None, clips: int = 1) -> int:
    """The number of threads that a run takes.

    One for each ``FLOPS_A_THREAD`` of ``2 · clips · tokens · width²``, the FLOPs of a square linear layer; at least
    one, and at most as many as torch has. All that torch has, where the user has chosen that number (see
    :func:`reason`), or the width is unknown.

    Args:
        tokens: that the transformer sees of a clip at once.
        width: of a token in it, heads by channels of a head.
        clips: that are made together.
    """
    here = torch_threads()
    if width is None or reason(here) is not None:
        return here
    return max(1, min(here, 2 * clips * tokens * width**2 // FLOPS_A_THREAD))


def check_threads(threads: object) -> None:
    """See that a number of threads is one.

    Raises:
        InputError: it is not.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise InputError(f"threads is {reprlib.repr(threads)}; it must be a whole number from 1 to {MAX_THREADS}")


def torch_threads() -> int:
    """The number of torch's threads outside of runs."""
    import torch

    with _lock:
        return _outside if _running and getattr(_inside, "block", False) else torch.get_num_threads()


def reason(threads: int) -> str | None:
    """By what the user has set torch's number of threads; ``None``: it is torch's own.

    Args:
        threads: torch's number. A call of ``torch.set_num_threads`` shows by a number other than that of the cores.
    """
    for name in VARIABLES:
        if os.environ.get(name):
            return name
    return None if threads in _core_counts() else "torch.set_num_threads"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _core_counts() -> set[int]:
    """What torch may take by itself: all cores, those that this process may use, or those that are no hyperthreads."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    physical = capabilities.get("num_physical_cores")
    return {cores(), os.cpu_count() or 1} | ({physical} if isinstance(physical, int) else set())


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Have torch compute with ``count`` threads inside the ``with`` block, and as before after it.

    Blocks may overlap in several threads of Python: the number from before the first of them comes back.
    """
    import torch

    global _outside
    outermost = not getattr(_inside, "block", False)
    with _lock:
        before = torch.get_num_threads()
        if not _running:
            _outside = before
        # A thread of Python that begins inside a block of another one's begins with the number of that one.
        after = _outside if outermost and before in _running else before
        _running.append(count)
    _inside.block = True
    try:
        if count != before:
            torch.set_num_threads(count)
        yield
    finally:
        with _lock:
            _running.remove(count)
        _inside.block = not outermost
        if torch.get_num_threads() != after:
            torch.set_num_threads(after)


def fixed_threads(run: Run) -> Run:
    """Decorate a pipeline's ``run(plan)``: on a CPU, it has the threads that its plan asks for."""

    @functools.wraps(run)
    def with_threads(pipe: Any, plan: Any, **options: Any) -> Any:
        device: torch.device = pipe._execution_device
        if device.type != "cpu" or not hasattr(plan, "request"):  # which the run itself refuses
            return run(pipe, plan, **options)
        count = plan.request.threads or threads_for(plan.forward_tokens, plan.spec.width, plan.videos)
        with use_threads(count):
            return run(pipe, plan, **options)

    return with_threads  # type: ignore[return-value]


def each_with_threads(parts: Iterator[T], count: int) -> Iterator[T]:
    """Yield ``parts``, each made with ``count`` threads; what is done between two of them has the caller's number."""
    nothing = object()
    while True:
        with use_threads(count):
            part = next(parts, nothing)
        if part is nothing:
            return
        yield part  # type: ignore[misc]
