"""`videodit serve`: the server on this machine."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from videodit.cli.common import note
from videodit.errors import InputError
from videodit.user_folders import data_folder


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 8000,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="[NAME=]MODEL", help="A model that may be used. Repeatable."),
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="A LoRA that may be used. Repeatable.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="A worker for each: cpu, cuda:0, cuda:1 … Repeatable.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where jobs and clips are kept.")] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What requests that say nothing get, such as steps=12. Repeatable."),
    ] = None,
    prompt_syntax: Annotated[
        bool, typer.Option("--prompt-syntax", help="Read prompts in the syntax of docs/prompts.md.")
    ] = False,
) -> None:
    """Make clips for others: a queue, workers, and the /v1/videos API."""
    try:
        import uvicorn

        from videodit.serving.app import create_app
        from videodit.serving.config import ServerConfig
        from videodit.serving.requests import read_defaults
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "videodit":
            raise
        raise InputError(f'the server needs {error.name}: pip install "videodit[serve]"') from None
    config = ServerConfig(
        data=(data or data_folder() / "server").absolute(),
        host=host,
        port=port,
        models=_named(model or ["mini"]),
        loras=_named(lora or []),
        devices=tuple(device or [None]),
        dtype=dtype,
        defaults=read_defaults(default or []),
        prompt_syntax=prompt_syntax,
    )
    listener = _listen(host, port)
    address = f"[{host}]" if ":" in host else host
    note(f"jobs and clips are kept in {str(config.data)!r}")
    note(f"listening on http://{address}:{listener.getsockname()[1]}")
    settings = uvicorn.Config(create_app(config), log_level="warning", timeout_graceful_shutdown=5)
    uvicorn.Server(settings).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that an address in use is told before anything is started.

    Raises:
        InputError: nobody can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot listen on --host {host} --port {port}: {reason}") from error


def _named(texts: list[str]) -> dict[str, str]:
    """Sources by name; without a name, what stands last in the source is the name."""
    found = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not equals:
            source, name = text, Path(text).name
        if Path(source).exists():
            source = str(Path(source).absolute())
        found[name] = source
    return found
