"""Processes that read files one after the other: a file that hangs or crashes the decoder costs only itself.

A child is started once and answers one request after the other, since a start costs as much as many clips. Requests
and answers are lines of JSON over pipes. A child that overruns its time is killed and another one started.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

# The child imports from where this process imports. Python's own choice would put the current folder first, and in a
# checkout `datasets/` would hide Hugging Face's.
CODE = "import sys; sys.path[:] = sys.argv[1:]; from videodit.datasets.clips.inspect_clip import main; main()"
_START_LIMIT = 120.0  # seconds for Python's start and PyAV's import, on a busy machine and a slow disk


@dataclass(frozen=True)
class Job:
    """What a child is asked, and how many seconds it may be silent before it is given up."""

    request: dict[str, Any]
    limit: float


@dataclass(frozen=True)
class Answer:
    """What came of a job: a value, or the reason why there is none.

    Attributes:
        value: what the child found.
        reason: in words for a user.
        lasting: asking again would give the same.
        timed_out: there was no sign of life for as long as the job allows.
    """

    value: dict[str, Any] | None = None
    reason: str | None = None
    lasting: bool = True
    timed_out: bool = False


def ask_children(jobs: Sequence[Job], *, workers: int = 1) -> Generator[tuple[int, Answer], None, None]:
    """Answer every job, in the order in which the children finish.

    Close the generator (``contextlib.closing``) to stop early: the children are killed at once.

    Args:
        jobs: the requests.
        workers: how many children work at the same time.

    Yields:
        The job's place in ``jobs``, and its answer.

    Raises:
        ChildProcessError: a child does not start; the message holds what it printed.
    """
    pool = _Pool(jobs)
    threads = [threading.Thread(target=pool.work, daemon=True) for _ in range(min(workers, len(jobs)))]
    try:
        for thread in threads:
            thread.start()
        for _ in jobs:
            done = pool.done.get()
            if isinstance(done, BaseException):
                raise done
            yield done
    finally:
        pool.stop()
        for thread in threads:
            thread.join()


class _Died(Exception):
    """The child ended before it answered."""


class _Overran(Exception):
    """The child was silent for too long, and was killed."""


class _Child:
    """One process. Not thread-safe: each thread has its own."""

    def __init__(self) -> None:
        self.overran = False
        self.answered = 0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )

    def wait_until_ready(self) -> None:
        try:
            self._read(_START_LIMIT)
        except (_Died, _Overran):
            raise ChildProcessError(f"the process that reads clips does not start: {self._said()}") from None

    def ask(self, job: Job) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job.request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise _Died from None
        # An empty object is a sign of life in the middle of long work.
        while not (reply := self._read(job.limit)):
            pass
        self.answered += 1
        return reply

    def _read(self, limit: float) -> dict[str, Any]:
        # A timer that kills ends the wait on every system; waiting for a pipe with a limit does not.
        assert self._process.stdout is not None
        timer = threading.Timer(limit, self._overrun)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
            timer.join()
        if line.endswith("\n"):
            return json.loads(line)
        raise _Overran if self.overran else _Died

    def _overrun(self) -> None:
        self.overran = True
        self._process.kill()

    def last_words(self) -> str:
        """Why the process ended, for a user."""
        code = self._process.wait()
        if code == -9:
            return "was killed while it was read, perhaps for lack of memory"
        try:
            return f"crashed the decoder ({signal.Signals(-code).name})"
        except ValueError:  # it ended by itself, or this is Windows
            return f"crashed the decoder ({self._said()})"

    def _said(self) -> str:
        """The last line that the process printed to stderr."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            # What was written last cannot be flushed to a process that has ended.
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


class _Pool:
    """The jobs, and the children that are at work on them."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = iter(list(enumerate(jobs)))
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._stopped = False
        self.done: queue.SimpleQueue[tuple[int, Answer] | BaseException] = queue.SimpleQueue()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.kill()

    def work(self) -> None:
        """What a thread does: take jobs until there are none."""
        child: _Child | None = None
        try:
            while (taken := self._take()) is not None:
                index, job = taken
                child, answer = self._answer(child, job)
                self.done.put((index, answer))
        except BaseException as error:  # raised again where the answers are awaited
            self.done.put(error)
        finally:
            if child is not None:
                self._end(child)

    def _take(self) -> tuple[int, Job] | None:
        with self._lock:
            return None if self._stopped else next(self._jobs, None)

    def _answer(self, child: _Child | None, job: Job) -> tuple[_Child | None, Answer]:
        """The answer, and the child if it lives on."""
        while True:
            child = child or self._start()
            fresh = child.answered == 0
            try:
                reply = child.ask(job)
            except _Overran:
                self._end(child)
                return None, Answer(reason=f"timed out after {job.limit:.3g} s", timed_out=True)
            except _Died:
                words = child.last_words()
                self._end(child)
                child = None
                # The file before may have damaged the process: this one gets a second chance in a process of its own.
                if fresh or self._stopped:
                    return None, Answer(reason=words, lasting=False)
                continue
            if child.overran:  # killed in the moment in which it answered
                self._end(child)
                child = None
            return child, Answer(reply.get("value"), reply.get("reason"), reply.get("lasting", True))

    def _start(self) -> _Child:
        with self._lock:
            if self._stopped:
                raise ChildProcessError("stopped")
            child = _Child()
            self._children.add(child)
        try:
            child.wait_until_ready()
        except BaseException:
            self._end(child)
            raise
        return child

    def _end(self, child: _Child) -> None:
        with self._lock:
            self._children.discard(child)
        child.close()
