"""A client of `videodit serve`, for the commands: requests, files there and back, and waiting."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2

from videodit.cli.common import printable
from videodit.cli.server_flags import JOBS_SERVER, JOBS_VARIABLE
from videodit.cli.typed_names import as_typed
from videodit.errors import InputError, RemoteError
from videodit.files import replacing

if TYPE_CHECKING:
    from videodit.cli.progress import Progress
    from videodit.json_types import JsonObject

KEY = "VIDEODIT_API_KEY"
"""The environment variable that holds the key of a server."""
FORMATS = {".mp4": "video", ".gif": "gif", ".webp": "webp"}
"""The variant of a clip that a server gives, by the output's suffix."""
_PATIENCE = 60.0  # seconds for which a server that does not answer is asked again
_ENDED = ("completed", "failed")


class Server:
    """A videodit server.

    Args:
        url: such as ``http://127.0.0.1:8000``.

    Raises:
        InputError: no such address.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--server is {url!r}; it must be an address such as http://127.0.0.1:8000")
        if parts.username or parts.password:
            raise InputError(f"--server holds a name or a password; put the server's key into {KEY}")
        self.url = _base(url)
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        here = parts.hostname in ("127.0.0.1", "localhost", "::1")  # no proxy stands between
        self._client = _connect(self.url, headers, trust_env=not here)

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def call(self, method: str, path: str, **options: Any) -> JsonObject:
        """The JSON that a request is answered with. A server that does not answer is asked again for a minute.

        Raises:
            InputError: the server refuses it.
            RemoteError: the server failed, cannot be reached, or is another one than videodit's.
        """
        return self._read(self._send(method, path, **options))

    def _read(self, answer: httpx2.Response) -> JsonObject:
        if not answer.is_success:
            raise _refusal(answer)
        try:
            found: Any = answer.json()
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        raise RemoteError(
            f"--server {self.url} answered with something that is not a JSON object; is it a videodit server?"
        )

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        end, pause = time.monotonic() + _PATIENCE, 0.2
        while True:
            try:
                answer = self._client.request(method, path, **options)
                if answer.status_code not in (429, 502, 503, 504) or time.monotonic() > end:
                    return answer
                if answer.status_code == 429 and method == "POST":
                    return answer
                wait = _seconds(answer.headers.get("retry-after"), pause)
            except httpx2.TransportError as error:
                if time.monotonic() > end or isinstance(error, httpx2.ConnectError):
                    raise RemoteError(f"cannot reach --server {self.url}: {error}") from error
                wait = pause
            time.sleep(min(wait, 10.0))
            pause *= 2

    def upload(self, path: Path) -> str:
        """Send a picture or a clip. Returns its id.

        Raises:
            InputError: it cannot be read, or the server refuses it.
        """
        try:
            with path.open("rb") as file:
                sent = self.call("POST", "/v1/uploads", files={"file": (path.name, file)})
        except RemoteError:  # an OSError, too
            raise
        except OSError as error:
            raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
        return str(sent["id"])

    def download(self, id: str, output: Path) -> None:
        """Fetch a clip into a file, in the format of the file's suffix.

        Raises:
            RemoteError: it broke off.
        """
        variant = FORMATS[output.suffix.lower()]
        try:
            with (
                replacing(output) as partial,
                self._client.stream("GET", f"/v1/videos/{id}/content", params={"variant": variant}) as answer,
            ):
                if not answer.is_success:
                    answer.read()
                    raise _refusal(answer)
                with partial.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
        except httpx2.TransportError as error:
            again = f"`{self.download_command(id, output)}` fetches it again"
            raise RemoteError(f"the clip {id} broke off on its way: {error}; {again}") from error

    def download_command(self, id: str, output: Path) -> str:
        """The command that fetches a clip into a file, as a shell takes it; a file that is there is replaced."""
        words = ["videodit", "jobs", "download", id, "-o", str(output)]
        if os.path.lexists(output):
            words.append("--overwrite")
        if self.url != _base(os.environ.get(JOBS_VARIABLE) or JOBS_SERVER):
            words += ["--server", self.url]
        return shlex.join(words)

    def wait(self, id: str, progress: Progress) -> JsonObject:
        """A job, once it is finished."""
        stage = None
        while True:
            answer = self._send("GET", f"/v1/videos/{id}")
            job = self._read(answer)
            if job["status"] in _ENDED:
                return job
            now = _stage(job)
            if now != stage:
                stage = now
                progress.stage(now, job["steps"] or None if job["stage"] == "sampling" else None, done=job["step"])
            progress.step(job["step"])
            time.sleep(_seconds(answer.headers.get("openai-poll-after-ms"), 500.0) / 1000)


def _base(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


def _connect(url: str, headers: dict[str, str], *, trust_env: bool) -> httpx2.Client:
    return httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=trust_env)


def _seconds(text: str | None, default: float) -> float:
    try:
        return default if text is None else float(text)
    except ValueError:
        return default


def _refusal(answer: httpx2.Response) -> Exception:
    """What a server says against a request."""
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"it answered {answer.status_code}"
    message = printable(message)
    if answer.status_code == 401:
        return InputError(f"the server wants a key: {message}; put it into the environment variable {KEY}")
    if answer.status_code >= 500 or answer.status_code == 429:
        return RemoteError(f"the server cannot do it now: {message}")
    return InputError(f"the server refuses it: {as_typed(message)}")


def _stage(job: JsonObject) -> str:
    if job["status"] == "queued":
        if job["paused"]:
            return "paused on the server"
        return printable(f"waiting on the server, place {job['queue_position']} of its queue")
    return printable(str(job["stage"] or "starting"))
