"""Answers that are errors, in the form that OpenAI's clients read."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


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


def install(app: FastAPI) -> None:
    """Have every error be answered in the one form, whoever raises it."""
    app.add_exception_handler(APIError, answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unexpected)


_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


async def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    """A parameter of the address, or a small body, that is wrong."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return APIError(400, f"{place}: {first['msg']}", code="invalid_value", param=place).response


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is nothing at {request.url.path[:200]!r}"
    elif error.status_code == 405:
        message = f"{request.method} cannot be used on {request.url.path[:200]!r}"
    headers = dict(error.headers) if error.headers else None
    return APIError(error.status_code, message, code=_CODES.get(error.status_code), headers=headers).response


async def _answer_unexpected(_: Request, __: Exception) -> JSONResponse:
    return APIError(500, "the server ran into an error that its log describes", code="internal_error").response


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """For FastAPI's exception handlers."""
    assert isinstance(error, APIError)
    return error.response
