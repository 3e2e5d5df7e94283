"""Answers that are errors, in the form that OpenAI's clients read."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import JSONResponse


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


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """For FastAPI's exception handlers."""
    assert isinstance(error, APIError)
    return error.response


async def answer_unavailable(_: Request, error: Exception) -> JSONResponse:
    """Nothing can be written down now; the disk may be full."""
    return APIError(503, str(error), code="storage_unavailable", headers={"Retry-After": "30"}).response
