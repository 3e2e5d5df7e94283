"""What the operator of a server decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videodit.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """How much one request, one key and all of them together may ask for.

    Attributes:
        queue: jobs that may wait.
        per_key: jobs of one key that may wait or run.
        pixels: width × height of a clip.
        frames: of a clip.
        steps: of the sampler.
        tokens: that the transformer sees in all forwards of a clip.
        body_bytes: of one request.
        quota_bytes: of all files that are kept.
        keep_seconds: how long files of finished jobs are kept; ``None``: for ever.
        upload_seconds: how long uploads are kept.
    """

    queue: int = 100
    per_key: int = 20
    pixels: int = 2048 * 2048
    frames: int = 2000
    steps: int = 200
    tokens: int = 10_000_000_000
    body_bytes: int = 200_000_000
    quota_bytes: int = 50_000_000_000
    keep_seconds: float | None = 30 * 86_400.0
    upload_seconds: float = 86_400.0


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """A server.

    Attributes:
        data: its folder; see :class:`videodit.serving.folder.DataFolder`.
        host: address to listen on.
        port: to listen on.
        models: folders or hub ids by name; the first is the default.
        loras: files by name.
        devices: a worker for each; ``None`` is the fastest kind that is here.
        dtype: to compute in; ``None``: what the device is good at.
        limits: see :class:`ServerLimits`.
        defaults: of what clients leave out; see :func:`videodit.serving.requests.read_defaults`.
        prompt_syntax: prompts are read in the syntax of :mod:`videodit.prompt_syntax`; else every character is text.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    models: dict[str, str] = field(default_factory=lambda: {"mini": "mini"})
    loras: dict[str, str] = field(default_factory=dict)
    devices: tuple[str | None, ...] = (None,)
    dtype: str | None = None
    limits: ServerLimits = ServerLimits()
    defaults: dict[str, Any] = field(default_factory=dict)
    prompt_syntax: bool = False

    def __post_init__(self) -> None:
        for name in self.loras:
            if not name.strip() or "." in name or not name.isprintable():
                raise InputError(
                    f"a LoRA's name is {name!r}; names are of printable characters without dots: NAME=FILE"
                )

    @property
    def default_model(self) -> str:
        """Of requests that name none."""
        return next(iter(self.models))
