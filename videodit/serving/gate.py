"""What is decided of a request before any of its body is read, and how much of the body is read at all."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse

from videodit.serving.config import LOCAL_NAMES, ServerConfig
from videodit.serving.errors import APIError, busy
from videodit.serving.keys import LOCAL, KeyRing
from videodit.serving.pages import is_page
from videodit.serving.state import ServerState
from videodit.serving.unavailable import StoreUnavailable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "videodit_session"
OPEN_PATHS = frozenset({"/health", "/ready", "/login", "/logout"})
"""What is answered without a key, beside the page's own files: it asks for the key by itself."""
WORKER_PATHS = "/workers/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CREATES_JOBS = re.compile(r"/v1/videos(?:/edits|/extensions|/[^/]+/(?:remix|copy))?/?")
_KEEPS_NO_FILES = re.compile(r"/v1/videos/(?:plan|controls)/?")
_LINGER = 2.0  # seconds for which what a refused client still sends is thrown away, so that it sees the answer

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
}


class Gate:
    """An ASGI middleware: who asks, from where, for how much.

    Args:
        app: behind it.
        config: of the server.
    """

    def __init__(self, app: App, config: ServerConfig) -> None:
        self._app, self._config = app, config
        self._hosts = _hosts(config)
        self._is_open: bool | None = None
        self._turns = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        state: ServerState = scope["app"].state.server
        headers = _Headers(scope)
        send = _with_headers(scope, send)
        try:
            if is_unsafe(scope):
                async with self._turns:  # one each time that the loop comes round: a burst keeps no poll waiting
                    await asyncio.sleep(0)
            body_limit = self._admitted(scope, headers, state)
        except APIError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            elif error.status == 401 and scope["method"] == "GET" and "text/html" in headers.get("accept"):
                await RedirectResponse("/login", 303)(scope, receive, send)
            else:
                linger = _lingering(headers, receive, send) if headers.has_body() else send
                await error.response(scope, receive, linger)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        await self._pass_on(scope, headers, _Body(receive, body_limit, self._config), send, state)

    async def _pass_on(self, scope: Scope, headers: _Headers, body: _Body, send: Send, state: ServerState) -> None:
        """Let the application answer. Files that came with a request that fails are removed."""
        status = 500

        async def watched(message: Message) -> None:
            nonlocal send, status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and headers.has_body() and not body.is_read:
                    send = _lingering(headers, body.rest, send)
            await send(message)

        try:
            await self._app(scope, body.receive, watched)
        finally:
            if status >= 400 or _KEEPS_NO_FILES.fullmatch(scope["path"]):
                for id in scope["state"]["fresh_uploads"]:
                    state.uploads.remove(id)

    def _admitted(self, scope: Scope, headers: _Headers, state: ServerState) -> int:
        try:
            return self._admit(scope, headers, state)
        except StoreUnavailable as error:  # a database that is away
            raise busy(error) from None

    def _admit(self, scope: Scope, headers: _Headers, state: ServerState) -> int:
        """Decide by a request's headers.

        Returns:
            Bytes that its body may have.

        Raises:
            APIError: it is refused.
        """
        limits = self._config.limits
        if scope["type"] == "http" and scope["path"].startswith(WORKER_PATHS):
            return self._admit_worker(scope, headers)
        host = headers.get("host")
        if len(headers.all("host")) != 1 or (self._hosts is not None and _name_of(host) not in self._hosts):
            raise APIError(
                421,
                f"this server is not known as {host[:100]!r}; its operator can add the name with --allow-host",
                code="wrong_host",
            )
        by_key, owner = self._who(headers, state.keys)
        if is_unsafe(scope) and not by_key:
            _check_origin(headers, host, needed=headers.cookie(COOKIE) is not None)
        path: str = scope["path"]
        if owner is None and path not in OPEN_PATHS and not is_page(path):
            raise APIError(
                401,
                "send a key of this server as `Authorization: Bearer KEY`, or log in at /login",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope.setdefault("state", {}).update(owner=owner, fresh_uploads=[])
        if scope["type"] == "websocket":
            return 0
        length = headers.content_length()
        has_files = headers.get("content-type").lower().startswith("multipart/form-data")
        is_upload = path.rstrip("/") == "/v1/uploads" and scope["method"] == "POST"
        limit = limits.body_bytes if owner is not None and (has_files or is_upload) else limits.json_bytes
        if length is not None and length > limit:
            raise too_large(limit)
        if owner is not None and is_unsafe(scope):
            if scope["method"] == "POST" and CREATES_JOBS.fullmatch(path):
                state.check_room(owner, headers.get("idempotency-key") or None)
            if has_files or is_upload:
                state.uploads.check_room(owner, length or 0)
        return limit

    def _admit_worker(self, scope: Scope, headers: _Headers) -> int:
        """The same for a worker of another machine, which no browser and no user is."""
        scheme, _, key = headers.get("authorization").partition(" ")
        known = self._config.worker_key
        if known is None or scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), known.encode()):
            raise APIError(401, "send the key of the workers of this server", code="invalid_api_key")
        scope.setdefault("state", {}).update(owner=None, fresh_uploads=[])
        return self._config.limits.owner_bytes

    def _who(self, headers: _Headers, keys: KeyRing) -> tuple[bool, str | None]:
        """Whether a request comes with a key of its own, and whose it is. A server that once had keys needs one."""
        if self._is_open is not False:
            self._is_open = self._config.is_local and keys.is_empty
        if self._is_open:
            return False, LOCAL
        scheme, _, key = headers.get("authorization").partition(" ")
        if scheme.lower() == "bearer":
            found = keys.find(key.strip())
            return True, None if found is None else found.name
        token = headers.cookie(COOKIE)
        return False, None if token is None else keys.session(token)


