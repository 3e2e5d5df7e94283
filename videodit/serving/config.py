"""What the operator of a server decides."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videodit.errors import InputError
from videodit.limits import DEFAULT_LIMITS, Limits
from videodit.pipelines.request import ControlModel
from videodit.serving.child import ChildLimits

LEASE = 30.0
"""Seconds after which a worker that gives no sign of life has lost its job; it gives four in that time."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""What a browser on the same machine calls it; a page of another name that leads here is an attack."""
BUNDLED_CONTROLS = (ControlModel("mini-control", "mini-control"),)
"""Control branches that come with the package, which every server has."""


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """How much one request, one key and all of them together may ask for.

    Attributes:
        queue: jobs that may wait.
        per_key: jobs of one key that may wait or run.
        pixels: width × height of a clip.
        frames: of a clip.
        seconds: of a clip.
        steps: of the sampler.
        tokens: that the transformer sees in all forwards of a clip.
        json_bytes: of a request's body, and of the fields of a form together.
        body_bytes: of a request with files.
        form_parts: fields and files of a form.
        form_files: files among them.
        body_seconds: in which a request's body must be here.
        idle_seconds: in which more of it must come.
        header_seconds: in which a request's headers must be here.
        connections: open at once.
        inspections: uploads that are looked at, at once.
        inspect_seconds: that looking at one may take.
        inspect_bytes: of memory that looking at one may take.
        control_seconds: that deriving the controls of a clip may take.
        control_bytes: of memory that deriving them may take.
        owner_bytes: of all uploads and clips of one key.
        quota_bytes: of all uploads and clips.
        keep_seconds: how long files of finished jobs are kept; ``None``, or 0 where it is typed: for ever.
        bin_seconds: how long clips stay in the bin.
        upload_seconds: how long uploads are kept.
        failed_logins: of one address, in a quarter of an hour.
        session_seconds: that a login lasts.
    """

    queue: int = 100
    per_key: int = 20
    pixels: int = 2048 * 2048
    frames: int = 2000
    seconds: int = 300
    steps: int = 200
    tokens: int = 10_000_000_000
    json_bytes: int = 2_000_000
    body_bytes: int = 200_000_000
    form_parts: int = 200
    form_files: int = 16
    body_seconds: float = 300
    idle_seconds: float = 20
    header_seconds: float = 10
    connections: int = 900
    inspections: int = 2
    inspect_seconds: int = 20
    inspect_bytes: int = 2_000_000_000
    control_seconds: int = 120
    control_bytes: int = 4_000_000_000
    owner_bytes: int = 20_000_000_000
    quota_bytes: int = 50_000_000_000
    keep_seconds: float | None = 30 * 86_400.0
    bin_seconds: float = 7 * 86_400.0
    upload_seconds: float = 86_400.0
    failed_logins: int = 10
    session_seconds: float = 7 * 86_400.0

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"the limit {one.name} is {value!r}; it must be a whole number of at least 1")

    @property
    def of_inspection(self) -> ChildLimits:
        """Of the process that looks at an upload."""
        return ChildLimits(self.inspect_seconds, self.inspect_bytes)

    @property
    def of_controls(self) -> ChildLimits:
        """Of the process that derives controls."""
        return ChildLimits(self.control_seconds, self.control_bytes)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """A server.

    Attributes:
        data: its folder; see :class:`videodit.serving.folder.DataFolder`.
        database: the URL of a database of PostgreSQL, which several servers share with the folder; ``None``: jobs are
            kept in a file of the folder, which then is this server's alone.
        outputs: where finished clips are kept, such as ``s3://bucket/clips``; ``None``: in the folder.
        host: address to listen on.
        port: to listen on.
        names: hosts that it is asked for as, beside this machine's own names.
        models: folders or hub ids by name; the first is the default.
        loras: files by name.
        controls: control branches. Those that are bundled are there, too, unless another one has the name.
        devices: a worker for each; ``None`` is the fastest kind that is here. None at all: workers are elsewhere.
        dtype: to compute in; ``None``: what the device is good at.
        limits: see :class:`ServerLimits`.
        media: what one uploaded file may ask for.
        defaults: of what clients leave out; see :func:`videodit.serving.requests.read_defaults`.
        prompt_syntax: prompts are read in the syntax of :mod:`videodit.prompt_syntax`; else every character is text.
        lease_seconds: see :data:`LEASE`.
        worker_key: what workers of other machines send; ``None``: there are none.
    """

    data: Path
    database: str | None = None
    outputs: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    models: dict[str, str] = field(default_factory=lambda: {"mini": "mini"})
    loras: dict[str, str] = field(default_factory=dict)
    controls: tuple[ControlModel, ...] = ()
    devices: tuple[str | None, ...] = (None,)
    dtype: str | None = None
    limits: ServerLimits = ServerLimits()
    media: Limits = DEFAULT_LIMITS
    defaults: dict[str, Any] = field(default_factory=dict)
    prompt_syntax: bool = False
    lease_seconds: float = LEASE
    worker_key: str | None = None

    def __post_init__(self) -> None:
        for name in self.loras:
            if not name.strip() or "." in name or not name.isprintable():
                raise InputError(
                    f"a LoRA's name is {name!r}; names are of printable characters without dots: NAME=FILE"
                )

        for one in self.controls:
            if not one.name.strip() or set(one.name) & set(".:=@/") or not one.name.isprintable():
                raise InputError(
                    f"a control branch's name is {one.name!r}; names are of printable characters without . : = @ and "
                    "/: NAME=FOLDER"
                )

    @property
    def all_controls(self) -> tuple[ControlModel, ...]:
        """The control branches that requests may use."""
        named = {one.name for one in self.controls}
        return (*self.controls, *(one for one in BUNDLED_CONTROLS if one.name not in named))

    @property
    def default_model(self) -> str:
        """Of requests that name none."""
        return next(iter(self.models))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        host = self.host.strip("[]").partition("%")[0]
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host.lower() == "localhost"


def raised_limits(server: ServerLimits, media: Limits, written: Iterable[str]) -> tuple[ServerLimits, Limits]:
    """Limits with those changed that ``written`` names, each as ``NAME=NUMBER``.

    Raises:
        InputError: there is no limit of that name, or its value is not a whole number that is legal.
    """
    of_server, of_media = ([one.name for one in dataclasses.fields(kind)] for kind in (ServerLimits, Limits))
    changes: dict[str, int | None] = {}
    for text in written:
        name, equals, value = (part.strip() for part in text.partition("="))
        if equals and name in of_server:
            try:
                changes[name] = int(value.replace("_", "")) or (None if name == "keep_seconds" else 0)
            except ValueError:
                raise InputError(f"the limit {name} is {value!r}; it must be a whole number") from None
        elif equals and name in of_media:
            media = media.replace([text])
        else:
            legal = ", ".join([*of_server, *of_media])
            raise InputError(f"unknown limit {text!r}; write NAME=NUMBER, with a name of {legal}")
    return dataclasses.replace(server, **changes), media  # type: ignore[arg-type]


def named_sources(texts: list[str], setting: str) -> dict[str, str]:
    """Sources by name; without a name, what stands last in the source is the name.

    Args:
        texts: one a source.
        setting: that they are values of.

    Raises:
        InputError: a name that comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not equals:
            source, name = text, Path(text).name
        if Path(source).exists():
            source = str(Path(source).absolute())
        if name in found:
            both = f"{found[name]!r} and {source!r}"
            raise InputError(f"{setting} has two sources called {name!r}, {both}; call one of them NAME=SOURCE")
        found[name] = source
    return found
