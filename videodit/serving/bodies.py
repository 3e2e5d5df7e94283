"""Bodies of requests: JSON, or forms with files, both as the same values."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request

from videodit.errors import InputError
from videodit.serving.errors import APIError
from videodit.serving.forms import nested
from videodit.serving.state import ServerState


async def read_body(request: Request, state: ServerState, owner: str) -> dict[str, Any]:
    """The fields of a request.

    Raises:
        APIError: it is too large, or neither a JSON object nor a form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form() as form:
            pairs = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        try:
            return nested(pairs)
        except InputError as error:
            raise APIError(400, str(error), code="invalid_form") from None
    try:
        values = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        raise APIError(400, "the body is not JSON", code="invalid_json") from None
    if not isinstance(values, dict):
        raise APIError(400, "the body must be a JSON object", code="invalid_json")
    return values