class _Body:
    """Hands a request's body on while it is small enough and comes fast enough."""

    def __init__(self, receive: Receive, limit: int, config: ServerConfig) -> None:
        self.rest = receive
        self._limit, self._limits = limit, config.limits
        self._bytes = 0
        self._end: float | None = None
        self.is_read = False

    async def receive(self) -> Message:
        """What came next.

        Raises:
            APIError: it is too much, or did not come in time.
        """
        if self.is_read:
            return await self.rest()
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._limits.body_seconds
        try:
            message = await asyncio.wait_for(self.rest(), min(self._limits.idle_seconds, self._end - now))
        except asyncio.TimeoutError:
            raise APIError(408, "the request's body did not come in time", code="slow_body") from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.is_read = not message.get("more_body", False)
        else:
            self.is_read = True
        if self._bytes > self._limit:
            raise too_large(self._limit)
        return message


def is_unsafe(scope: Scope) -> bool:
    """Whether a request may change something."""
    return scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS


def too_large(limit: int) -> APIError:
    """A body has more bytes than it may have."""
    return APIError(413, f"the request's body has more than {limit:,} bytes, which is the limit", code="too_large")


class _Headers:
    """Of a request, by their names in lower case."""

    def __init__(self, scope: Scope) -> None:
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for key, value in self._headers if key == name.encode()]

    def get(self, name: str) -> str:
        return next(iter(self.all(name)), "")

    def cookie(self, name: str) -> str | None:
        for part in ";".join(self.all("cookie")).split(";"):
            key, equals, value = part.strip().partition("=")
            if equals and key == name:
                return value
        return None

    def content_length(self) -> int | None:
        """``None`` where it is not told.

        Raises:
            APIError: it is not a number.
        """
        told = self.all("content-length")
        if not told:
            return None
        if len(set(told)) > 1 or re.fullmatch(r"[0-9]{1,18}", told[0]) is None:
            raise APIError(400, "the header Content-Length is not a number of bytes", code="invalid_header")
        return int(told[0])

    def has_body(self) -> bool:
        return self.get("content-length") not in ("", "0") or self.get("transfer-encoding") != ""


def _hosts(config: ServerConfig) -> frozenset[str] | None:
    """Names that a server is asked for as; ``None``: any, since only those with a key get an answer."""
    if not config.is_local and not config.names:
        return None
    own = {f"[{config.host}]" if ":" in config.host else config.host, *config.names}
    return LOCAL_NAMES | {one.lower() for one in own}


def _name_of(host: str) -> str:
    """A Host header without its port."""
    return re.sub(r":[0-9]*$", "", host).lower()


def _check_origin(headers: _Headers, host: str, *, needed: bool) -> None:
    """See that a browser's request comes from a page of this server.

    Raises:
        APIError: it comes from elsewhere, or does not say although it has a cookie.
    """
    origins = headers.all("origin")
    if not origins and not needed and headers.get("sec-fetch-site") in ("", "none", "same-origin"):
        return
    if len(origins) == 1:
        with contextlib.suppress(ValueError):
            told = urlsplit(origins[0])
            if told.scheme in ("http", "https") and told.netloc.lower() == host.lower():
                return
    raise APIError(403, "the request comes from a page of another site", code="wrong_origin")


def _lingering(headers: _Headers, receive: Receive, send: Send) -> Send:
    """Sends an answer to a request whose body was not read, and closes the connection.

    What still comes of the body is thrown away for a moment: a client that is cut off while it sends sees no answer.
    """

    async def lingering(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        elif not message.get("more_body", False) and not headers.get("expect"):
            await send({**message, "more_body": True})
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_drain(receive), _LINGER)
            message = {"type": "http.response.body", "body": b""}
        await send(message)

    return lingering


async def _drain(receive: Receive) -> None:
    while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
        pass


def _with_headers(scope: Scope, send: Send) -> Send:
    """Adds the headers that all answers have, and those that keep what is private out of caches."""
    kept = scope["path"].endswith("/content")
    added = _HEADERS | {"cache-control": "private, max-age=3600" if kept else "no-store"}

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            there = {key.lower() for key, _ in headers}
            for name, value in added.items():
                if name == "cache-control" and message["status"] >= 400:
                    value = "no-store"
                if name.encode() not in there:
                    headers.append((name.encode(), value.encode()))
            message = {**message, "headers": headers}
        await send(message)

    return with_headers
