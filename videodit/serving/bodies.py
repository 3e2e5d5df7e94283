"""Bodies of requests: JSON, or forms with files, both as the same values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fastapi import Request

from videodit.errors import InputError
from videodit.serving.errors import APIError
from videodit.serving.forms import nested
from videodit.serving.spooling import Spool, spool_form
from videodit.serving.state import ServerState

MOST_DEPTH = 32
"""Lists and objects inside each other."""


async def read_body(request: Request, state: ServerState, owner: str) -> dict[str, Any]:
    """The fields of a request. Its files are uploads then, which :class:`videodit.serving.gate.Gate` removes if the
    request fails after all.

    Args:
        request: its body was not read.
        state: of the server.
        owner: whose uploads they are.

    Returns:
        Values by name; each file is ``{"id": "upload_…"}``.

    Raises:
        APIError: it is too large, or neither a JSON object nor a form.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        with Spool(state.data.spool) as spool:
            fields = await spool_form(content_type, request.stream(), spool, state.config.limits)
            pairs: list[tuple[str, Any]] = []
            for name, value in fields:
                if isinstance(value, Path):
                    upload = await state.uploads.take(value, owner)
                    request.state.fresh_uploads.append(upload.id)
                    pairs.append((name, {"id": upload.id}))
                else:
                    pairs.append((name, value))
        try:
            return nested(pairs)
        except InputError as error:
            raise APIError(400, str(error), code="invalid_form") from None
    values = parse_json(await request.body() or b"{}")
    if not isinstance(values, dict):
        raise _bad_json("it must be an object")
    return values


def forget_files(request: Request, state: ServerState) -> None:
    """Remove the files that came with a request: nobody needs them."""
    while request.state.fresh_uploads:
        state.uploads.remove(request.state.fresh_uploads.pop())


def parse_json(data: bytes) -> Any:
    """What a JSON text holds. Nothing of it is ambiguous, endless or impossible to send on.

    Raises:
        APIError: it is not JSON in UTF-8; or it repeats a key, nests too deeply, or holds a number that no float can
            be, or half of a character.
    """
    try:
        values = json.loads(data.decode(), object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite)
        _check(values)
        return values
    except RecursionError:
        raise _bad_json(f"it nests deeper than {MOST_DEPTH} levels") from None
    except UnicodeError:
        raise _bad_json("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _bad_json(f"{error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise _bad_json(str(error)[:200]) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it repeats the key {next(name for name in names if names.count(name) > 1)[:64]!r}")
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:32]}, and numbers must be finite")
    return value


def _check(values: Any) -> None:
    """Raises ValueError for what nests too deeply, and for halves of characters."""
    level = [values]
    for _ in range(MOST_DEPTH + 1):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
                below += one.keys()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str) and not one.isascii() and any("\ud800" <= char <= "\udfff" for char in one):
                raise ValueError("a text of it holds half of a character")
        if not below:
            return
        level = below
    raise RecursionError


def _bad_json(why: str) -> APIError:
    return APIError(400, f"the body is not JSON that can be read: {why}", code="invalid_json")
