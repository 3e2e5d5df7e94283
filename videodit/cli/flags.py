"""The flags that more than one command has, and how numbers are read from the command line."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Left out: the fastest kind that is here.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Left out: what the device is good at.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and load no weights.")]


def integer(text: str) -> int:
    """A flag's whole number. (typer's own message for a wrong one does not repeat it.)"""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A flag's number."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
