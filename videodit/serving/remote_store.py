"""The store as a worker on another machine sees it: the same methods, asked of a server over HTTP."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx2

from videodit.json_types import JsonObject
from videodit.serving.claims import ClaimLost, Wishes
from videodit.serving.delivered import SAID
from videodit.serving.records import Claim, Job
from videodit.serving.unavailable import StoreUnavailable

_SECONDS = 60.0  # for an answer
_PAUSE = 0.5  # seconds before a question is asked again
_BUSY = (500, 502, 503, 504)


class RemoteStore:
    """Asks a server. Questions about a job are asked again while the server is away, for as long as the claim lasts.

    Args:
        url: of the server.
        key: :attr:`ServerConfig.worker_key`.
        worker: the worker's name.
        transport: in place of the network, for tests.

    Attributes:
        lease: seconds without a sign of life after which a job is lost; the server says so with the first answer.
    """

    def __init__(self, url: str, key: str, worker: str, *, transport: httpx2.BaseTransport | None = None) -> None:
        self.url, self.key, self.worker, self.transport = url, key, worker, transport
        self.lease = 30.0

    @functools.cached_property
    def _client(self) -> httpx2.Client:
        """Made once it is needed, since that takes a while, and kept, with its connection."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx2.Client(
            base_url=self.url, headers=headers, timeout=_SECONDS, trust_env=False, transport=self.transport
        )

    def again(self) -> RemoteStore:
        """The same for another thread."""
        store = RemoteStore(self.url, self.key, self.worker, transport=self.transport)
        store.lease = self.lease
        return store

    def close(self) -> None:
        """Let go of the connection."""
        if "_client" in vars(self):
            self._client.close()

    # ---- what a worker asks

    def claim(self, worker: str, models: Sequence[str], *, wait: float = 0.0) -> Job | None:
        """See :meth:`JobStore.claim`; waits so many seconds for a job.

        Raises:
            StoreUnavailable: the server is away.
        """
        told = self._ask(f"/workers/{quote(worker)}/claim", {"models": list(models), "wait": wait})
        self.lease = float(told["lease"])
        return None if told["job"] is None else Job(**told["job"])

    def beat(self, claim: Claim, **reached: Any) -> Wishes:
        """See :meth:`JobStore.beat`.

        Raises:
            ClaimLost: the job is no longer this worker's, or the server was away too long.
        """
        return Wishes(**self._ask_about(claim, "beat", {"reached": reached}))

    def complete(
        self, claim: Claim, files: Sequence[Path], *, output: JsonObject, recipe: JsonObject, reached: JsonObject
    ) -> bool:
        """See :meth:`JobStore.complete`. The server decides when the clip expires.

        Args:
            claim: of the job.
            files: of the clip, which go with the same request.
            output: see :attr:`Job.output`.
            recipe: of the clip.
            reached: what :meth:`beat` has not told yet.

        Raises:
            ClaimLost: the job is no longer this worker's.
        """
        said = json.dumps({"output": output, "recipe": recipe, "reached": reached}).encode()

        def post() -> Any:
            with contextlib.ExitStack() as opened:
                parts: list[tuple[str, Any]] = [(SAID, (SAID, said, "application/json"))]
                parts += [(one.name, (one.name, opened.enter_context(one.open("rb")))) for one in files]
                return self._sent("POST", f"{_address(claim)}/complete", files=parts)

        return bool(self._repeat(claim, post)["counts"])

    def fail(self, claim: Claim, code: str, message: str, *, reached: JsonObject) -> bool:
        """See :meth:`JobStore.fail`; ``reached`` is what :meth:`beat` has not told yet."""
        said = {"code": code, "message": message, "reached": reached}
        return bool(self._ask_about(claim, "fail", said)["counts"])

    def put_back(self, claim: Claim) -> None:
        """Have a job begun by another worker; the attempt does not count."""
        self._ask_about(claim, "put_back", {})

    def needs(self, id: str) -> Literal["nothing"]:
        """What of a job's files is to stay on this machine."""
        return "nothing"

    def publish(self, name: str, card: JsonObject) -> None:
        """See :meth:`JobStore.publish`."""
        self._publish(cards={name: card})

    def publish_problem(self, name: str, problem: str) -> None:
        """See :meth:`JobStore.publish_problem`."""
        self._publish(problems={name: problem})

    def publish_machine(self, worker: str, facts: JsonObject) -> None:
        """See :meth:`JobStore.publish_machine`."""
        self._publish(machine=facts)

    def set_worker(self, name: str, state: Literal["starting", "ready"] | None) -> None:
        """See :meth:`JobStore.set_worker`."""
        self._publish(is_now=state or "gone")

    def jobs(self) -> int:
        """How many wait or run.

        Raises:
            StoreUnavailable: the server is away.
        """
        told = self._sent("GET", "/workers/queue")
        return int(told["queued"]) + int(told["in_progress"])

    # ---- files

    def fetch(self, claim: Claim, source: str, path: Path) -> None:
        """Write a file that a job starts from.

        Raises:
            ClaimLost: it is not there any more.
        """
        address = f"{_address(claim)}/sources/{quote(source)}"
        self._repeat(claim, lambda: self._download(address, path))

    def send_preview(self, claim: Claim, file: Path) -> None:
        """Send a preview, before the beat that tells of it.

        Raises:
            ClaimLost: the job is no longer this worker's.
        """
        address = f"{_address(claim)}/preview"

        def put() -> None:
            with file.open("rb") as content:
                self._sent("PUT", address, content=content)

        self._repeat(claim, put)

    def _download(self, address: str, path: Path) -> None:
        try:
            with self._client.stream("GET", address) as answer, path.open("wb") as file:
                _check(answer)
                for chunk in answer.iter_bytes():
                    file.write(chunk)
        except httpx2.TransportError as error:
            raise StoreUnavailable(f"the server does not answer: {error}") from error

    def _publish(self, **said: Any) -> None:
        self._ask(f"/workers/{quote(self.worker)}/publish", said)

    def _ask_about(self, claim: Claim, what: str, body: JsonObject) -> Any:
        return self._repeat(claim, lambda: self._ask(f"{_address(claim)}/{what}", body))

    def _repeat(self, claim: Claim, ask: Any) -> Any:
        end = time.monotonic() + self.lease
        while True:
            try:
                return ask()
            except StoreUnavailable:
                if time.monotonic() > end:
                    raise ClaimLost(claim.job) from None
                time.sleep(_PAUSE)

    def _ask(self, address: str, body: JsonObject) -> Any:
        return self._sent("POST", address, json=body)

    def _sent(self, method: str, address: str, **content: Any) -> Any:
        try:
            answer = self._client.request(method, address, **content)
        except httpx2.TransportError as error:
            raise StoreUnavailable(f"the server does not answer: {error}") from error
        _check(answer)
        return answer.json()


def _address(claim: Claim) -> str:
    return f"/workers/{quote(claim.worker)}/jobs/{claim.job}/{claim.attempt}"


def _check(answer: httpx2.Response) -> None:
    if answer.status_code in _BUSY:
        raise StoreUnavailable(f"the server answers with status {answer.status_code}")
    if answer.status_code in (404, 409):
        raise ClaimLost(str(answer.url))
    answer.raise_for_status()
