"""The pictures that a model has seen: their blocks, kept while there is room."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from ....contracts.spans import Block, Content
from .pictures import picture_of, thumbnail

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 256 << 20
"""of kept embeddings; the block that was used least recently is dropped first"""


class Encoder(Protocol):
    """From pictures to embeddings."""

    identity: str
    """all that decides, beside the weights, what a picture becomes"""

    @property
    def n_positions(self) -> int:
        """Positions of every picture; 0 if their number depends on its size."""

    def embeddings(self, picture: object) -> Tensor:
        """float32 [positions, hidden] of a picture of Pillow."""


class Sight:
    """Turns the bytes of an image file into a block. Any thread may call it; one picture is
    computed at a time.
    """

    def __init__(self, encoder: Encoder, model: str, most_bytes: int = MAX_BYTES) -> None:
        self._encoder = encoder
        self._model = hashlib.sha256(f"{model}\n{encoder.identity}\n".encode())
        self._most = most_bytes
        self._blocks: OrderedDict[str, Block] = OrderedDict()
        self._n_bytes = self._n_encoded = self._n_hits = 0
        self._lock = threading.Lock()
        self.n_positions = encoder.n_positions
        """of every picture; 0 if they differ"""

    def see(self, data: bytes) -> Block:
        """The block of the picture. Its digest is that of the pixels, of their arrangement, of the
        processor's settings and of the model: equal pictures are one block, whatever file they come
        from. BadArgument for bytes that hold no picture.
        """
        picture = picture_of(data)
        digest = self._model.copy()
        digest.update(f"{picture.width}x{picture.height}\n".encode() + picture.tobytes())
        key = digest.hexdigest()
        with self._lock:
            if (kept := self._blocks.get(key)) is not None:
                self._blocks.move_to_end(key)
                self._n_hits += 1
                return kept
            rows = self._encoder.embeddings(picture).contiguous().numpy()
            block = Block(Content(key, len(rows), "image", thumbnail(picture)), rows.data)
            self._n_encoded += 1
            self._keep(key, block)
            return block

    def kept(self, digest: str) -> Block | None:
        """The block of a picture that was seen; None if it was dropped since, or is of another model."""
        with self._lock:
            return self._blocks.get(digest)

    def _keep(self, key: str, block: Block) -> None:
        self._blocks[key] = block
        self._n_bytes += _size(block)
        while self._n_bytes > self._most:
            self._n_bytes -= _size(self._blocks.popitem(last=False)[1])

    def stats(self) -> dict[str, int]:
        """Pictures whose embeddings were computed, pictures that were found, and what is kept."""
        with self._lock:
            return {
                "images_encoded": self._n_encoded,
                "image_hits": self._n_hits,
                "images_kept": len(self._blocks),
                "image_bytes": self._n_bytes,
            }


def _size(block: Block) -> int:
    return 0 if block.embeddings is None else block.embeddings.nbytes
