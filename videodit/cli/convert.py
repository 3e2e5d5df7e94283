"""`videodit convert`: a transformer's weights in the other layout, bit for bit."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from videodit.cli.common import file_size, printable
from videodit.cli.progress import show_progress
from videodit.cli.results import emit
from videodit.cli.stopping import when_stopped
from videodit.configs import read_json
from videodit.errors import InputError
from videodit.path_kinds import describe_path, is_file


class Layout(str, Enum):
    """The two layouts of a transformer's folder."""

    native = "native"
    diffusers = "diffusers"


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="The folder of a transformer, config.json and safetensors files, or a file of its weights alone."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    to: Annotated[Layout, typer.Option(help="The layout to write: VideoDiT's own, or the family's in diffusers.")] = (
        Layout.native
    ),
) -> None:
    """Rewrite a transformer of a known family for videodit, or one that came from there for diffusers."""
    alone = is_file(source)
    if not alone:
        _check_source(source, to)
    with when_stopped(f"nothing of {str(target)!r} is kept"), show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.families.loading import convert_file, convert_transformer
        from videodit.transformer import VideoDiT

        progress.stage("converting")

        def on_tensor(done: int, total: int) -> None:
            if progress.total is None:
                progress.stage("converting", total)
            progress.step(done)

        make = convert_file if alone else convert_transformer
        make(VideoDiT, source, target, to=to.value, on_tensor=on_tensor)
    size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    emit("conversion", output=target, layout=to.value, bytes=size)
    print(f"{printable(str(target))}: {to.value} layout, {file_size(size)}")


def _check_source(source: Path, to: Layout) -> None:
    """See that there is a transformer, and one that is not in the layout that is asked for.

    Raises:
        InputError: there is none, or it is in that layout already.
    """
    whole = (source / "model_index.json").is_file()
    config = source / ("transformer" if whole else "") / "config.json"
    if not config.is_file():
        raise InputError(
            f"{str(source)!r} {describe_path(source)}; convert takes the folder of a transformer, with its config.json"
        )
    model = source if whole else source.parent
    use = f"use it with -m {model}" if (model / "model_index.json").is_file() else "it needs no conversion"
    values = read_json(config)
    if to is Layout.native and values.get("_class_name") == "VideoDiT":
        raise InputError(f"{str(source)!r} is a videodit model already: {use}")
    if to is Layout.diffusers and values.get("_class_name") == "VideoDiT" and values.get("family") is None:
        raise InputError(
            f"{str(source)!r} is a videodit model of no published family, which diffusers has no class for: {use}"
        )
    if to is Layout.diffusers and values.get("_class_name") != "VideoDiT":
        raise InputError(f"{str(source)!r} is in diffusers' layout already, {values.get('_class_name')!r}: {use}")
    if whole:
        raise InputError(
            f"{str(source)!r} is a whole pipeline; give the folder of its transformer, {str(config.parent)!r}"
        )
