"""Images in a program: what becomes one, what a backend is sent, and who refuses it."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

import sgl_lab
import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend, ScriptedConversation
from sgl_lab.backends.scripted.conversation import CHAT
from sgl_lab.contracts.capabilities import Capabilities
from sgl_lab.contracts.conversation import ImagePart, TextPart
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, ProgramError
from sgl_lab.contracts.events import RequestQueued
from sgl_lab.contracts.pieces import is_piece
from sgl_lab.lang.expressions import Image
from sgl_lab.lang.images import MAX_BYTES
from sgl_lab.lang.serial import from_json, to_json
from sgl_lab.lang.surface import assistant, gen, image, user, video


def png(colour: int = 0) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes([0, colour]))) + chunk(b"IEND", b"")


class Pillow:
    """As an image of Pillow looks from outside."""

    mode = "L"

    def save(self, fp: BytesIO, format: str) -> None:
        assert format == "PNG"
        fp.write(png())

    def convert(self, mode: str) -> Pillow:
        raise AssertionError("its mode is one of PNG's")


KINDS = {
    "image/png": png(),
    "image/jpeg": b"\xff\xd8\xff\xe0 and more",
    "image/gif": b"GIF89a and more",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBP and more",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_tell_the_kind_whatever_the_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(KINDS[kind])
    wanted = Image(kind, KINDS[kind])
    assert image(tmp_path / "cat.jpg") == image(str(tmp_path / "cat.jpg")) == image(KINDS[kind]) == image(bytearray(KINDS[kind])) == wanted
    assert image("data:image/whatever;base64," + base64.b64encode(KINDS[kind]).decode()) == wanted
    long = KINDS[kind] + bytes(40)
    assert image(base64.b64encode(long).decode()) == Image(kind, long)
    assert image(Pillow()) == Image("image/png", png())


REFUSED = {
    "missing.png": "cannot read the image 'missing.png'",
    "https://example.org/cat.png": r"is an address, which is not fetched \(save it, or consent with image\(url, fetch=True\)\)",
    "ftp://example.org/cat.png": "is an address",
    "data:image/png;base64,@@": "not base64",
    "\0": "cannot read the image",
}


@pytest.mark.parametrize("source", [*REFUSED, b"text", 3, None, [1]])
def test_what_is_no_image_is_refused_when_it_is_said(source: Any) -> None:
    with pytest.raises(BadArgument, match=REFUSED.get(source, "") if isinstance(source, str) else "image"):
        image(source)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(BadArgument, match="an image may have 20"):
        image(tmp_path / "large.png")


def test_an_image_is_fetched_only_with_consent_and_only_from_the_public_web() -> None:
    with pytest.raises(BadArgument, match="fetched from an http or https address"):
        image("file:///etc/passwd", fetch=True)
    with pytest.raises(BadArgument, match="fetch must be True or False"):
        image(png(), fetch="yes")  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match=r"'127.0.0.1' is 127.0.0.1, which is no public address \(save the image as a file\)"):
        image("http://127.0.0.1:9/x.png", fetch=True)
    with pytest.raises(BadArgument, match="with a password"):
        image("http://me:secret@example.org/x.png", fetch=True)


def test_images_and_text_are_the_parts_of_a_message_in_order() -> None:
    events: list[Any] = []
    backend = ScriptedConversation("a cat")
    s = sgl.start(backend, events.append)
    backend.emit = events.append
    s += user("First " + image(png(1)) + " then " + image(png(2)) + " which?") + assistant(gen("a"))
    assert s["a"] == "a cat"
    first, second = ImagePart("image/png", png(1)), ImagePart("image/png", png(2))
    assert backend.jobs[0].prompt[0].parts == (TextPart("First "), first, TextPart(" then "), second, TextPart(" which?"))
    shown = next(event.prompt for event in events if isinstance(event, RequestQueued))
    assert len([id for id in shown if id < 0]) == 2
    assert len({id for id in shown if id < 0}) == 2
    assert all(is_piece(id) for id in shown if id >= 0)
    assert s.messages()[0]["content"] == "First \ufffc then \ufffc which?"


def test_forks_and_joins_carry_images_along() -> None:
    backend = ScriptedConversation("ok")
    s = sgl.start(backend)
    s += user(image(png(1)) + "Q") + assistant(gen("a"))
    forks = s.fork(1)
    forks[0] += user(image(png(2)) + "R") + assistant(gen("b"))
    forks.join("concate_and_append")
    s += user("S") + assistant(gen("c"))
    assert s["c"] == "ok"
    images = [part for message in backend.jobs[-1].prompt for part in message.parts if isinstance(part, ImagePart)]
    assert images == [ImagePart("image/png", png(1)), ImagePart("image/png", png(2))]


@pytest.mark.parametrize("backend", [ScriptedBackend("x"), ScriptedConversation("x", capabilities=Capabilities(sampling=CHAT.sampling))])
def test_a_backend_without_images_refuses_them_where_they_are_appended(backend: Any) -> None:
    s = sgl.start(backend)
    with pytest.raises(BackendUnsupported, match="offers no images in a prompt, which an image asks for"):
        s += user(image(png())) + assistant(gen("a"))
    assert (backend.jobs, s.messages()) == ([], [])


def test_an_image_outside_a_turn_is_refused() -> None:
    s = sgl.start(ScriptedConversation("x"))
    with pytest.raises(ProgramError, match="an image is part of a turn"):
        s += image(png())


def test_an_image_survives_json_and_shows_no_bytes() -> None:
    expr = image(png(7))
    assert from_json(to_json(expr)) == expr
    assert repr(expr) == f"image(image/png, {len(png()):,} bytes)"
    with pytest.raises(BadArgument, match="image in an f-string"):
        _ = f"{expr}"


def test_the_names_are_the_originals() -> None:
    from sgl_lab.lang.ir import SglImage

    assert (sgl_lab.image, SglImage, sgl_lab.video) == (image, Image, video)
