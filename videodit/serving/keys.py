"""Who may: keys, which are kept as hashes alone, and the sessions of browsers that sent one.

A key is 256 random bits, so that a plain SHA-256 of it tells nothing, and nobody guesses one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videodit.errors import InputError

if TYPE_CHECKING:
    from videodit.serving.store import JobStore

LOCAL = "local"
"""Owner of what is asked for where no keys are needed. A key of this name sees the same."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEY = re.compile(r"vd_[A-Za-z0-9_-]{43}")
_WINDOW = 900.0  # seconds over which failed logins are counted
_MOST_ADDRESSES = 10_000


@dataclass(frozen=True)
class Key:
    """A key, without what is secret of it.

    Attributes:
        name: also the owner of all that is asked for with it.
        created: seconds since 1970.
        concurrency: jobs of it that may wait or run; ``None``: the server's limit.
    """

    name: str
    created: float
    concurrency: int | None = None


class KeyRing:
    """Keys and sessions in the store's file.

    Args:
        store: of this thread.
        clock: seconds since 1970.
    """

    def __init__(self, store: JobStore, *, clock: Callable[[], float] = time.time) -> None:
        self._db, self._clock = store.connection, clock

    def add(self, name: str, *, concurrency: int | None = None) -> str:
        """Make a key.

        Returns:
            What its user sends. It is kept nowhere.

        Raises:
            InputError: an illegal name, or one that is taken.
        """
        if _NAME.fullmatch(name) is None:
            raise InputError(f"the key's name is {name!r}; it must be 1 to 64 of A-Z, a-z, 0-9, _, . and -")
        if concurrency is not None and concurrency < 1:
            raise InputError(f"concurrency is {concurrency}; it must be at least 1")
        if any(one.name == name for one in self.list()):
            raise InputError(f"there is a key {name!r} already; remove it first")
        key = f"vd_{secrets.token_urlsafe(32)}"
        options = {} if concurrency is None else {"concurrency": concurrency}
        self._db.execute(
            "INSERT INTO keys (name, hash, created, options) VALUES (?, ?, ?, ?)",
            (name, _hash(key), self._clock(), json.dumps(options)),
        )
        return key

    def list(self) -> list[Key]:
        """All keys, by name."""
        rows = self._db.execute("SELECT name, created, options FROM keys ORDER BY name")
        return [Key(name, created, **json.loads(options)) for name, created, options in rows]

    def remove(self, name: str) -> bool:
        """Have a key and its sessions open nothing any more. Returns whether it was there."""
        self._db.execute("DELETE FROM sessions WHERE owner = ?", (name,))
        return self._db.execute("DELETE FROM keys WHERE name = ?", (name,)).rowcount > 0

    @property
    def is_empty(self) -> bool:
        """Whether there are no keys."""
        return self._db.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is None

    def find(self, key: str) -> Key | None:
        """Whose key it is."""
        if _KEY.fullmatch(key) is None:
            return None
        digest = _hash(key)
        row = self._db.execute("SELECT name, created, options, hash FROM keys WHERE hash = ?", (digest,)).fetchone()
        if row is None or not hmac.compare_digest(row[3], digest):
            return None
        return Key(row[0], row[1], **json.loads(row[2]))

    def by_name(self, name: str) -> Key | None:
        """The key of a name."""
        return next((one for one in self.list() if one.name == name), None)

    # ---- sessions

    def open_session(self, owner: str, seconds: float) -> str:
        """What a browser sends in place of a key, for so long."""
        now, token = self._clock(), secrets.token_urlsafe(32)
        self._db.execute("DELETE FROM sessions WHERE expires < ?", (now,))
        self._db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (_hash(token), owner, now + seconds))
        return token

    def session(self, token: str) -> str | None:
        """Whose session it is."""
        if not 0 < len(token) <= 100 or not token.isascii():
            return None
        digest = _hash(token)
        row = self._db.execute(
            "SELECT s.owner, s.hash FROM sessions s JOIN keys k ON k.name = s.owner WHERE s.hash = ? AND s.expires > ?",
            (digest, self._clock()),
        ).fetchone()
        return row[0] if row is not None and hmac.compare_digest(row[1], digest) else None

    def close_session(self, token: str) -> None:
        """Have it open nothing any more."""
        self._db.execute("DELETE FROM sessions WHERE hash = ?", (_hash(token),))


class FailedLogins:
    """Counts failed logins by address, in memory.

    Args:
        most: of one address in a quarter of an hour.
        clock: seconds that never fall.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Seconds until an address may try again; 0: now."""
        now = self._clock()
        recent = [one for one in self._times.get(address, ()) if one > now - _WINDOW]
        return 0 if len(recent) < self._most else max(1, round(recent[-self._most] + _WINDOW - now))

    def add(self, address: str) -> None:
        """Count one."""
        times = self._times.pop(address, [])
        self._times[address] = [*times[1 - self._most :], self._clock()] if self._most > 1 else [self._clock()]
        while len(self._times) > _MOST_ADDRESSES:
            self._times.popitem(last=False)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
