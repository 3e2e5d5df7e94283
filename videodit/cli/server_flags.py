"""The options that `videodit serve` and `videodit ui` share: what a server has, and where it is; and where `videodit
jobs` looks for one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JOBS_SERVER = "http://127.0.0.1:8000"
"""The address of the server that `videodit jobs` asks where nothing says another."""
JOBS_VARIABLE = "VIDEODIT_SERVER"
"""The environment variable that says another."""

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any that is free.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", metavar="[NAME=]MODEL", help="A model that may be used. Repeatable."),
]
LoRAs = Annotated[
    list[str] | None, typer.Option("--lora", metavar="NAME=FILE", help="A LoRA that may be used. Repeatable.")
]
ControlModels = Annotated[
    list[str] | None,
    typer.Option(
        "--control-model",
        metavar="[NAME=]FOLDER[@2]",
        help="A control branch that may be used, and then NAME=FOLDER@2 for a second expert (Wan 2.2 A14B). "
        "Repeatable; that of mini is always there.",
    ),
]
Devices = Annotated[
    list[str] | None, typer.Option("--device", help="A worker for each: cpu, cuda:0, cuda:1 … Repeatable.")
]
DType = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="postgresql://…: jobs and keys are kept there, and several servers may share it and the folder of --data.",
    ),
]
Outputs = Annotated[
    str | None,
    typer.Option("--outputs", metavar="URL", help="Where finished clips are kept, such as s3://bucket/clips."),
]
Data = Annotated[Path | None, typer.Option("--data", help="Where jobs, clips and keys are kept.")]
