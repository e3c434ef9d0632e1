"""Pictures by Pillow: arrays, videos, addresses; and hostile ones, each refused with one clear error."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sgl_lab.contracts.errors import BadArgument
from sgl_lab.engine.compute.vision.pictures import picture_of, thumbnail
from sgl_lab.lang.fetched import fetched, is_public
from sgl_lab.lang.surface import image, video
from sgl_lab.lang.videos import MAX_FRAMES, MAX_SOURCE_FRAMES

COLOURS = [(40 * at, 255 - 40 * at, 90) for at in range(6)]


def encoded(made: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    into = BytesIO()
    made.save(into, kind, **options)
    return into.getvalue()


def animation(kind: str = "GIF") -> bytes:
    first, *others = (Image.new("RGB", (16, 12), colour) for colour in COLOURS)
    return encoded(first, kind, save_all=True, append_images=others, lossless=True)


def middles(shown: Any) -> list[tuple[int, ...]]:
    return [picture_of(part.data).getpixel((8, 6)) for part in shown.parts]  # type: ignore[misc]


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "F", "I;16"])
def test_an_image_of_pillow_in_any_mode_becomes_a_picture(mode: str) -> None:
    made = Image.new("RGB", (5, 4), (250, 20, 30)).convert("L" if mode == "I;16" else mode).convert(mode)
    assert picture_of(image(made).data).size == (5, 4)


def test_an_array_becomes_the_picture_that_it_holds() -> None:
    array = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(np.asarray(picture_of(image(array).data)), array)
    assert np.array_equal(np.asarray(picture_of(image(array[..., 0]).data)), array[..., :1].repeat(3, 2))
    assert image(array[:, ::-1]) == image(array[:, ::-1].copy()) != image(array)
    for wrong in (array / 255, array.transpose(2, 0, 1), array[:0], array[0, 0], np.zeros((2, 2, 5), np.uint8), array.astype(object)):
        with pytest.raises(BadArgument, match=r"an array of an image has bytes, .* not "):
            image(wrong)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_video_is_frames_at_equal_distances(kind: str, tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(data := animation(kind))
    assert middles(video(tmp_path / "film", 3)) == [COLOURS[0], COLOURS[2], COLOURS[5]]
    assert middles(video(data, 50)) == COLOURS
    assert middles(video(str(tmp_path / "film"), 1)) == COLOURS[:1]


def test_frames_may_be_given_as_a_list_or_an_array() -> None:
    frames = [Image.new("RGB", (16, 12), colour) for colour in COLOURS]
    assert middles(video(frames, 2)) == middles(video(np.stack([np.asarray(each) for each in frames]), 2)) == [COLOURS[0], COLOURS[5]]
    bad = {"at least one frame": [], "a video is a file": 3, "cannot read the video": "nothing.gif", "no GIF": b"x" * 50}
    for words, wrong in bad.items():
        with pytest.raises(BadArgument, match=words):
            video(wrong)
    for n in (0, MAX_FRAMES + 1, True, 2.0):
        with pytest.raises(BadArgument, match="num_frames must be a whole number"):
            video(frames, n)  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="frames, at most"):
        video(np.zeros((MAX_SOURCE_FRAMES + 1, 1, 1), np.uint8), 2)


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_a_film_is_decoded_by_pyav(container: str) -> None:
    av = pytest.importorskip("av")
    into = BytesIO()
    with av.open(into, "w", format=container) as film:
        stream = film.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 16, 12
        for colour in COLOURS:
            film.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (16, 12), colour))))
        film.mux(stream.encode())
    shown = middles(video(into.getvalue(), 3))
    assert np.abs(np.array(shown) - np.array([COLOURS[0], COLOURS[2], COLOURS[5]])).max() < 25
    with pytest.raises(BadArgument, match="cannot be decoded"):
        video(into.getvalue()[:60], 3)


# ---------------------------------------------------------------- addresses


PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
)


def test_addresses_inside_are_told_from_public_ones() -> None:
    assert not [one for one in PRIVATE if is_public(one)]
    assert [one for one in ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822") if not is_public(one)] == []


class Served(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name == "slow":
            while not self.server.stopped.wait(0.05):  # type: ignore[attr-defined]
                try:
                    self.wfile.write(b"H")
                except OSError:
                    return
        elif name == "inside":
            self._answer(302, {"Location": "http://169.254.169.254/latest"})
        elif name == "round":
            self._answer(302, {"Location": "/round"})
        elif name == "moved":
            self._answer(301, {"Location": "/cat.png"})
        else:
            self._answer(200 if name == "cat.png" else 404, {}, b"a cat" * 10)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    from http.server import ThreadingHTTPServer

    server: HTTPServer = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    server.stopped = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.stopped.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def here(address: str) -> bool:
    return address == "127.0.0.1"


def test_a_fetch_has_limits_and_checks_each_redirect(site: str) -> None:
    assert fetched(site + "cat.png", 50, allowed=here) == fetched(site + "moved", 50, allowed=here) == b"a cat" * 10
    assert fetched(site + "cat.png", 49, allowed=here) is None
    for name, words in (
        ("inside", "is 169.254.169.254, which is no public address"),
        ("round", "redirects more than 5 times"),
        ("dog.png", "answers 404"),
        ("a b", "cannot fetch"),
    ):
        with pytest.raises(BadArgument, match=words):
            fetched(site + name, 50, allowed=here)
    with pytest.raises(BadArgument, match="cannot fetch the image"):
        fetched(site + "slow", 50, seconds=0.3, allowed=here)


# ---------------------------------------------------------------- hostile files


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


GOOD = {kind: encoded(Image.effect_noise((40, 30), 90).convert("RGB"), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP")}
REFUSED = {
    "large": (bytes(20 * 2**20 + 1), "has 20 MiB, at most 20"),
    "bomb": (bomb(8_000, 8_000), "64 million pixels, at most 40"),
    "large bomb": (bomb(2**31 - 1, 2**31 - 1), "million pixels"),
    "ribbon": (bomb(30_000, 2), "one side is more than 100 times the other"),
    "animated": (animation(), "animated"),
    "text": (b"<svg onload=alert(1)>", "no PNG, JPEG, GIF or WebP"),
    "tiff": (encoded(Image.new("L", (4, 4)), "TIFF"), "no PNG, JPEG, GIF or WebP"),
    "empty": (b"", "no PNG, JPEG, GIF or WebP"),
    "text in a chunk": (bomb(4, 4)[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27))) + bomb(4, 4)[33:], "cannot be decoded"),
    **{f"truncated {kind}": (data[: len(data) // 2], "cannot be decoded") for kind, data in GOOD.items()},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_picture_is_refused_with_one_error(case: str) -> None:
    data, words = REFUSED[case]
    with pytest.raises(BadArgument, match=words):
        picture_of(data)


def test_mutated_files_are_a_picture_or_a_bad_argument() -> None:
    chance = np.random.default_rng(0)
    for data in GOOD.values():
        for _ in range(60):
            bytes_ = bytearray(data)
            for at in chance.integers(0, len(data), 6):
                bytes_[at] = chance.integers(256)
            with suppress(BadArgument):
                assert picture_of(bytes(bytes_)).mode == "RGB"


def test_a_thumbnail_is_small_whatever_the_picture() -> None:
    for size in ((1, 1), (3000, 40), (500, 700)):
        made = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8))
        assert len(thumbnail(made)) < 8_000
