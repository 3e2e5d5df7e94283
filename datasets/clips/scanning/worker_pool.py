"""A pool of worker processes that read files: a file that hangs or crashes the decoder costs only itself.

A worker is started once and answers one request after the other, since a start costs as much as many clips. Requests
and replies are lines of JSON over pipes. A worker that overruns its time is killed and another one started.
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

from videodit.datasets.clips.scanning.messages import ClipRequest, FileCuts, FileFeatures, Reply

# The worker imports from where this process imports. Python's own choice would put the current folder first, and in a
# checkout `datasets/` would hide Hugging Face's.
WORKER_CODE = "import sys; sys.path[:] = sys.argv[1:]; from videodit.datasets.clips.scanning.worker import main; main()"
_START_LIMIT = 120.0  # seconds for Python's start and PyAV's import, on a busy machine and a slow disk


@dataclass(frozen=True)
class Job:
    """A request, and how many seconds the worker may be silent before it is killed."""

    request: ClipRequest
    limit: float


@dataclass(frozen=True)
class JobResult:
    """The result of a job: a value, or the reason why there is none.

    Attributes:
        value: what the task returned.
        reason: in words for a user.
        lasting: asking again would give the same.
        timed_out: there was no sign of life for as long as the job allows.
    """

    value: FileFeatures | FileCuts | None = None
    reason: str | None = None
    lasting: bool = True
    timed_out: bool = False


def run_jobs(jobs: Sequence[Job], *, workers: int = 1) -> Generator[tuple[int, JobResult], None, None]:
    """Run every job, and yield the results in the order in which the workers finish.

    Close the generator (``contextlib.closing``) to stop early: the workers are killed at once.

    Args:
        jobs: the requests.
        workers: how many processes work at the same time.

    Yields:
        The job's index in ``jobs``, and its result.

    Raises:
        ChildProcessError: a worker does not start; the message holds what it printed.
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


class JobRunner:
    """Runs one job after the other in a process of its own, which lives until :meth:`close`."""

    def __init__(self) -> None:
        self._pool = _Pool([])
        self._worker: _Worker | None = None

    def run(self, job: Job) -> JobResult:
        """The result of a job.

        Raises:
            ChildProcessError: no process can be started; the message holds what it printed.
        """
        self._worker, result = self._pool.run(self._worker, job)
        return result

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._pool.end(self._worker)
            self._worker = None


class _WorkerDied(Exception):
    """The worker ended before it answered."""


class _TimedOut(Exception):
    """The worker was silent for too long, and was killed."""


class _Worker:
    """One process. Not thread-safe: each thread has its own."""

    def __init__(self) -> None:
        self.timed_out = False
        self.answered = 0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER_CODE, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )

    def wait_until_ready(self) -> None:
        try:
            self._read(_START_LIMIT)
        except (_WorkerDied, _TimedOut):
            raise ChildProcessError(f"the process that reads clips does not start: {self._last_error_line()}") from None

    def ask(self, job: Job) -> Reply:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job.request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise _WorkerDied from None
        # An empty object is a sign of life in the middle of long work.
        while not (reply := self._read(job.limit)):
            pass
        self.answered += 1
        return reply

    def _read(self, limit: float) -> Reply:
        # A timer that kills ends the wait on every system; waiting for a pipe with a limit does not.
        assert self._process.stdout is not None
        timer = threading.Timer(limit, self._time_out)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
            timer.join()
        if line.endswith("\n"):
            reply: Reply = json.loads(line)
            return reply
        raise _TimedOut if self.timed_out else _WorkerDied

    def _time_out(self) -> None:
        self.timed_out = True
        self._process.kill()

    def exit_reason(self) -> str:
        """Why the process ended, for a user."""
        code = self._process.wait()
        if code == -9:
            return "was killed while it was read, perhaps for lack of memory"
        try:
            return f"crashed the decoder ({signal.Signals(-code).name})"
        except ValueError:  # it ended by itself, or this is Windows
            return f"crashed the decoder ({self._last_error_line()})"

    def _last_error_line(self) -> str:
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
    """The jobs, and the workers that run them."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = iter(list(enumerate(jobs)))
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._stopped = False
        self.done: queue.SimpleQueue[tuple[int, JobResult] | BaseException] = queue.SimpleQueue()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for worker in self._workers:
                worker.kill()

    def work(self) -> None:
        """Take jobs until there are none, in a thread of its own."""
        worker: _Worker | None = None
        try:
            while (taken := self._take()) is not None:
                index, job = taken
                worker, result = self.run(worker, job)
                self.done.put((index, result))
        except BaseException as error:  # raised again where the results are awaited
            self.done.put(error)
        finally:
            if worker is not None:
                self.end(worker)

    def _take(self) -> tuple[int, Job] | None:
        with self._lock:
            return None if self._stopped else next(self._jobs, None)

    def run(self, worker: _Worker | None, job: Job) -> tuple[_Worker | None, JobResult]:
        """The result, and the worker if it lives on."""
        while True:
            worker = worker or self._start()
            fresh = worker.answered == 0
            try:
                reply = worker.ask(job)
            except _TimedOut:
                self.end(worker)
                return None, JobResult(reason=f"timed out after {job.limit:.3g} s", timed_out=True)
            except _WorkerDied:
                reason = worker.exit_reason()
                self.end(worker)
                worker = None
                # The file before may have damaged the process: this one gets a second chance in a process of its own.
                if fresh or self._stopped:
                    return None, JobResult(reason=reason, lasting=False)
                continue
            if worker.timed_out:  # killed in the moment in which it answered
                self.end(worker)
                worker = None
            return worker, JobResult(reply.get("value"), reply.get("reason"), reply.get("lasting", True))

    def _start(self) -> _Worker:
        with self._lock:
            if self._stopped:
                raise ChildProcessError("stopped")
            worker = _Worker()
            self._workers.add(worker)
        try:
            worker.wait_until_ready()
        except BaseException:
            self.end(worker)
            raise
        return worker

    def end(self, worker: _Worker) -> None:
        """End a worker."""
        with self._lock:
            self._workers.discard(worker)
        worker.close()
