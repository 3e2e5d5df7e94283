"""Answers that are errors, in the form that OpenAI's clients read."""

from __future__ import annotations

import logging
import sqlite3

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from videodit.serving.unavailable import StoreUnavailable

logger = logging.getLogger("videodit.serving.errors")


class APIError(Exception):
    """An answer other than success.

    Args:
        status: of HTTP.
        message: for people.
        code: for programs.
        param: the field of the request that is wrong.
        headers: to send along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    @property
    def response(self) -> JSONResponse:
        """The answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, status_code=self.status, headers=self.headers)


def not_found(what: str) -> APIError:
    """There is nothing of that id, or it is somebody else's."""
    return APIError(404, f"there is no {what}", code="not_found")


def answer_errors(app: FastAPI) -> None:
    """Have an application answer all errors in this form."""
    app.add_exception_handler(APIError, answer_error)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    for error in (StoreUnavailable, sqlite3.OperationalError):
        app.add_exception_handler(error, _answer_busy)
    app.add_exception_handler(Exception, _answer_crash)


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """The answer that an :class:`APIError` is."""
    assert isinstance(error, APIError)
    return error.response


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """What FastAPI refuses by itself: paths and methods that there are not."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    message = {404: f"there is nothing at {path!r}", 405: f"{request.method} is not for {path!r}"}
    code = {404: "not_found", 405: "wrong_method"}.get(error.status_code)
    headers = dict(error.headers or {})
    return APIError(
        error.status_code, message.get(error.status_code, str(error.detail)), code=code, headers=headers
    ).response


async def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    """Parts of an address, or fields, that do not fit."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"][1:])) or str(first["loc"][0])
    return APIError(400, f"{place}: {first['msg']}", code="invalid_value", param=place).response


async def _answer_busy(_: Request, error: Exception) -> JSONResponse:
    """Nothing can be written down now: the disk is full, or somebody else writes for very long."""
    return busy(error).response


def busy(error: Exception) -> APIError:
    """The store cannot be used now; the log says why."""
    logger.error("the store cannot be used: %s", error)
    return APIError(503, "nothing can be written down now", code="busy", headers={"Retry-After": "5"})


async def _answer_crash(_: Request, error: Exception) -> JSONResponse:
    """A mistake of ours: the log has it."""
    return APIError(500, "the server ran into an error that its log describes", code="internal_error").response
