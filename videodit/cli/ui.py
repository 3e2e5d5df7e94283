"""`videodit ui`: the page in the browser, and the server behind it."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from videodit.cli import results
from videodit.cli.common import note
from videodit.cli.serve import named_sources, needs_extra, run_server, server_folder
from videodit.errors import InputError
from videodit.limits import current_limits

_TITLE = b"<title>videodit</title>"


def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the server; 0: any that is free.")] = 8000,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
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
) -> None:
    """Make clips in the browser, with a server that already runs on the port, or one that is started here."""
    url = f"http://127.0.0.1:{port}"
    with needs_extra():
        import httpx2  # noqa: F401

        from videodit.serving.config import ServerConfig
    if port and is_served(url):
        flags = {"--model": model, "--lora": lora, "--device": device, "--dtype": dtype, "--data": data}
        if said := [name for name, value in flags.items() if value]:
            raise InputError(
                f"a server already runs on port {port}, so {', '.join(said)} would change nothing; stop it first, or "
                "choose another --port"
            )
        results.emit("server", url=url)
        note(f"a server already runs at {url}")
        if browser:
            open_browser(url)
        return
    config = ServerConfig(
        data=server_folder(data),
        port=port,
        models=named_sources(model or ["mini"]),
        loras=named_sources(lora or []),
        devices=tuple(device or [None]),
        dtype=dtype,
        media=current_limits(),
    )
    run_server(config, open_browser if browser else lambda url: None)


def is_served(url: str) -> bool:
    """Whether a page of videodit is there."""
    import httpx2

    try:
        with httpx2.Client(trust_env=False, timeout=3) as client:
            return _TITLE in client.get(url).content
    except (httpx2.HTTPError, ValueError):
        return False


def open_browser(url: str) -> None:
    """Open an address in the user's browser, without waiting for it; say it where there is no screen."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, screens)):
        note(f"there is no screen here; open {url} in a browser")
        return
    threading.Thread(target=_open, args=(url,), daemon=True).start()


def _open(url: str) -> None:
    if not webbrowser.open(url):
        note(f"no browser could be started; open {url} in one")
