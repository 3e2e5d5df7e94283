"""Bodies of requests on their way to the disk: files of a form, or a body that is a file, go into the data folder."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from videodit.serving.config import ServerLimits
from videodit.serving.errors import APIError
from videodit.serving.uploads import is_no_room, no_disk

_MOST_HEADER_BYTES = 4096  # of a part, all its headers together
_LONGEST_NAME = 256


class Spool:
    """Files of one request. What nobody took is removed at the end of the ``with`` block.

    Args:
        folder: that they are in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[tuple[Path, BinaryIO]] = []

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        for path, file in self._files:
            file.close()
            path.unlink(missing_ok=True)

    def new(self) -> tuple[Path, BinaryIO]:
        """An empty file, for this user alone.

        Raises:
            APIError: the disk is full.
        """
        path = self._folder / secrets.token_hex(12)
        with _full_disk_told():
            file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
        self._files.append((path, file))
        return path, file


async def spool_body(chunks: AsyncIterator[bytes], spool: Spool) -> Path:
    """Write a body that is a file.

    Raises:
        APIError: the disk is full.
    """
    path, file = spool.new()
    with _full_disk_told(), file:
        async for chunk in chunks:
            file.write(chunk)
    return path


async def spool_form(
    content_type: str, chunks: AsyncIterator[bytes], spool: Spool, limits: ServerLimits
) -> list[tuple[str, str | Path]]:
    """Read a form.

    Args:
        content_type: the header, which tells where its parts end.
        chunks: the body.
        spool: where its files go.
        limits: how much of what it may hold.

    Returns:
        Its fields in their order: names with texts, or with files.

    Raises:
        APIError: it is no form, or too large a one.
    """
    _, options = parse_options_header(content_type)
    if not options.get(b"boundary"):
        raise _bad_form("its Content-Type tells no boundary")
    form = _Form(spool, limits)
    try:
        parser = MultipartParser(options[b"boundary"], cast(Any, form.callbacks))
        with _full_disk_told():
            async for chunk in chunks:
                parser.write(chunk)
    except FormParserError as error:
        raise _bad_form(str(error)) from None
    if not form.ended:
        raise _bad_form("it is cut short")
    return form.fields


class _Form:
    """What the parser calls."""

    def __init__(self, spool: Spool, limits: ServerLimits) -> None:
        self._spool, self._limits = spool, limits
        self.fields: list[tuple[str, str | Path]] = []
        self.ended = False
        self._parts, self._file_parts, self._text_bytes, self._header_bytes = 0, 0, 0, 0
        self._header, self._value, self._disposition = b"", b"", b""
        self._name = ""
        self._text = bytearray()
        self._file: tuple[Path, BinaryIO] | None = None
        self._has_filename = False
        self.callbacks: dict[str, Any] = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._limits.form_parts:
            raise APIError(413, f"the form has more than {self._limits.form_parts} parts", code="too_large")
        self._header = self._value = self._disposition = b""
        self._header_bytes = 0
        self._text, self._file = bytearray(), None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, more: int) -> None:
        self._header_bytes += more + 1
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise _bad_form(f"the headers of a part have more than {_MOST_HEADER_BYTES:,} bytes")

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if not name or len(name) > _LONGEST_NAME:
            raise _bad_form(f"a part has no name of 1 to {_LONGEST_NAME} bytes")
        self._name = _text(name, "a part's name")
        self._has_filename = b"filename" in options
        if options.get(b"filename"):
            self._file_parts += 1
            if self._file_parts > self._limits.form_files:
                raise APIError(413, f"the form has more than {self._limits.form_files} files", code="too_large")
            self._file = self._spool.new()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file[1].write(data[start:end])
            return
        self._text_bytes += end - start
        if self._text_bytes > self._limits.json_bytes:
            raise APIError(413, f"the form's fields have more than {self._limits.json_bytes:,} bytes", code="too_large")
        self._text += data[start:end]

    def _end(self) -> None:
        if self._file is not None:
            self._file[1].close()
            self.fields.append((self._name, self._file[0]))
        elif not self._has_filename or self._text:  # a page's form sends a file that was not chosen as an empty one
            self.fields.append((self._name, _text(bytes(self._text), f"the field {self._name!r}")))

    def _all(self) -> None:
        self.ended = True


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _bad_form(f"{what} is not UTF-8") from None


def _bad_form(why: str) -> APIError:
    return APIError(400, f"the form cannot be read: {why}", code="invalid_form")


@contextlib.contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_no_room(error):
            raise no_disk() from None
        raise
