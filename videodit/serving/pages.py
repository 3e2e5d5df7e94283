"""The page at `/`: a few static files of the package, under a policy that lets in nothing from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Header, Response

from videodit.serving.errors import not_found

router = APIRouter(include_in_schema=False)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    kind: str
    tag: str


def _read() -> dict[str, _File]:
    found = {}
    for entry in files("videodit.serving").joinpath("page").iterdir():
        kind = _TYPES.get(f".{entry.name.rpartition('.')[2]}")
        if kind is not None:
            content = entry.read_bytes()
            found[entry.name] = _File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return found


_FILES = _read()


@router.get("/")
async def page(if_none_match: str | None = Header(None)) -> Any:
    """The page itself."""
    return _answer("index.html", if_none_match)


@router.get("/page/{name}")
async def part(name: str, if_none_match: str | None = Header(None)) -> Any:
    """One of its files."""
    return _answer(name, if_none_match)


def is_page(path: str) -> bool:
    """Whether an address is the page's or one of its files', which are the same for everybody and hold nothing."""
    return path == "/" or (path.startswith("/page/") and path.removeprefix("/page/") in _FILES)


def _answer(name: str, seen: str | None) -> Response:
    if (file := _FILES.get(name)) is None:
        raise not_found(f"file {name[:64]!r}")
    headers = {
        "ETag": file.tag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    if seen == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.kind, headers=headers)
