"""`videodit train --ray N`: the processes of a training on the nodes of a Ray cluster, by Ray Train.

Each worker of Ray runs the command that :mod:`videodit.cli.launching` runs on one machine, with the variables that
accelerate reads. What they say is shown here, and signals to this process reach all of them.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videodit.cli.common import note, printable
from videodit.cli.launching import GO_ON
from videodit.cli.stopping import kept_of_training, newest_checkpoint, signals_call
from videodit.errors import InputError, InternalError, Stopped
from videodit.on_ray import start_ray
from videodit.threads import VARIABLES

_PASSED = ("ACCELERATE_", "FSDP_", "HF_", "NCCL_", "VIDEODIT_", *VARIABLES)
"""Variables of this process's environment that the workers get: those that begin so."""
_TRIES = 3  # without a new checkpoint in between
_PATIENCE = 3  # signals, of which the last one waits for nobody
_LOOK = 0.3  # seconds between two looks at what the workers say


def train_on_ray(words: Sequence[str], *, workers: int, resume: str | None, output: Path, go_on: str) -> int:
    """Run ``videodit`` with these words in so many workers of a cluster, and wait for all of them.

    Where a worker is lost, with its node or without, all begin again at the newest checkpoint.

    Args:
        words: of the command line, without ``--resume``.
        workers: how many train together.
        resume: see :func:`videodit.cli.train.train`.
        output: folder of the run, which all nodes see at the same path, as they see the current folder.
        go_on: the command that goes on with this work when it was stopped.

    Returns:
        The exit code of the first worker that failed, or 0.

    Raises:
        InputError: Ray is not installed, cannot be reached, or has too few devices.
        InternalError: workers were lost again and again, and no new checkpoint came in between.
        Stopped: this process was stopped before any worker began, or it was asked to stop three times.
    """
    start_ray()
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # what there is to say is said here
    resources = resources_of_each(workers, _nodes())
    environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)} | {GO_ON: go_on}
    if "GPU" not in resources:
        environment["ACCELERATE_USE_CPU"] = "true"
        if not any(os.environ.get(name) for name in VARIABLES):
            environment[VARIABLES[0]] = str(int(resources["CPU"]))
    fruitless, lost = 0, False
    signals = list[int]()
    with signals_call(signals.append):
        while True:
            before = newest_checkpoint(output)
            again = "latest" if lost and before is not None else resume
            job = {
                "words": [*words, *([] if again is None else ["--resume", again])],
                "environment": environment,
                "folder": os.getcwd(),
            }
            attempt = _Attempt(workers)
            _run(attempt, job, resources, output, signals, go_on)
            lost = attempt.is_lost
            stopped = attempt.stopped_by(signals)
            if not lost or signals:
                attempt.show_what_was_held(errors=not stopped)
                return 128 + signals[0] if lost or stopped else attempt.code
            newest = newest_checkpoint(output)
            fruitless = fruitless + 1 if newest == before else 1
            if fruitless == _TRIES:
                raise InternalError(
                    f"workers were lost {_TRIES} times, and no new checkpoint came in between: {attempt.reason}; "
                    f"go on with: {go_on}"
                )
            note(f"a worker was lost ({attempt.reason}); going on from {newest or 'the start'}")


def resources_of_each(workers: int, nodes: Sequence[dict[str, float]]) -> dict[str, float]:
    """What a worker takes of its node: a GPU where there are any, else an even share of the CPUs.

    Args:
        workers: how many.
        nodes: ``"GPU"`` and ``"CPU"`` of each node.

    Raises:
        InputError: more workers than that.
    """
    kind = "GPU" if any(node.get("GPU", 0) >= 1 for node in nodes) else "CPU"
    counts = [int(node.get(kind, 0)) for node in nodes]
    if workers > sum(counts):
        there = f"{sum(counts)} {kind}{'' if sum(counts) == 1 else 's'}"
        raise InputError(f"--ray is {workers}, and the cluster has {there}; valid values are 1 to {sum(counts)}")
    if kind == "GPU":
        return {"CPU": 1, "GPU": 1}
    share = max(one for one in range(1, max(counts) + 1) if sum(count // one for count in counts) >= workers)
    return {"CPU": share}


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass
class _Attempt:
    """What is known of the workers that train together, until all have ended or one is lost.

    Attributes:
        workers: how many.
        begun: whether any of them did.
        codes: exit codes of those that ended by themselves, by rank.
        ended: ranks of those that ended at all.
        held: lines of results and errors. They count only if nobody was lost, which the others take for an error.
        failure: what Ray says.
    """

    workers: int
    begun: bool = False
    codes: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    held: list[tuple[str, str]] = field(default_factory=list)
    failure: str | None = None

    @property
    def is_lost(self) -> bool:
        """Whether a worker ended otherwise than by its own will."""
        return len(self.ended) < self.workers or any(code < 0 for code in self.codes.values())

    @property
    def code(self) -> int:
        """That of the first of them that failed."""
        return next((code for _, code in sorted(self.codes.items()) if code > 0), 0)

    @property
    def reason(self) -> str:
        """Why it is lost, as far as that is known."""
        killed = [f"signal {-code} ended worker {rank}" for rank, code in sorted(self.codes.items()) if code < 0]
        return next(iter(killed), self.failure or "Ray does not say why")

    def stopped_by(self, signals: Sequence[int]) -> bool:
        """Whether one of them stopped as it was asked to. What fails in the others then is that it has left them."""
        return any(128 + number in self.codes.values() for number in signals)

    def take(self, told: Sequence[tuple[str, Any]]) -> None:
        """Note what the workers sent, and show what they do."""
        for kind, what in told:
            if kind == "begun":
                self.begun = True
            elif kind == "ended":
                rank, code, asked = what
                self.ended.add(rank)
                if not asked:
                    self.codes[rank] = code
            elif kind == "stdout" or what.startswith("error: "):
                self.held.append((kind, what))
            else:
                print(printable(what), file=sys.stderr, flush=True)

    def show_what_was_held(self, *, errors: bool = True) -> None:
        """Show each line once; those of errors if they count."""
        for kind, line in dict.fromkeys(self.held):
            if kind == "stdout" or errors:
                print(printable(line), file=sys.stdout if kind == "stdout" else sys.stderr, flush=True)


def _run(
    attempt: _Attempt,
    job: dict[str, Any],
    resources: dict[str, float],
    output: Path,
    signals: Sequence[int],
    go_on: str,
) -> None:
    """Have Ray's workers run, until all ended or one is lost."""
    import ray

    from videodit.cli.ray_trainers import begin_post, fit

    post = begin_post()
    failed: list[str] = []
    scratch = output.absolute() / ".ray"

    def work() -> None:
        try:
            fit(job | {"post": post}, attempt.workers, resources, scratch)
        except Exception as error:  # of any kind: it is told with what the workers said
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            failed.append(lines[-1] if lines else type(error).__name__)

    thread = threading.Thread(target=work, name="ray", daemon=True)
    thread.start()
    sent = 0
    try:
        while True:
            over = not thread.is_alive()
            attempt.take(ray.get(post.take.remote()))
            if over:
                break
            for number in signals[sent:]:
                sent += 1
                if not attempt.begun or sent >= _PATIENCE:
                    ray.shutdown()
                    raise Stopped(number, f"stopped: {kept_of_training(output)}; go on with: {go_on}")
                post.stop.remote(number)
            thread.join(_LOOK)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    attempt.failure = next(iter(failed), None)
    ray.kill(post)
