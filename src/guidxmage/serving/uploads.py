"""Photos that a browser sends: taken into memory within limits, never onto the disk."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from guidxmage.errors import InputError
from guidxmage.files.names import brief
from guidxmage.inputs.photos import open_image_bytes
from guidxmage.serving.replies import RefusedError

FIELD = "photo"
# Formats of photos; Pillow reads many more, which are of no use here.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 60_000_000
_MOST_PARTS = 8
_LONGEST_NAME = 100


class Upload:
    """One photo as it was sent. name: what it is called, which is never a path."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.content = name, content


async def read_upload(content_type: str, stream: AsyncIterator[bytes]) -> Upload:
    """The photo in a multipart body. Raises RefusedError for what holds none, or several."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise RefusedError(415, "send the photo as multipart/form-data")
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks)  # type: ignore[arg-type]
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except FormParserError:
        raise RefusedError(400, "the upload is damaged; send it again") from None
    if parts.content is None or not parts.ended:
        raise RefusedError(400, f"there is no complete file in the field {FIELD!r}")
    return Upload(display_name(parts.name), bytes(parts.content))


def formats() -> tuple[str, ...]:
    """The formats that are taken, as far as Pillow was built with them."""
    Image.init()
    return tuple(one for one in _FORMATS if one in Image.OPEN)


def check_photo(upload: Upload) -> None:
    """Raise InputError for what is no photo, or has too many pixels; only the head is read."""
    with open_image_bytes(upload.content, upload.name, formats()) as opened:
        width, height = opened.size
        if width * height > MOST_PIXELS:
            raise InputError(
                f"{upload.name} has {width}×{height} pixels; at most {MOST_PIXELS // 10**6} "
                "million are taken here"
            )


def display_name(stated: str) -> str:
    """What a browser calls a file, without folders, as one short line."""
    last = re.split(r"[/\\]", stated)[-1].strip()
    return brief(last, _LONGEST_NAME) if last.strip(". ") else "photo"


class _Parts:
    """What the parser finds: the bytes of one field, and nothing kept of the others."""

    def __init__(self) -> None:
        self.content: bytearray | None = None
        self.name, self.ended = "", False
        self._count, self._inside = 0, False
        self._key, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}

    @property
    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_header_field": lambda data, a, b: self._key.extend(data[a:b]),
            "on_header_value": lambda data, a, b: self._value.extend(data[a:b]),
            "on_header_end": self._header,
            "on_headers_finished": self._found,
        }

    def _begin(self) -> None:
        self._count += 1
        if self._count > _MOST_PARTS:
            raise RefusedError(400, "the upload has too many parts")
        self._headers.clear()

    def _header(self) -> None:
        self._headers[bytes(self._key).lower()] = bytes(self._value)
        self._key.clear()
        self._value.clear()

    def _found(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._inside = options.get(b"name") == FIELD.encode()
        if not self._inside:
            return
        if self.content is not None:
            raise RefusedError(400, "send one photo at a time")
        self.content = bytearray()
        self.name = options.get(b"filename", b"").decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._inside and self.content is not None:
            self.content += memoryview(data)[start:end]

    def _end(self) -> None:
        self.ended = self.ended or self._inside
        self._inside = False
