"""HTTP as uvicorn speaks it, but with a limit on how long a connection may take to send a request's headers."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def timed_protocol(seconds: float) -> type[asyncio.Protocol]:
    """A protocol for uvicorn.

    Args:
        seconds: from the connection, or the first byte of a later request on it, to the end of the headers.
    """

    class TimedProtocol(H11Protocol):
        _headers_due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_headers()

        def data_received(self, data: bytes) -> None:
            if self.conn.their_state is h11.IDLE:
                self._expect_headers()
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._headers_came()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_came()
            super().connection_lost(exc)

        def _expect_headers(self) -> None:
            if self._headers_due is None:
                self._headers_due = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

        def _headers_came(self) -> None:
            if self._headers_due is not None:
                self._headers_due.cancel()
                self._headers_due = None

    return TimedProtocol
