"""What `video(...)` accepts, and the pictures that it becomes: frames at equal distances, the first
and the last among them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from ..contracts.errors import BackendUnsupported, BadArgument
from .images import MAX_PIXELS, Picture, picture_of, pixels_written

MAX_BYTES = 200 * 2**20
"""of a video"""
MAX_FRAMES = 64
"""that a prompt shows"""
MAX_SOURCE_FRAMES = 20_000
MAX_DECODED = 2_000_000_000
"""pixels of all frames of a file; they are decoded one after the other"""
_ANIMATIONS = ("GIF", "WEBP", "PNG")


def frames_of(source: object, n: int) -> list[Picture]:
    """`n` frames of a video, or all if it has fewer. BadArgument for what is none, or is too large."""
    if type(n) is not int or not 1 <= n <= MAX_FRAMES:
        raise BadArgument(f"num_frames must be a whole number from 1 to {MAX_FRAMES}, not {n!r:.80}")
    if isinstance(source, bytes | bytearray | memoryview):
        return _decoded(bytes(source), n)
    if isinstance(source, str | os.PathLike):
        return _decoded(_read(Path(source).expanduser()), n)
    if isinstance(source, Sequence) or hasattr(source, "__array_interface__"):
        frames = cast(Sequence[object], source)
        if not len(frames):
            raise BadArgument("a video has at least one frame")
        return [picture_of(frames[at]) for at in _chosen(len(frames), n)]
    raise BadArgument(f"a video is a file, its bytes, or its frames in a list or an array, not {type(source).__name__}")


def _chosen(total: int, n: int) -> list[int]:
    """Which frames, as the original chooses them."""
    if total > MAX_SOURCE_FRAMES:
        raise BadArgument(f"the video has {total:,} frames, at most {MAX_SOURCE_FRAMES:,} are read", hint="cut it")
    n = min(n, total)
    return [0] if n == 1 else [at * (total - 1) // (n - 1) for at in range(n)]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _too_large(path, path.stat().st_size)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, BadArgument):
            raise
        raise BadArgument(f"cannot read the video {str(path)!r:.200}: {getattr(error, 'strerror', None) or error}") from None


def _decoded(data: bytes, n: int) -> list[Picture]:
    if len(data) > MAX_BYTES:
        raise _too_large("the video", len(data))
    container = _container(data)
    try:
        return list(_animation(data, n) if container is None else _film(data, container, n))
    except (BadArgument, BackendUnsupported):
        raise
    except Exception as error:  # parsers of untrusted bytes
        raise BadArgument(f"the video cannot be decoded: {error!s:.200}", hint="the file may be truncated; save it again") from None


def _container(data: bytes) -> str | None:
    """The format of a film, in FFmpeg's words. It is named to the parser, which then follows no
    playlist.
    """
    if data[4:8] == b"ftyp":
        return "mp4"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    return "avi" if data[:4] == b"RIFF" and data[8:12] == b"AVI " else None


def _animation(data: bytes, n: int) -> Iterator[Picture]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise BackendUnsupported("an animation is decoded by Pillow, which is not installed", hint="pip install pillow") from None
    try:
        opened = Image.open(BytesIO(data), formats=_ANIMATIONS)
    except UnidentifiedImageError:
        raise BadArgument("the bytes are no GIF, WebP, PNG, MP4, WebM or AVI", hint="give the frames as a list of images") from None
    with opened:
        total = getattr(opened, "n_frames", 1)
        chosen = _chosen(total, n)
        _check(*opened.size, total)
        for at in chosen:
            opened.seek(at)
            yield picture_of(pixels_written(opened.convert("RGB")))


def _film(data: bytes, container: str, n: int) -> Iterator[Picture]:
    try:
        import av
    except ImportError:
        raise BackendUnsupported("a film is decoded by PyAV, which is not installed", hint="pip install av") from None

    def each() -> Iterator[Any]:
        with av.open(BytesIO(data), format=container) as opened:
            if not opened.streams.video:
                raise BadArgument("the file has no video in it")
            stream = opened.streams.video[0]
            _check(stream.width, stream.height, stream.frames or 1)
            for at, frame in enumerate(opened.decode(stream)):
                if at >= MAX_SOURCE_FRAMES:
                    raise BadArgument(f"the video has more than {MAX_SOURCE_FRAMES:,} frames", hint="cut it")
                _check(frame.width, frame.height, at + 1)
                yield frame

    wanted = set(_chosen(_count(each), n))
    for at, frame in enumerate(each()):
        if at in wanted:
            yield picture_of(frame.to_image())


def _count(each: Callable[[], Iterator[object]]) -> int:
    if not (total := sum(1 for _ in each())):
        raise BadArgument("the video has no frame that can be decoded")
    return total


def _check(width: int, height: int, n: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadArgument(f"a frame of the video is {width:,} by {height:,}, at most {MAX_PIXELS / 1e6:.0f} million pixels are decoded")
    if width * height * n > MAX_DECODED:
        raise BadArgument(f"the video has {n:,} frames of {width:,} by {height:,}: too much to decode", hint="cut it or make it smaller")


def _too_large(what: object, n_bytes: int) -> BadArgument:
    return BadArgument(f"{what!s:.200} has {n_bytes / 2**20:.0f} MiB, a video may have {MAX_BYTES >> 20}", hint="cut it")
