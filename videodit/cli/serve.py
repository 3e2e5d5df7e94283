"""`videodit serve`: the server on this machine, and the keys that open it."""

from __future__ import annotations

import contextlib
import gc
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videodit.cli import results
from videodit.cli.common import note, print_rows
from videodit.cli.flags import integer
from videodit.cli.result_flags import with_result_flags
from videodit.cli.server_flags import ControlModels, Data, Database, Devices, DType, LoRAs, Models, Outputs, Port
from videodit.cli.typed_names import named_as_typed
from videodit.cli.typer_commands import Command, Group
from videodit.errors import InputError
from videodit.importing import quick_imports
from videodit.limits import current_limits
from videodit.pipelines.branches import named_branches
from videodit.user_folders import data_folder

if TYPE_CHECKING:
    from videodit.serving.config import ServerConfig
    from videodit.serving.keys import KeyRing

Name = Annotated[str, typer.Argument(help="Of the key's user; jobs belong to this name.")]


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on. Others than this machine's own need a key.")] = (
        "127.0.0.1"
    ),
    port: Port = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name that clients know the server by, such as a proxy's. Repeatable."),
    ] = None,
    model: Models = None,
    lora: LoRAs = None,
    control_model: ControlModels = None,
    device: Devices = None,
    dtype: DType = None,
    data: Data = None,
    database: Database = None,
    outputs: Outputs = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="How much requests may ask for, such as queue=20 or clip_seconds=60. Repeatable; docs/serving.md has "
            "all names.",
        ),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What requests that say nothing get, such as steps=12. Repeatable."),
    ] = None,
    prompt_syntax: Annotated[
        bool, typer.Option("--prompt-syntax", help="Read prompts in the syntax of docs/prompts.md.")
    ] = False,
) -> None:
    """Make clips for others: a queue, workers, and the /v1/videos API."""
    if context.invoked_subcommand is not None:
        for name, value in {"--data": data, "--database": database}.items():
            if value is not None:
                at_end = f"`videodit serve keys list {name} …`"
                raise InputError(f"{name} of `videodit serve keys` stands at the end: {at_end}")
        return
    with needs_extra():
        from videodit.serving.config import ServerConfig, ServerLimits, named_sources, raised_limits
        from videodit.serving.requests import read_defaults
    limits, media = raised_limits(ServerLimits(), current_limits(), limit or [])
    config = ServerConfig(
        data=server_folder(data),
        database=_checked(database),
        outputs=outputs,
        host=host,
        port=port,
        names=tuple(allow_host or []),
        models=named_sources(model or ["mini"], "--model"),
        loras=named_sources(lora or [], "--lora"),
        controls=named_branches(control_model),
        devices=tuple(device or [None]),
        dtype=dtype,
        defaults=read_defaults(default or []),
        prompt_syntax=prompt_syntax,
        limits=limits,
        media=media,
    )
    if not config.is_local:
        _check_has_key(config)
    run_server(config)


def run_server(config: ServerConfig, listening: Callable[[str], object] = lambda url: None) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        config: of the server.
        listening: is told the server's address once it takes connections.

    Raises:
        InputError: a package is missing, the address is in use, or another server has the data folder.
    """
    with needs_extra(), quick_imports():
        import uvicorn

        from videodit.serving.app import create_app
        from videodit.serving.lifetime import held_folder
        from videodit.serving.postgres import without_password
        from videodit.serving.protocol import timed_protocol
    with held_folder(config, note) as folder:
        listener = _listen(config.host, config.port)
        address = f"[{config.host}]" if ":" in config.host else config.host
        if config.database is not None:
            note(f"jobs are kept in {without_password(config.database)!r}")
        what = "jobs and clips" if config.database is None else "clips"
        note(f"{what} are kept in {str(config.data)!r}")
        url = f"http://{address}:{listener.getsockname()[1]}"
        note(f"listening on {url}")
        results.emit("server", url=url)
        listening(url)
        settings = uvicorn.Config(
            create_app(config, data=folder),
            http=timed_protocol(config.limits.header_seconds),
            ws="none",
            limit_concurrency=config.limits.connections,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(settings)
        gc.freeze()  # the collector need not walk through all that was imported, again and again, while clients wait
        server.run(sockets=[listener])


def add(
    name: Name,
    concurrency: Annotated[
        int | None, typer.Option(parser=integer, metavar="N", help="Jobs of it that may wait or run.")
    ] = None,
    data: Data = None,
    database: Database = None,
) -> None:
    """Make a key, and print it: this once, since only its hash is kept."""
    with _keys(server_folder(data), _checked(database)) as keys:
        key = keys.add(name, concurrency=concurrency)
    print(key)
    results.emit("key", name=name, key=key)


def list_keys(data: Data = None, database: Database = None) -> None:
    """Show whose keys there are."""
    with _keys(server_folder(data), _checked(database)) as keys:
        found = keys.list()
    for key in found:
        created = time.strftime("%Y-%m-%d", time.localtime(key.created))
        print_rows([(key.name, created if key.concurrency is None else f"{created}, {key.concurrency} jobs at most")])
        results.emit("key", name=key.name, created=key.created, concurrency=key.concurrency)


def remove(name: Name, data: Data = None, database: Database = None) -> None:
    """Have a key open nothing any more. Its jobs stay."""
    with _keys(server_folder(data), _checked(database)) as keys:
        if not keys.remove(name):
            legal = ", ".join(one.name for one in keys.list()) or "none"
            raise InputError(f"there is no key {name!r}; there are: {legal}")
        if not keys.list():
            note("that was the last key: a server that runs lets nobody in until another one is added")


_keys_app = typer.Typer(
    name="keys", cls=Group, help="Keys of users: add, list, remove.", no_args_is_help=True, add_completion=False
)
for _name, _command in (("add", add), ("list", list_keys), ("remove", remove)):
    _keys_app.command(_name, cls=Command)(with_result_flags(named_as_typed(_command)))

app = typer.Typer(name="serve", cls=Group, invoke_without_command=True, add_completion=False)
app.callback()(with_result_flags(named_as_typed(serve)))
app.add_typer(_keys_app)


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Says what to install where a module of another package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "videodit":
            raise
        raise InputError(f'the server needs {error.name}: pip install "videodit[serve]"') from None


def server_folder(data: Path | None) -> Path:
    return (data or data_folder() / "server").absolute()


def _checked(database: str | None) -> str | None:
    """A database's URL, once it is known to be one.

    Raises:
        InputError: another form, or its package is missing.
    """
    if database is not None:
        from videodit.serving.postgres import check_url

        check_url(database)
    return database


@contextlib.contextmanager
def _keys(folder: Path, database: str | None = None) -> Iterator[KeyRing]:
    """The keys of a server, which may run meanwhile."""
    from videodit.serving.folder import DataFolder
    from videodit.serving.keys import KeyRing
    from videodit.serving.store import JobStore

    if database is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(JobStore(DataFolder(folder, database).jobs_file)) as store:
        yield KeyRing(store)


def _check_has_key(config: ServerConfig) -> None:
    """See that a server that others can reach has a key.

    Raises:
        InputError: it has none.
    """
    with _keys(config.data, config.database) as keys:
        if keys.is_empty:
            raise InputError(
                f"--host {config.host} can be reached from other machines, and there is no key yet; add one with "
                f"`videodit serve keys add NAME {_kept_in(config)}`"
            )


def _kept_in(config: ServerConfig) -> str:
    """The option that leads to the keys of a server."""
    return f"--data '{config.data}'" if config.database is None else "--database …"


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
