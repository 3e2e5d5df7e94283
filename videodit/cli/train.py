"""`videodit train`: fine-tune a model. `examples/finetune.py` is the same, for accelerate's own launcher."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videodit.cli import results
from videodit.cli.common import count_of, note, printable, quiet_libraries, quiet_torchao
from videodit.cli.flags import DryRun, integer
from videodit.cli.launching import GO_ON
from videodit.cli.results import emit
from videodit.cli.stopping import when_stopped
from videodit.cli.training_display import TrainingDisplay, is_first_process, show_training
from videodit.errors import InputError, Stopped

if TYPE_CHECKING:
    from videodit.training.config import TrainingConfig

LESS = "train.batch_size, or train.checkpointing=true"


def train(
    config: Annotated[str, typer.Argument(metavar="PRESET|FILE.yaml", help="A config that comes along, or a file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Values over the config's, such as train.steps=500 output=run."),
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
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a model on clips that `videodit data encode` has encoded: a LoRA, or all of it.

    The presets are mini-lora, wan-1.3b-lora and wan-5b-lora. Ctrl-C saves a checkpoint, and --resume latest goes on.
    """
    written = overrides or []
    several = processes is not None or accelerate_config is not None
    if processes is not None and processes < 1:
        raise InputError(f"--processes is {processes}; it must be at least 1")
    if several and "LOCAL_RANK" in os.environ:
        raise InputError("this process was started by a launcher, which says how many there are: leave --processes out")
    if not several or (processes == 1 and accelerate_config is None) or print_config or dry_run:
        train_here(config, written, resume=resume, print_config=print_config, dry_run=dry_run)
        return
    from videodit.cli.launching import launch

    checked(config, written)  # said once, and not by each process
    words = ["train", config, *written, *([] if resume is None else ["--resume", resume])]
    now = results.current()
    words += ["--json"] * now.as_json + ["--quiet"] * now.quiet
    note(f"starting {'the processes' if processes is None else count_of(processes, 'process')}")
    results.use(results.Results(quiet=True))  # from here on the first of them speaks
    code = launch(words, processes=processes, accelerate_config=accelerate_config, go_on=_command_to_go_on())
    if code > 128:
        raise Stopped(code - 128)
    if code:
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
) -> None:
    """Train in this process, which may be one of several; or print the config, or what would be done.

    Raises:
        InputError: a config, cache, model or checkpoint that does not fit.
        Stopped: somebody asked for an end: the message says what is kept and how to go on.
    """
    if print_config:
        from videodit.training.config import load_config

        whole = load_config(config, overrides)
        emit("training_config", config=whole.model_dump(mode="json"))
        print(whole.to_yaml(), end="")
        return
    with show_training() as display:
        display.stage("reading the config")
        settings = checked(config, overrides)
        try:
            with when_stopped(lambda: _kept(settings)):
                _train(settings, resume, display, dry_run=dry_run)
        except Stopped as stop:
            if is_first_process():
                raise Stopped(stop.number, f"{stop}; {_how_to_go_on()}") from stop
            raise Stopped(stop.number) from stop


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
    trainer = Trainer(config, resume=resume, display=display)
    trainer.run()
    if is_first_process():
        emit("training", output=config.output, steps=trainer.step, files=trainer.written)


def _kept(config: TrainingConfig) -> str:
    """What there is of a run that was stopped at once."""
    checkpoints = sorted(path.parent for path in (config.output / "checkpoints").glob("step-*/checkpoint.json"))
    return f"{checkpoints[-1]} is kept" if checkpoints else "nothing was trained yet"


def _how_to_go_on() -> str:
    """What to type in order to go on."""
    if GO_ON in os.environ:
        return f"go on with: {os.environ[GO_ON]}"
    if (
        "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    ):  # of a launcher, whose flags are unknown
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
