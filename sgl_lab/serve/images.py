"""Images of requests: seen when a request is read, and marked in its texts until those are encoded.

A mark is a text that no client can know. A template takes it like any other, and it becomes the image's
block when the rendered text is encoded.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_values import Json
from ..contracts.port import Backend
from ..contracts.spans import Block, blocks_in, first_id, has_blocks

KEPT = 256
"""images that are remembered, for turns that a later request refers to"""
IMAGE = "<image>"
"""an image's place in a prompt of `/generate`"""
MOST = 64
"""images of a request"""
_DATA_URL = re.compile(r"data:[\w/+.-]*;base64,", re.ASCII)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


class Images:
    """Used on several threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.sees = backend.describe().capabilities.images
        secret = secrets.token_hex(8)
        self._marks = re.compile(rf"({secret}[0-9]+;)")
        self._secret = secret
        self._kept: OrderedDict[int, Block] = OrderedDict()
        self._lock = threading.Lock()

    def see(self, data: Json, where: str) -> Block:
        """The block of an image in base64 or a data URL. BadArgument, BackendUnsupported."""
        if not self.sees:
            raise BackendUnsupported(f"{where} is an image, and the model here reads text only", hint="say in words what it shows")
        if not isinstance(data, str) or not data:
            raise BadArgument(f"{where} must be base64 or a data URL, not {data!r:.60}")
        if found := _DATA_URL.match(data):
            data = data[found.end() :]
        elif _ADDRESS.match(data):
            raise BadArgument(f"{where} is an address, which is not fetched here", hint="send the image as a data URL")
        try:
            block = self._backend.see(base64.b64decode(data, validate=True))
        except binascii.Error:
            raise BadArgument(f"{where} is not base64", hint="send the image as a data URL") from None
        with self._lock:
            self._kept[number := -first_id(block.content)] = block
            self._kept.move_to_end(number)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return block

    def mark(self, data: Json, where: str) -> str:
        """The text that stands for the image."""
        return f"{self._secret}{-first_id(self.see(data, where).content)};"

    def split(self, text: str) -> Iterator[str | Block]:
        """The text around marks, and the images in their places. BadArgument for one that is forgotten."""
        for part in self._marks.split(text) if self._secret in text else (text,):
            yield self._block(int(part[len(self._secret) : -1])) if self._marks.fullmatch(part) else part

    def blocks(self, prompt: Sequence[int]) -> tuple[Block, ...]:
        """Those of a prompt. BadArgument for more than are taken."""
        if not has_blocks(prompt):
            return ()
        numbers = [-first_id(place.content) for _, _, place in blocks_in(prompt)]
        if len(numbers) > MOST:
            raise BadArgument(f"the request has {len(numbers)} images, at most {MOST} are taken")
        return tuple(map(self._block, dict.fromkeys(numbers)))

    def _block(self, number: int) -> Block:
        with self._lock:
            found = self._kept.get(number)
        if found is None:
            raise BadArgument("an image of an earlier turn is no longer kept", hint="send the whole conversation again")
        return found
