"""A report: the explanations of many photos as a page that opens from disk.

It is one file, or a page with a folder of data beside it whose files are read when they are needed.
Nothing of it asks any other computer for anything, and its policy forbids that, too.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image

from guidxmage.errors import InputError
from guidxmage.files.atomic import atomic_file
from guidxmage.files.names import shown
from guidxmage.files.result_folder import Kind, atomic_folder, write_mark
from guidxmage.viewer.page_files import asset, inline, script_of, viewer_css
from guidxmage.viewer.report_network import KIND as NETWORK_KIND
from guidxmage.viewer.report_network import ReportNetwork, network_folder
from guidxmage.viewer.scene import Scene

MOST_PHOTOS, MOST_BYTES = 100, 2**28
"""A report of more photos, or of more bytes of arrays, has its data in a folder beside it."""
SCHEMA = "guid-xmage/report/1"
KIND = Kind((SCHEMA,))
"""What the folder of data is told by."""

_PAGE, _PHOTOS = "report.html", "<!-- photos -->\n"
_HEAD = asset(_PAGE).split("<head>")[0].encode()
_THUMBNAIL = 176  # pixels: twice as many as it is shown at
_PACKED = 3  # half the time of 6 for a fiftieth more bytes


@dataclass(frozen=True)
class ReportPhoto:
    """One photo, ready to be written: its line of the index, and its manifest and arrays as JSON.

    key: of the data, by which the page tells whether a file of data is its own.
    """

    line: Mapping[str, Any]
    data: str
    key: str

    @classmethod
    def of(cls, scene: Scene, summary: Mapping[str, Any], result: str) -> ReportPhoto:
        """From a scene, what a list says of it, and where its result is.

        Raises InputError for numbers that are none.
        """
        arrays = {name: _packed(scene.bytes_of(name)) for name in scene.arrays}
        data = _json({"manifest": scene.manifest, "arrays": arrays})
        key = hashlib.sha256(data.encode()).hexdigest()[:16]
        line = {**summary, "result": result, "key": key, "thumbnail": _thumbnail(scene)}
        _json(line)
        return cls(line, data, key)


def _packed(content: bytes) -> str:
    # Without a time the same numbers are the same text.
    return base64.b64encode(gzip.compress(content, _PACKED, mtime=0)).decode("ascii")


def _json(content: Any) -> str:
    """As text that can stand in a page: in ASCII, and with nothing that ends an element."""
    try:
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise InputError("a result holds numbers that are none, so it cannot be shown") from error
    return text.replace("<", "\\u003c")


def _thumbnail(scene: Scene) -> str | None:
    """The picture, small, as an address that holds it."""
    if "picture" not in scene.arrays:
        return None
    picture = Image.fromarray(scene.arrays["picture"])
    file = io.BytesIO()
    if max(picture.size) > _THUMBNAIL:
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        picture.save(file, "JPEG", quality=82)
        kind = "jpeg"
    else:
        picture.save(file, "PNG")
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def data_folder(path: Path) -> Path:
    """The folder beside a report that its data is in, where it is not in the report itself."""
    return path.with_name(f"{path.stem}_data")


def check_report(path: Path) -> None:
    """Raise InputError where there is something that a report may not replace."""
    if not os.path.lexists(path):
        return
    ours = False
    try:
        if path.is_file():  # opening a pipe would wait for somebody to write into it
            with path.open("rb") as file:
                ours = file.read(len(_HEAD)) == _HEAD
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not ours:
        raise InputError(
            f"{path} exists and is something other than an earlier report; choose another file"
        )


def write_report(
    path: Path,
    photos: Iterable[ReportPhoto],
    *,
    title: str,
    beside: bool,
    network: ReportNetwork | None = None,
    overwrite: bool = False,
) -> int:
    """Write a report; returns of how many photos.

    beside: whether the data goes into a folder beside it. network: what the page can ask, which
    goes into a folder of its own. Everything appears whole or not at all; one photo at a time is in
    memory. An earlier report is replaced, and nothing else: overwrite also lets go files of data
    that were changed since. Raises InputError, also for no photos.
    """
    check_report(path)
    title = shown(title)
    count = 0
    with ExitStack() as stack:
        # What is opened first appears last: a page never stands there without its data.
        file = stack.enter_context(atomic_file(path))
        new = None
        if beside:
            data = atomic_folder(data_folder(path), KIND, overwrite=overwrite)
            new = stack.enter_context(data)
        if network is not None:
            own = atomic_folder(network_folder(path), NETWORK_KIND, overwrite=overwrite)
            network.write(stack.enter_context(own))
        index = stack.enter_context(tempfile.TemporaryFile())
        start, end = _page(title, beside=beside, network=network is not None)
        file.write(start)
        for count, photo in enumerate(photos, start=1):
            number = f"{count:04d}"
            line = _json({"id": number, **photo.line})
            index.write(f"{'' if count == 1 else ','}{line}\n".encode())
            _write_data(file if new is None else new, number, photo)
        if count == 0:
            raise InputError("there is no result that a report could show")
        about = {
            "title": title,
            "data": data_folder(path).name if beside else None,
            "network": None if network is None else network.about(network_folder(path)),
        }
        file.write(b'<script type="application/json" id="gx-about">')
        file.write(_json(about).encode() + b"</script>\n")
        file.write(b'<script type="application/json" id="gx-index">[')
        index.seek(0)
        shutil.copyfileobj(index, file)
        file.write(b"]</script>\n" + end)
        if new is not None:
            write_mark(new, {"schema": SCHEMA, "report": path.name, "photos": count})
        check_report(path)  # somebody may have put a file there meanwhile
    return count


def _write_data(where: IO[bytes] | Path, number: str, photo: ReportPhoto) -> None:
    """Into the page, as text that is not run, or into a file of its own."""
    if isinstance(where, Path):
        script = f'guidXmageData("{number}", "{photo.key}", {photo.data});\n'
        (where / f"{number}.js").write_text(script, encoding="ascii")
        return
    where.write(f'<script type="application/json" id="gx-photo-{number}">'.encode())
    where.write(photo.data.encode("ascii"))
    where.write(b"</script>\n")


def _page(title: str, *, beside: bool, network: bool) -> tuple[bytes, bytes]:
    """What stands before the photos, and what behind them."""
    style = viewer_css() + asset("report.css")
    script = inline(script_of("report")) + "guidXmage.startReport();\n"
    if "</style" in style.lower():
        raise AssertionError("the style sheet would end its own element")
    own = {
        "title": html.escape(title),
        "policy": html.escape(_policy(style, script, beside=beside, network=network)),
        "style": style,
        "script": script,
    }
    # At once, so that nothing in one of them is taken for the place of another.
    page = re.sub(r"\{(title|policy|style|script)\}", lambda found: own[found[1]], asset(_PAGE))
    start, end = page.split(_PHOTOS, 1)
    return start.encode(), end.encode()


def _policy(style: str, script: str, *, beside: bool, network: bool) -> str:
    """What the page may do: run its own script, wear its own style, show pictures it holds.

    With a network also: read the files beside it, and run them as WebAssembly in a worker, which
    is made of a text so that this policy holds in it, too.
    """
    files = " 'self' file:" if beside else " 'self'" if network else ""
    runs = " 'wasm-unsafe-eval'" if network else ""
    asks = "connect-src 'self'; worker-src blob:; " if network else ""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'{files}{runs}; {asks}"
        f"style-src '{_hash(style)}'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
