"""What `image(...)` accepts, and the bytes that it becomes.

A file, bytes, base64, a data URL, an array or an image of Pillow. A web address is not fetched
unless the program says so: what a program shows to a model then does not depend on a server by
accident.
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
MAX_PIXELS = 40_000_000

_KINDS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF87a", "image/gif"), (b"GIF89a", "image/gif"))
_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
"""how a PNG, a JPEG, a GIF and a WebP begin in base64"""
_LONG = 50
"""characters that the smallest image has in base64"""
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
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

    def convert(self, mode: str) -> _Pillow: ...


@runtime_checkable
class _Array(Protocol):
    """Of numpy, or what shares its memory the same way."""

    @property
    def __array_interface__(self) -> dict[str, object]: ...


def picture_of(source: object, *, fetch: bool = False) -> Picture:
    """The bytes of an image. BadArgument for what is none, or is too large, or may not be fetched."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _checked(bytes(source), "the bytes")
    if isinstance(source, os.PathLike):
        return _from_file(Path(source))
    if isinstance(source, str):
        if found := _DATA_URL.match(source):
            return _from_base64(source[found.end() :], "the data URL of an image")
        if len(source) > _LONG and source.startswith(_BASE64):
            return _from_base64(source, "the text of an image")
        return _from_web(source, fetch) if _WEB_URL.match(source) else _from_file(Path(source).expanduser())
    if isinstance(source, _Pillow):
        return _checked(pixels_written(source), "the image")
    if isinstance(source, _Array):
        return _checked(pixels_written(_from_array(source)), "the array")
    raise BadArgument(f"an image is a file, bytes, base64, a data URL, an array or an image of Pillow, not {type(source).__name__}")


def _from_base64(text: str, what: str) -> Picture:
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise _too_large(what, len(text) * 3 // 4)
    try:
        return _checked(base64.b64decode(text, validate=True), what)
    except binascii.Error:
        raise BadArgument(f"{what} is not base64") from None


def pixels_written(image: _Pillow) -> bytes:
    kept = BytesIO()
    try:
        (image if image.mode in _PNG_MODES else image.convert("RGB")).save(kept, "PNG")
    except Exception as error:  # of a file that is decoded only now
        raise BadArgument(f"the image cannot be read: {error!s:.200}") from None
    return kept.getvalue()


def _from_array(source: _Array) -> _Pillow:
    try:
        from PIL import Image
    except ImportError:
        raise BadArgument("an array becomes an image by Pillow, which is not installed", hint="pip install pillow") from None
    about = source.__array_interface__
    kind, shape = about.get("typestr"), about.get("shape")
    if kind != "|u1" or not isinstance(shape, tuple) or len(shape) not in (2, 3) or 0 in shape or shape[2:] not in ((), (3,), (4,)):
        raise BadArgument(
            f"an array of an image has bytes, [height, width] or [height, width, 3 or 4], not {kind} {shape!r:.80}",
            hint="(array * 255).astype('uint8') of values from 0 to 1; array.transpose(1, 2, 0) of [3, height, width]",
        )
    if shape[0] * shape[1] > MAX_PIXELS:
        raise BadArgument(f"the array has more than {MAX_PIXELS / 1e6:.0f} million pixels", hint="make it smaller")
    made: _Pillow = Image.fromarray(source)
    return made


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
    from .fetched import fetched  # loaded by programs that fetch

    if (data := fetched(url, MAX_BYTES)) is None:
        raise _too_large(url, MAX_BYTES + 1)
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
