"""The page at `/`: a few static files of the package, under a policy that lets in nothing from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Header, Request, Response

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


def _read() -> tuple[str, dict[str, _File]]:
    """The files by name, and the folder that the page finds them in, whose name changes with what they hold."""
    found = {}
    for entry in files("videodit.serving").joinpath("page").iterdir():
        kind = _TYPES.get(f".{entry.name.rpartition('.')[2]}")
        if kind is not None:
            found[entry.name] = entry.read_bytes(), kind
    version = hashlib.sha256(b"".join(found[name][0] for name in sorted(found))).hexdigest()[:16]
    folder = f"/page/{version}/"
    content, kind = found["index.html"]
    found["index.html"] = content.replace(b"/page/", folder.encode()), kind
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, (content, _) in found.items()}
    return folder, {name: _File(*found[name], tags[name]) for name in found}


FOLDER, _FILES = _read()
"""Where the page's files are. They can be kept for ever, since a file that differs is in another folder."""


@router.get("/")
async def page(if_none_match: str | None = Header(None)) -> Any:
    """The page itself."""
    return _answer("/page/index.html", if_none_match)


@router.get("/page/{rest:path}")
async def part(request: Request, if_none_match: str | None = Header(None)) -> Any:
    """One of its files."""
    return _answer(request.url.path, if_none_match)


def is_page(path: str) -> bool:
    """Whether an address is the page's or one of its files', which are the same for everybody and hold nothing."""
    return path == "/" or _name_of(path) in _FILES


def _name_of(path: str) -> str:
    return path.removeprefix(FOLDER if path.startswith(FOLDER) else "/page/")


def _answer(path: str, seen: str | None) -> Response:
    if (file := _FILES.get(_name_of(path))) is None:
        raise not_found(f"file {path.removeprefix('/page/')[:64]!r}")
    kept = "public, max-age=31536000, immutable" if path.startswith(FOLDER) else "no-cache"
    headers = {"ETag": file.tag, "Cache-Control": kept, "Content-Security-Policy": POLICY}
    if seen == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.kind, headers=headers)
