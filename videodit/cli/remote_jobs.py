"""`videodit jobs`: look at, stop, fetch and delete the jobs of a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videodit.cli import results
from videodit.cli.common import file_size, print_rows, printable
from videodit.cli.flags import integer
from videodit.cli.result_flags import with_result_flags
from videodit.cli.server_flags import JOBS_SERVER, JOBS_VARIABLE
from videodit.cli.typer_commands import Command, Group

if TYPE_CHECKING:
    from videodit.cli.server_client import Server

app = typer.Typer(
    name="jobs",
    cls=Group,
    help="Jobs of a server: `videodit serve` here or elsewhere.",
    no_args_is_help=True,
    add_completion=False,
)

_Server = Annotated[str, typer.Option("--server", envvar=JOBS_VARIABLE, metavar="URL", help="Address of the server.")]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as video_1f…", show_default=False)]


@contextlib.contextmanager
def _server(url: str) -> Iterator[Server]:
    from videodit.cli.server_client import Server

    with contextlib.closing(Server(url)) as server:
        yield server


@app.command("list", cls=Command)
@with_result_flags
def list_jobs(
    server: _Server = JOBS_SERVER,
    limit: Annotated[int, typer.Option(parser=integer, metavar="N", help="At most so many, the newest first.")] = 20,
) -> None:
    """The jobs of your key, the newest first."""
    with _server(server) as client:
        found = client.call("GET", "/v1/videos", params={"limit": limit})
    for job in found["data"]:
        results.emit("job", job=job)
        reached = job["status"] if job["status"] != "in_progress" else f"{job['progress']} %"
        print(printable(f"{job['id']}  {reached:<10} {job['size']:>9}  {printable(str(job['prompt'] or '')):.70}"))


@app.command(cls=Command)
@with_result_flags
def show(id: _Id, server: _Server = JOBS_SERVER) -> None:
    """What became of a job."""
    with _server(server) as client:
        job = client.call("GET", f"/v1/videos/{_name(id)}")
    results.emit("job", job=job)
    error = job["error"] or {}
    rows = [
        ("status", job["status"]),
        ("prompt", printable(str(job["prompt"]))),
        ("model", job["model"]),
        ("size", job["size"]),
        ("seconds", job["seconds"]),
        ("seed", job["seed"]),
        ("queue", job["queue_position"] or None),
        ("stage", job["stage"] and f"{job['stage']}, step {job['step']} of {job['steps']}"),
        ("bytes", job["bytes"] and file_size(job["bytes"])),
        ("error", error and printable(f"{error.get('code')}: {error.get('message')}")),
        *(("notice", printable(notice)) for notice in job["notices"]),
    ]
    print_rows([row for row in rows if row[1]])


@app.command(cls=Command)
@with_result_flags
def download(
    id: _Id,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file, if it exists.")] = False,
    server: _Server = JOBS_SERVER,
) -> None:
    """Wait for a job and fetch its clip; the suffix of the file (.mp4, .gif, .webp) says in which format."""
    from videodit.cli.output_files import check_output
    from videodit.cli.progress import show_progress
    from videodit.cli.server_client import FORMATS
    from videodit.cli.stopping import when_stopped
    from videodit.errors import InputError, RemoteError

    path = output or Path(f"{_name(id)}.mp4")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--output is {str(path)!r}; it must end in {', '.join(FORMATS)}")
    check_output(path, overwrite=overwrite)
    with _server(server) as client, when_stopped("the job goes on"), show_progress() as progress:
        job = client.wait(_name(id), progress)
        if job["status"] != "completed":
            raise RemoteError(f"there is no clip: {printable(str((job['error'] or {}).get('message')))}")
        progress.stage("fetching the clip")
        client.download(job["id"], path)
    results.emit("clip", output=path, files=[path], bytes=path.stat().st_size, job=job)
    print(printable(f"{path}: {job['size']}, {file_size(path.stat().st_size)}, seed {job['seed']}"))


@app.command(cls=Command)
@with_result_flags
def cancel(
    id: _Id,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what is finished of a long clip.")] = False,
    server: _Server = JOBS_SERVER,
) -> None:
    """Stop a job."""
    with _server(server) as client:
        job = client.call("POST", f"/v1/videos/{_name(id)}/cancel", params={"keep": keep})
    results.emit("job", job=job)
    print(printable(f"{job['id']}: {'stopping' if job['cancelling'] else job['status']}"))


@app.command(cls=Command)
@with_result_flags
def delete(id: _Id, server: _Server = JOBS_SERVER) -> None:
    """Delete a job and its clip from the server."""
    with _server(server) as client:
        gone = client.call("DELETE", f"/v1/videos/{_name(id)}")
    results.emit("deleted", job=gone)
    print(printable(f"{gone['id']}: deleted"))


@app.command(cls=Command)
@with_result_flags
def models(server: _Server = JOBS_SERVER) -> None:
    """The models that a server has."""
    _names("/v1/models", server)


@app.command(cls=Command)
@with_result_flags
def loras(server: _Server = JOBS_SERVER) -> None:
    """The LoRAs that a server has."""
    _names("/v1/loras", server)


def _names(path: str, url: str) -> None:
    with _server(url) as client:
        found = client.call("GET", path)["data"]
    for one in found:
        results.emit(path.rsplit("/", 1)[-1].removesuffix("s"), about=one)
        print(printable(str(one["id"])))


def _name(id: str) -> str:
    """An id, which goes into an address.

    Raises:
        InputError: something else.
    """
    from videodit.errors import InputError
    from videodit.serving.records import is_id

    if not is_id(id, "video"):
        raise InputError(f"{id!r} is not the id of a job; `videodit jobs list` shows them")
    return id
