"""The `videodit` command: its sub-commands, and what happens when one of them fails.

:mod:`videodit.cli.boundary` says which exit codes there are. Everything heavy (torch,
diffusers, av) is imported inside the commands, so that `videodit --help` answers at once.
"""

from __future__ import annotations

import functools
import gc
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

import videodit
from videodit.cli import results
from videodit.cli.boundary import EXIT_CODES, exit_code_of, run
from videodit.cli.calibrate import calibrate
from videodit.cli.common import note, quiet_torchao
from videodit.cli.config import app as config
from videodit.cli.control import app as control
from videodit.cli.convert import convert
from videodit.cli.data import app as data
from videodit.cli.doctor import doctor
from videodit.cli.edit import edit
from videodit.cli.extend import connect, extend
from videodit.cli.families import families
from videodit.cli.flags import Limit
from videodit.cli.generate import generate
from videodit.cli.info import info
from videodit.cli.remake import remake
from videodit.cli.remote_jobs import app as jobs
from videodit.cli.result_flags import Json, Quiet, with_result_flags
from videodit.cli.serve import app as serve
from videodit.cli.toybox import toybox
from videodit.cli.train import train
from videodit.cli.typed_names import named_as_typed
from videodit.cli.typer_commands import Command, Group, PastTyper
from videodit.cli.ui import ui
from videodit.errors import InputError, Stopped

# The base of everything typer says about a command line; older versions keep it in another package.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", re.DOTALL)

app = typer.Typer(
    name="videodit",
    cls=Group,
    help="Video diffusion transformers: make clips from sentences.",
    invoke_without_command=True,
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
)
for _command in (generate, edit, extend, connect):
    app.command(cls=Command)(with_result_flags(named_as_typed(_command), files=True, takes=True))
app.command(cls=Command)(with_result_flags(named_as_typed(remake), files=True))
for _command in (info, convert, families, train, toybox, calibrate, doctor, ui):
    app.command(cls=Command)(with_result_flags(named_as_typed(_command)))
app.add_typer(data)
app.add_typer(config)
app.add_typer(control)
app.add_typer(serve)
app.add_typer(jobs)


@dataclass
class _Settings:
    """What the flags before the sub-command say."""

    debug: bool = False


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"videodit {videodit.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    results.begin(as_json=as_json or results.current().as_json, quiet=quiet)
    context.ensure_object(_Settings).debug = debug
    if context.invoked_subcommand is None:
        print(context.get_help())


class _NoteHandler(logging.Handler):
    """Turn the library's warnings into notes like the commands' own."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (the process's own if None) and return the exit code."""
    settings = _Settings()
    written = sys.argv[1:] if arguments is None else list(arguments)
    results.begin(as_json="--json" in written[: written.index("--")] if "--" in written else "--json" in written)
    code = run(lambda: _main(written, settings), debug=lambda: settings.debug, failed=results.emit_error)
    if arguments is None:  # the process ends: let its last collection not walk through all that was imported
        gc.freeze()
    return code


def _main(arguments: list[str], settings: _Settings) -> int:
    _prepare_streams()
    quiet_torchao()
    handler = _NoteHandler(logging.WARNING)
    # These warn of nothing that the commands have not announced before they start.
    handler.addFilter(lambda record: not record.name.startswith(("videodit.pipelines", "videodit.animations.rate")))
    logging.getLogger("videodit").addHandler(handler)
    try:
        code = _commands()(args=arguments, prog_name="videodit", standalone_mode=False, obj=settings)
        return code if isinstance(code, int) else 0
    except PastTyper as error:
        if str(error.stop):
            raise error.stop from None
        raise Stopped(exit_code_of(error.stop) - 128, "stopped") from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    except _UsageError as error:
        raise InputError(_usage_message(error)) from error
    finally:
        logging.getLogger("videodit").removeHandler(handler)


@functools.cache
def _commands() -> Callable[..., object]:
    """What typer makes of :data:`app`, once a process."""
    return typer.main.get_command(app)


def _usage_message(error: Any) -> str:
    """What typer says of a command line, and what was probably meant."""
    context, message = error.ctx, error.format_message().rstrip(".")
    command = "videodit" if context is None else context.command_path
    see = f"see `{command} --help`"
    if (extra := _EXTRA.fullmatch(message)) is not None:
        takes_prompt = any(parameter.name == "prompt" for parameter in context.command.params)
        words = f"{context.params.get('prompt') or ''} {extra[1]}".split()
        if takes_prompt:
            return f'the words {extra[1]!r} are outside of the prompt; put it in quotes: "{" ".join(words)}" ({see})'
        return f"{extra[1]!r} is more than `{command}` takes ({see})"
    if message.startswith("No such command") and "Did you mean" not in message:
        legal = ", ".join(context.command.list_commands(context))
        hint = ' a clip is made by `videodit generate "a red ball"`;' if command == "videodit" else ""
        return f"{message};{hint} valid values are {legal} ({see})"
    return f"{message} ({see})"


def _prepare_streams() -> None:
    """Let no character fail that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
