"""`videodit ui`: the page in the browser, and the server behind it."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from typing import Annotated

import typer

from videodit.cli import results
from videodit.cli.common import note
from videodit.cli.serve import needs_extra, run_server, server_folder
from videodit.cli.server_flags import ControlModels, Data, Devices, DType, LoRAs, Models, Port
from videodit.errors import InputError
from videodit.limits import current_limits
from videodit.pipelines.branches import named_branches

_TITLE = b"<title>videodit</title>"


def ui(
    port: Port = 8000,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    model: Models = None,
    lora: LoRAs = None,
    control_model: ControlModels = None,
    device: Devices = None,
    dtype: DType = None,
    data: Data = None,
) -> None:
    """Make clips in the browser, with a server that already runs on the port, or one that is started here."""
    url = f"http://127.0.0.1:{port}"
    with needs_extra():
        import httpx2  # noqa: F401

        from videodit.serving.config import ServerConfig, named_sources
    if port and is_served(url):
        flags: dict[str, object] = {"--model": model, "--lora": lora, "--control-model": control_model}
        flags |= {"--device": device, "--dtype": dtype, "--data": data}
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
        models=named_sources(model or ["mini"], "--model"),
        loras=named_sources(lora or [], "--lora"),
        controls=named_branches(control_model),
        devices=tuple(device or [None]),
        dtype=dtype,
        media=current_limits(),
    )
    run_server(config, open_browser if browser else lambda url: None)


def is_served(url: str) -> bool:
    """Whether a page of videodit is there."""
    import httpx2

    try:
        with httpx2.Client(trust_env=False, timeout=30) as client:  # a busy machine may take some seconds
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
