"""`videodit data`: clips of one's own, from a folder to a cache of latents."""

from __future__ import annotations

import typer

from videodit.cli.data_encode import encode
from videodit.cli.data_scan import scan
from videodit.cli.data_split import split
from videodit.cli.data_verify import verify
from videodit.cli.typed_names import named_as_typed
from videodit.cli.typer_commands import Command, Group

app = typer.Typer(
    name="data",
    cls=Group,
    help="Clips of your own: look through them, cut them, encode them for training.",
    no_args_is_help=True,
    add_completion=False,
)
for _command in (scan, split, encode, verify):
    app.command(cls=Command)(named_as_typed(_command))
