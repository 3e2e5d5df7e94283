"""What the web process holds while it runs."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import Request

from videodit.json_types import JsonObject
from videodit.serving.cards import Card
from videodit.serving.config import ServerConfig
from videodit.serving.errors import APIError
from videodit.serving.folder import DataFolder
from videodit.serving.hub import Hub
from videodit.serving.keys import FailedLogins, KeyRing
from videodit.serving.store import JobStore, QueueFull
from videodit.serving.uploads import Uploads
from videodit.serving.writer import Writer


class ServerState:
    """The store, the folder, and the models' cards.

    Args:
        config: of the server.
        data: its folder.
        store: its jobs, for the thread of the event loop.
        write: changes them, in a thread of its own.
        search: looks at many of them, in another thread.
    """

    def __init__(self, config: ServerConfig, data: DataFolder, store: JobStore, write: Writer, search: Writer) -> None:
        self.config, self.data, self.store, self.write, self.search = config, data, store, write, search
        self.keys = KeyRing(store)
        self.failed_logins = FailedLogins(config.limits.failed_logins)
        self.uploads = Uploads(config, data, store, write)
        self.hub = Hub(store, write)
        self.started = time.monotonic()
        self._cards: dict[str, tuple[str, Card]] = {}  # by model: what was published last, and the same read

    def card(self, name: str | None) -> Card:
        """What is known of a registered model.

        Raises:
            APIError: there is no such model, or its worker has not told of it yet.
        """
        name = self.config.default_model if name is None else name
        if name not in self.config.models:
            legal = ", ".join(self.config.models)
            raise APIError(404, f"there is no model {name[:200]!r}; valid values are {legal}", code="model_not_found")
        published = self.store.card(name)
        if published is None:
            why = f"the model {name!r} is not known yet: its worker is starting"
            if (problem := self.store.problems().get(name)) is not None:
                why = f"the model {name!r} cannot be used: {problem}"
            raise APIError(503, why, code="model_not_ready", headers={"Retry-After": "1"})
        text, known = self._cards.get(name, ("", None))
        if known is None or text != published:  # a worker that starts again may find another model there
            known = Card.from_json(json.loads(published))
            self._cards[name] = published, known
        return known

    def check_limits(self, settings: JsonObject) -> None:
        """See that a clip is not more than the operator allows.

        Raises:
            APIError: naming the limit.
        """
        limits = self.config.limits
        asked: dict[str, Any] = {
            "pixels": settings["width"] * settings["height"],
            "frames": settings["num_frames"],
            "seconds": settings["num_frames"] / settings["fps"],
            "steps": settings["steps"],
            "tokens": settings["forwards"] * settings["tokens"],
        }
        for name, value in asked.items():
            most = getattr(limits, name)
            if value > most:
                raise APIError(
                    400, f"the clip has {value:,.6g} {name}; this server makes at most {most:,}", code="limit_exceeded"
                )

    def owner_limit(self, owner: str) -> int:
        """Jobs of a key that may wait or run."""
        key = self.keys.by_name(owner)
        return self.config.limits.per_key if key is None or key.concurrency is None else key.concurrency

    def check_room(self, owner: str, repeated: str | None = None) -> None:
        """See that one more job can be taken, before its request is read; :meth:`JobStore.add` has the last word.

        Args:
            owner: who asks.
            repeated: the ``Idempotency-Key`` of the request: one that was answered needs no room.

        Raises:
            APIError: there is no room.
        """
        if repeated is not None and self.store.answered(owner, repeated) is not None:
            return
        try:  # first, since it costs least, and a full queue is asked most
            self.store.check_room(owner, queue_limit=self.config.limits.queue, owner_limit=self.owner_limit(owner))
        except QueueFull as full:
            raise queue_full(full) from None
        self.uploads.check_room(owner, 0)


def queue_full(full: QueueFull) -> APIError:
    """No job is taken now."""
    return APIError(429, str(full), code="queue_full", headers={"Retry-After": "5"})


# Coroutines, although they wait for nothing: FastAPI calls plain functions in a thread.
async def state_of(request: Request) -> ServerState:
    """For FastAPI's dependencies."""
    state: ServerState = request.app.state.server
    return state


async def owner_of(request: Request) -> str:
    """The name of the key that a request comes with: :class:`videodit.serving.gate.Gate` found it."""
    owner: str = request.state.owner
    return owner
