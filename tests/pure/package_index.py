"""A package index on the loopback address, with one wheel, byte ranges and a few ways to go wrong."""

from __future__ import annotations

import hashlib
import io
import zipfile

from .loopback import Handler, Loopback

NAME, VERSION = "toy-model", "1.0"
FILE = f"toy_model-{VERSION}-py3-none-any.whl"
MEMBER = "toy_model/toy.gguf"


def wheel(model: bytes, *more: bytes) -> bytes:
    """`more` are beside it, as `MEMBER.1` and so on."""
    info = f"toy_model-{VERSION}.dist-info"
    files = {
        MEMBER: model,
        **{f"{MEMBER}.{n}": part for n, part in enumerate(more, 1)},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


class PackageIndex(Loopback):
    """`asked` has the Range header (or "") of each request for the wheel that is not pip's own."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.promised = hashlib.sha256(content).hexdigest()
        self.cut_after: int | None = None
        """end every answer to us after this many bytes"""
        self.for_pip_only = False
        self.asked: list[str] = []
        index = self

        class Answer(Handler):
            def do_GET(self) -> None:
                if self.path == f"/simple/{NAME}/":
                    page = f'<a href="/files/{FILE}#sha256={index.promised}">{FILE}</a>'.encode()
                    self.send(200, page, {"Content-Type": "text/html"})
                elif self.path == f"/files/{FILE}":
                    self._send_wheel()
                else:
                    self.send(404, b"")

            def _send_wheel(self) -> None:
                ours = not self.headers["User-Agent"].startswith("pip/")
                if ours and index.for_pip_only:
                    self.send(403, b"")
                    return
                wanted = self.headers.get("Range", "")
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                piece = index.content[int(start or 0) : int(end) + 1 if end else None]
                if ours:
                    index.asked.append(wanted)
                if not piece:
                    self.send(416, b"")
                    return
                self.send(206 if wanted else 200, piece, {"Accept-Ranges": "bytes"}, index.cut_after if ours else None)

        super().__init__(Answer, "/simple")
