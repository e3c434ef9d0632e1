"""What `image(...)` accepts, and the bytes that it becomes.

A file, bytes, a data URL or an image of Pillow. A web address is not fetched unless the program says
so: what a program shows to a model then does not depend on a server by accident.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from ..contracts.errors import BadArgument

MAX_BYTES = 20 * 2**20
"""of one image; the largest that the vendors take"""
FETCH_S = 15.0

_KINDS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF87a", "image/gif"), (b"GIF89a", "image/gif"))
_DATA_URL = re.compile(r"data:[\w/+.-]*;base64,", re.ASCII)
_WEB_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Picture(NamedTuple):
    media_type: str
    data: bytes


@runtime_checkable
class _Pillow(Protocol):
    @property
    def mode(self) -> str: ...

    def save(self, fp: BytesIO, format: str) -> None: ...


def picture_of(source: object, *, fetch: bool = False) -> Picture:
    """The bytes of an image. BadArgument for what is none, or is too large, or may not be fetched."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _checked(bytes(source), "the bytes")
    if isinstance(source, os.PathLike):
        return _from_file(Path(source))
    if isinstance(source, str):
        if found := _DATA_URL.match(source):
            try:
                return _checked(base64.b64decode(source[found.end() :], validate=True), "the data URL")
            except binascii.Error:
                raise BadArgument("the data URL of an image is not base64") from None
        return _from_web(source, fetch) if _WEB_URL.match(source) else _from_file(Path(source).expanduser())
    if isinstance(source, _Pillow):
        kept = BytesIO()
        source.save(kept, "PNG")
        return _checked(kept.getvalue(), "the image")
    raise BadArgument(
        f"an image is a file, bytes, a data URL or an image of Pillow, not {type(source).__name__}",
        hint="PIL.Image.fromarray(array) makes one of an array",
    )


def _from_file(path: Path) -> Picture:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _too_large(path, path.stat().st_size)
        return _checked(path.read_bytes(), str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, BadArgument):
            raise
        raise BadArgument(f"cannot read the image {str(path)!r:.200}: {getattr(error, 'strerror', None) or error}") from None


def _from_web(url: str, fetch: bool) -> Picture:
    if not fetch:
        raise BadArgument(f"image({url!r:.80}) is an address, which is not fetched", hint="save it, or consent with image(url, fetch=True)")
    if not url.lower().startswith(("https://", "http://")):
        raise BadArgument(f"an image is fetched from an https address, not {url!r:.80}")
    from urllib.request import Request, urlopen  # loaded by programs that fetch

    try:
        with urlopen(Request(url, headers={"User-Agent": "sgl_lab"}), timeout=FETCH_S) as response:
            data = response.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadArgument(f"cannot fetch the image {url!r:.200}: {error}") from None
    return _checked(data, url)


def _checked(data: bytes, what: str) -> Picture:
    if len(data) > MAX_BYTES:
        raise _too_large(what, len(data))
    media_type = next((media_type for mark, media_type in _KINDS if data.startswith(mark)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        media_type = "image/webp"
    if media_type is None:
        raise BadArgument(f"{what!s:.200} is no PNG, JPEG, GIF or WebP image", hint="convert it to one of them")
    return Picture(media_type, data)


def _too_large(what: object, n_bytes: int) -> BadArgument:
    return BadArgument(f"{what!s:.200} has {n_bytes / 2**20:.0f} MiB, an image may have {MAX_BYTES >> 20}", hint="make it smaller")
