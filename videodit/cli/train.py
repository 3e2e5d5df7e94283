"""`videodit train`: fine-tune a model. `examples/finetune.py` is the same, for accelerate's own launcher."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videodit.cli import results
from videodit.cli.boundary import as_known, exit_code_of
from videodit.cli.common import note, printable, quiet_libraries, quiet_torchao
from videodit.cli.flags import DryRun, integer
from videodit.cli.launching import GO_ON
from videodit.cli.results import emit
from videodit.cli.stopping import kept_of_training, when_stopped
from videodit.cli.training_display import TrainingDisplay, is_first_process, show_training
from videodit.errors import InputError, OutOfMemory, Stopped

if TYPE_CHECKING:
    from videodit.training.config import TrainingConfig

_LESS = "train.batch_size=1 with more train.accumulation, or train.checkpointing=full"
_PATIENCE = 3.0
"""Seconds that a process waits with an error which the first one has, too, most probably."""


def train(
    config: Annotated[str, typer.Argument(metavar="PRESET|FILE.yaml", help="A config that comes along, or a file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values over the config's, such as train.steps=500 output=run."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="latest|FOLDER", help="Go on from a checkpoint of the run; latest also starts a new one."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole config, and train nothing.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(parser=integer, metavar="N", help="How many train together: GPUs, or parts of a CPU."),
    ] = None,
    accelerate_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `accelerate config` wrote, such as for FSDP or several machines."),
    ] = None,
    ray: Annotated[
        int | None,
        typer.Option(parser=integer, metavar="N", help="How many workers of a Ray cluster train together."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a model on clips that `videodit data encode` has encoded: a LoRA, or all of it.

    The presets are mini-lora, wan-1.3b-lora and wan-5b-lora. Ctrl-C saves a checkpoint, and --resume latest goes on.
    """
    written = overrides or []
    for name, count in (("--processes", processes), ("--ray", ray)):
        if count is not None and count < 1:
            raise InputError(f"{name} is {count}; it must be at least 1")
    several = processes is not None or accelerate_config is not None
    if several and ray is not None:
        other = "--processes" if processes is not None else "--accelerate-config"
        raise InputError(f"{other} cannot be used together with --ray")
    several = several or ray is not None
    if several and "LOCAL_RANK" in os.environ:
        name = "--processes" if ray is None else "--ray"
        raise InputError(f"this process was started by a launcher, which says how many there are: leave {name} out")
    alone = processes == 1 and accelerate_config is None
    if not several or alone or print_config or dry_run:
        if code := train_here(config, written, resume=resume, print_config=print_config, dry_run=dry_run):
            raise typer.Exit(code)
        return
    output = checked(config, written).output  # said once, and not by each process
    words = [*["--debug"] * ("--debug" in sys.argv), "train", config, *written]
    now = results.current()
    flags = ["--json"] * now.as_json + ["--quiet"] * now.quiet
    if ray is not None:
        from videodit.cli.ray_training import train_on_ray

        words += flags
        code = train_on_ray(words, workers=ray, resume=resume, output=output, go_on=_command_to_go_on())
    else:
        from videodit.cli.launching import launch

        words += [*([] if resume is None else ["--resume", resume]), *flags]
        note(f"starting {processes or 'the'} processes{'' if processes else ' of the config'}")
        code = launch(words, processes=processes, accelerate_config=accelerate_config, go_on=_command_to_go_on())
    if code:
        results.use(results.Results(quiet=True))  # what there is to say was said by the first process
        raise typer.Exit(code)


def checked(config: str, overrides: Sequence[str]) -> TrainingConfig:
    """The config of a run whose folder can be written.

    Raises:
        InputError: it is wrong.
    """
    from videodit.training.config import load_config
    from videodit.training.folder import check_output

    found = load_config(config, overrides)
    check_output(found.output)  # before what takes long to load
    return found


def train_here(
    config: str, overrides: Sequence[str], *, resume: str | None, print_config: bool = False, dry_run: bool = False
) -> int:
    """Train in this process, which may be one of several; or print the config, or what would be done.

    Returns:
        The exit code: 0, or that of a stop where another process says what there is to say.

    Raises:
        InputError: a config, cache, model or checkpoint that does not fit.
        OutOfMemory: the message says what to reduce.
        Stopped: somebody asked for an end: the message says what is kept and how to go on.
    """
    if print_config:
        from videodit.training.config import load_config

        whole = load_config(config, overrides)
        emit("training_config", config=whole.model_dump(mode="json"))
        print(whole.to_yaml(), end="")
        return 0
    if not is_first_process():
        results.use(results.Results(quiet=True))
    with show_training() as display:
        settings = checked(config, overrides)
        try:
            with when_stopped(lambda: kept_of_training(settings.output)):
                _train(settings, resume, display, dry_run=dry_run)
        except Stopped as stop:
            if not is_first_process():
                return exit_code_of(stop)
            raise Stopped(stop.number, f"{stop}; {_how_to_go_on()}") from stop
        except Exception as error:
            if not is_first_process() and (code := _wait_to_be_stopped()):
                return code
            if isinstance(known := as_known(error, less=_LESS), OutOfMemory):
                raise known from error
            raise
    return 0


def _train(config: TrainingConfig, resume: str | None, display: TrainingDisplay, *, dry_run: bool) -> None:
    display.stage("loading the libraries")
    quiet_torchao()
    from videodit.importing import quick_imports

    with quick_imports():
        from videodit.training.inputs import Inputs

        if not dry_run:
            from videodit.training.trainer import Trainer
    quiet_libraries()
    if dry_run:
        inputs = Inputs.checked(config)
        for line in inputs.described():
            print(printable(line))
        emit("training_plan", output=config.output, steps=config.train.steps, **inputs.counted())
        return
    _note_devices(display)
    trainer = Trainer(config, resume=resume, display=display)
    trainer.run()
    if is_first_process():
        emit("training", output=config.output, steps=trainer.step, files=trainer.written)


def _note_devices(display: TrainingDisplay) -> None:
    """Say so where one process uses one of several GPUs."""
    import torch

    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 1
    if count > 1 and "WORLD_SIZE" not in os.environ:
        display.say(f"note: this uses one of {count} GPUs; --processes {count} uses all")


def _wait_to_be_stopped() -> int:
    """Let the first process tell of an error that all of them have: the launcher ends the others then.

    Returns:
        The exit code of that end; 0 where none came, so that the error is this process's own.
    """
    try:
        time.sleep(_PATIENCE)
    except KeyboardInterrupt as stop:
        return exit_code_of(stop)
    return 0


def _how_to_go_on() -> str:
    """What to type in order to go on."""
    if GO_ON in os.environ:
        return f"go on with: {os.environ[GO_ON]}"
    if {"LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys():  # of a launcher, whose flags are unknown
        return "the same command with --resume latest goes on"
    return f"go on with: {_command_to_go_on()}"


def _command_to_go_on() -> str:
    """This command, as it was typed, and from the latest checkpoint."""
    program, *words = sys.argv
    name = Path(program).name
    started = ["python", program] if name.endswith(".py") else [name]
    if name == "__main__.py":
        started = ["python", "-m", "videodit"]
    return shlex.join([*started, *_without_resume(words), "--resume", "latest"])


def _without_resume(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip or word.startswith("--resume="):
            skip = False
        elif word == "--resume":
            skip = True
        else:
            kept.append(word)
    return kept
