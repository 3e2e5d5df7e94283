"""Work on many items by the nodes of a Ray cluster: what `--ray` of the commands stands on.

The items are Ray Data's blocks of a few; each actor holds what the work needs, such as a model. Ray keeps no more
blocks in flight than there is room for, and does those of a node that is lost again, elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from videodit.errors import InputError, InternalError, ModelError, OutOfMemory, VideoDiTError
from videodit.json_types import JsonObject

_BLOCKS = 4  # for each actor at least, so that all end at about the same time
_ERRORS = {kind.__name__: kind for kind in (InputError, ModelError, OutOfMemory, InternalError)}

Work = Callable[[int], bytes]
"""What an actor does with the item of a number."""


def start_ray() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names or that runs on this machine, or start one here.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise InputError('--ray needs Ray: pip install "videodit[ray]"') from None
    if ray.is_initialized():
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = os.environ.get("RAY_ADDRESS", "of this machine")
        raise InputError(f"cannot reach the Ray cluster {where}: {str(error).splitlines()[0]}") from error


def devices() -> int:
    """How many GPUs the cluster has, or without any how many CPUs."""
    import ray

    there = ray.cluster_resources()
    return max(1, int(there.get("GPU", 0) or there.get("CPU", 1)))


def map_on_ray(
    count: int,
    begin: Callable[[], Work],
    *,
    actors: int | None = None,
    block: int = 16,
    gpu: bool = False,
    name: str = "work",
) -> Iterator[tuple[int, bytes]]:
    """Do something with each item, and yield what came of it, in the items' order.

    Args:
        count: of the items.
        begin: called once in each actor; returns what it does with an item. It goes there by cloudpickle, with what it
            refers to.
        actors: at most so many; left out: one for each GPU or CPU.
        block: items that an actor takes at once, and does again if its node is lost; fewer where there are few items.
        gpu: an actor needs a GPU of its own, if the cluster has any.
        name: of the work, as Ray shows it.

    Raises:
        VideoDiTError: the one that the work raised.
        InternalError: the work ended with another error, or the cluster did.
    """
    start_ray()
    import ray
    from ray.data import ActorPoolStrategy, DataContext, from_items

    if count == 0:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    most = actors or devices()
    blocks = max(math.ceil(count / block), min(count, _BLOCKS * most))
    with_gpu = gpu and bool(ray.cluster_resources().get("GPU"))
    data = from_items([{"item": number} for number in range(count)], override_num_blocks=blocks)
    done = data.map(
        _Actor,
        fn_constructor_args=(begin, os.getcwd()),
        compute=ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=1,
        num_gpus=1 if with_gpu else None,
    )
    done.set_name(name) if hasattr(done, "set_name") else None
    try:
        for row in done.iter_rows():
            if row["error"]:
                raise _ERRORS.get(row["error"], InternalError)(row["said"])
            yield int(row["item"]), bytes(row["made"])
    except VideoDiTError:
        raise
    except ray.exceptions.RayError as error:
        last = [line for line in str(error).splitlines() if line.strip()]
        raise InternalError(f"Ray could not do it: {last[-1] if last else type(error).__name__}") from error


class _Actor:
    """Holds what the work needs. Its errors are results, so that Ray does not take them for a node's."""

    def __init__(self, begin: Callable[[], Work], folder: str) -> None:
        self._begin = begin
        self._work: Work | None = None
        self._folder = folder  # from which relative paths are read

    def __call__(self, row: JsonObject) -> dict[str, Any]:
        said = {"item": row["item"], "made": b"", "error": "", "said": ""}
        try:
            if self._work is None:
                os.chdir(self._folder)
                self._work = self._begin()
            return said | {"made": self._work(row["item"])}
        except VideoDiTError as error:
            return said | {"error": type(error).__name__, "said": str(error)}
        except Exception as error:
            traceback.print_exc()
            return said | {"error": "InternalError", "said": f"{type(error).__name__}: {error}"}


@contextlib.contextmanager
def same_threads(count: int) -> Iterator[None]:
    """Compute with so many threads: sums in another order have other bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
