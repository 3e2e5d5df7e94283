"""Start a command in several processes that train together, by accelerate's launcher, or by torch's on a CPU.

The launcher runs in a thread of this process, where it takes no signals for itself: they are passed on to the
processes, which save what was trained, and nothing is printed but what these say.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from videodit.cli.stopping import signals_call
from videodit.errors import InputError
from videodit.threads import VARIABLES, cores

GO_ON = "VIDEODIT_GO_ON"
"""The variable that tells the processes which command goes on with their work."""


def launch(words: Sequence[str], *, processes: int | None, accelerate_config: Path | None, go_on: str) -> int:
    """Run ``videodit`` with these words in several processes, and wait for all of them.

    Args:
        words: of the command line.
        processes: how many, on this machine; ``None`` for what accelerate's config says.
        accelerate_config: a file that ``accelerate config`` wrote.
        go_on: the command that goes on with this work when it was stopped.

    Returns:
        The exit code of the first process that failed, or 0.

    Raises:
        InputError: more processes than GPUs, or a config that accelerate cannot read.
    """
    work = _by_accelerate(words, processes, accelerate_config) or _by_torch(words, processes or 1)
    codes: list[int | BaseException] = []
    thread = threading.Thread(target=lambda: codes.append(_code_of(work)), name="launcher", daemon=True)
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # what failed says so itself
    with _environment(**{GO_ON: go_on}), signals_call(_pass_on):
        thread.start()
        thread.join()
    (code,) = codes
    if isinstance(code, BaseException):
        raise code
    return code


def _by_accelerate(words: Sequence[str], processes: int | None, config: Path | None) -> Callable[[], object] | None:
    """The call of accelerate's launcher; ``None`` where there are no GPUs, for which it starts one process."""
    import torch

    from videodit._diffusers import launch_command, launch_command_parser, load_config_from_file

    flags: list[str] = []
    if config is None:
        found = torch.accelerator.device_count() if torch.accelerator.is_available() and not _wants_cpu() else 0
        if found == 0:
            return None
        if processes is not None and processes > found:
            kind = torch.accelerator.current_accelerator()
            raise InputError(f"--processes is {processes}, and this machine has {found} devices of {kind}")
        flags += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    elif not config.is_file():
        raise InputError(f"--accelerate-config is {str(config)!r}, which is not a file; `accelerate config` writes one")
    else:
        try:
            kind = load_config_from_file(str(config)).distributed_type
        except Exception as error:  # of any kind: it is a stranger's file
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"--accelerate-config: accelerate cannot read {str(config)!r}: {reason}") from None
        flags += ["--config_file", str(config)]
        if kind == "NO" and (processes or 1) > 1:
            flags += ["--multi_gpu"]
    if processes is not None:
        flags += ["--num_processes", str(processes)]
    arguments = launch_command_parser().parse_args([*flags, "-m", "videodit", *words])
    return lambda: launch_command(arguments)


def _wants_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def _by_torch(words: Sequence[str], processes: int) -> Callable[[], object]:
    """The call of torch's launcher, whose processes share the CPU's cores."""
    from torch.distributed.run import parse_args, run

    arguments = parse_args(["--standalone", "--nproc-per-node", str(processes), "-m", "videodit", *words])

    def work() -> None:
        chosen = any(os.environ.get(name) for name in VARIABLES)
        threads = {} if chosen else {VARIABLES[0]: str(max(1, cores() // processes))}
        with _environment(ACCELERATE_USE_CPU="true", **threads):
            run(arguments)

    return work


def _code_of(work: Callable[[], object]) -> int | BaseException:
    """The exit code of the processes, or an error of the launcher's own."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        work()
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
    except subprocess.CalledProcessError as error:
        code = error.returncode
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except ValueError as error:  # what accelerate's settings do not allow
        return InputError(f"accelerate: {error}")
    except BaseException as error:
        return error
    else:
        return 0
    return 128 - code if code < 0 else code


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _pass_on(number: int) -> None:
    """Send a signal to the processes that this one started."""
    import psutil

    for child in psutil.Process().children():
        # A terminal sends Ctrl-C to those of its own group itself.
        if number != signal.SIGINT or sys.platform == "win32" or os.getpgid(child.pid) != os.getpgrp():
            child.send_signal(number)
