"""`videodit convert`: a transformer's weights in the other layout, bit for bit."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from videodit.cli.common import file_size, printable
from videodit.cli.progress import show_progress
from videodit.cli.stopping import when_stopped
from videodit.errors import InputError


class Layout(str, Enum):
    """The two layouts of a transformer's folder."""

    native = "native"
    diffusers = "diffusers"


def convert(
    source: Annotated[Path, typer.Argument(help="The folder of a transformer: config.json and safetensors files.")],
    target: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    to: Annotated[Layout, typer.Option(help="The layout to write: VideoDiT's own, or the family's in diffusers.")] = (
        Layout.native
    ),
) -> None:
    """Rewrite a transformer of a known family for videodit, or one that came from there for diffusers."""
    with when_stopped(f"nothing of {str(target)!r} is kept"), show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.families.loading import convert_transformer
        from videodit.transformer import VideoDiT

        if (source / "model_index.json").is_file():
            raise InputError(f"{str(source)!r} is a whole pipeline; give the folder of its transformer")
        progress.stage("converting")

        def on_tensor(done: int, total: int) -> None:
            if progress.total is None:
                progress.stage("converting", total)
            progress.step(done)

        convert_transformer(VideoDiT, source, target, to=to.value, on_tensor=on_tensor)
    size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    print(f"{printable(str(target))}: {to.value} layout, {file_size(size)}")
