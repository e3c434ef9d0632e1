"""Idefics 3 and SmolVLM: a SigLIP tower looks at tiles of a picture and at the whole; a shuffle of pixels
and one linear turn what it sees into positions of a prompt, between marks.

Marks are tokens of the text model: each tile is preceded by its row and column, the whole picture by
a mark of its own. So a picture's positions are some of tokens and some of what was seen, in the order
of transformers' processor. The tower and the processor are transformers' classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ....contracts.errors import ModelError
from ...files.small import read_json
from ...files.weights import Checkpoint
from .llava import Encode, processor_of
from .settings import MAX_LAYERS, MAX_PATCHES, MAX_SIDE, MAX_TILES, MAX_WIDTH, Processing, checked, processing

MODEL_TYPES = ("idefics3", "smolvlm")
PROCESSORS = ("Idefics3ImageProcessor", "SmolVLMImageProcessor")
TOWERS = ("idefics3_vision", "smolvlm_vision", *MODEL_TYPES)
"""the last two in the first files"""
_FAKE, _WHOLE = "<fake_token_around_image>", "<global-img>"
_TOWER, _CONNECTOR, _TEXT = "model.vision_model.", "model.connector.modality_projection.proj.weight", "model.text_model."
_EMBEDDING = "model.embed_tokens.weight"
_SIGLIP = {
    "hidden_size": (1152, MAX_WIDTH),
    "intermediate_size": (3072, 8 * MAX_WIDTH),
    "num_hidden_layers": (12, MAX_LAYERS),
    "num_attention_heads": (16, MAX_WIDTH),
    "image_size": (224, MAX_SIDE),
    "patch_size": (32, MAX_SIDE),
    "num_channels": (3, 3),
}
"""Keys of the tower: transformers' default, and the most"""


def text_config(config: Mapping[str, object], text: dict[str, object], origin: str) -> dict[str, object]:
    """The text model's part says nothing of ties: the model's own does."""
    for key in ("qk_layer_norms", "use_resampler"):
        if text.get(key) not in (None, False):
            raise ModelError(f"{origin}: text_config {key} {text[key]!r:.60} is not supported")
    if text.get("embedding_multiplier") not in (None, 1):
        raise ModelError(f"{origin}: a text model that scales its embeddings is not supported with pictures")
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise ModelError(f"{origin}: tie_word_embeddings must be true or false, not {tied!r:.60}")
    return text | {"tie_word_embeddings": tied}


class Settings(NamedTuple):
    """What the configuration and the processor say together."""

    given: dict[str, object]
    """of the tower"""
    side: int
    """pixels of a tile's side"""
    shuffle: int
    """patches in each direction that become one position"""
    n: int
    """positions of a tile"""
    most: int
    """tiles in each direction at most; 0 without tiles"""


class Parts:
    """The vision half of a model's files: checked, and not read yet. `checkpoint` has the text model's
    tensors afterwards.
    """

    def __init__(self, folder: Path, config: Mapping[str, object], hidden: int, checkpoint: Checkpoint) -> None:
        self._text, self._checkpoint = checkpoint, _split(checkpoint)
        self._processing = processing(folder, PROCESSORS)
        self._settings = _settings(config, self._processing, folder)
        self._tower = _empty(self._settings.given)
        width = self._settings.given["hidden_size"]
        assert isinstance(width, int)
        shapes = {_TOWER + name: tuple(tensor.shape) for name, tensor in self._tower.state_dict().items()}
        shapes[_CONNECTOR] = (hidden, width * self._settings.shuffle**2)
        self._checkpoint.check(shapes)
        self.n_bytes = 4 * sum(torch.Size(shape).numel() for shape in shapes.values())

    def read(self, encode: Encode) -> Encoder:
        """Read the weights, in float32, and the text model's embeddings of the marks."""
        if len(encode(_FAKE)) != 1:
            raise ModelError(f"{self._text.folder}: the tokenizer has no token {_FAKE}, which stands around pictures")
        ids = {text: tuple(encode(text)) for at in {0, self._settings.most} for text in marks(at, at)}
        with self._checkpoint as weights:
            state = {name: weights.read(_TOWER + name, dtype=torch.float32) for name in self._tower.state_dict()}
            connector = weights.read(_CONNECTOR, dtype=torch.float32)
            rows = {text: self._text.rows(_EMBEDDING, of) for text, of in ids.items()}
        self._tower.load_state_dict(state, assign=True)
        return Encoder(self._settings, self._processing, self._tower.eval(), connector, ids, rows)


class Encoder:
    """From pictures to embeddings."""

    def __init__(
        self,
        settings: Settings,
        processing: Processing,
        tower: nn.Module,
        connector: Tensor,
        ids: Mapping[str, Sequence[int]],
        rows: Mapping[str, Tensor],
    ) -> None:
        self._settings, self._tower, self._connector, self._rows = settings, tower, connector, rows
        self._processor = processor_of(processing)
        self.identity = json.dumps([processing.name, processing.given, settings._asdict(), ids], sort_keys=True, default=str)
        """all that decides, beside the weights, what a picture becomes"""

    @property
    def n_positions(self) -> int:
        """Positions of every picture; 0 if their number depends on its size."""
        return 0 if self._settings.most else self._settings.n + sum(len(self._rows[text]) for text in marks(0, 0))

    def embeddings(self, picture: object) -> Tensor:
        """float32 [positions, hidden] of a picture of Pillow."""
        with torch.inference_mode():
            found = self._processor(images=picture, return_tensors="pt", return_row_col_info=True)
            seen = self._seen(found["pixel_values"][0].float())
            (rows,), (columns,) = found["rows"][0], found["cols"][0]
            before, last = marks(int(rows), int(columns))[:-1], self._rows[_FAKE]
            pieces = [piece for text, tile in zip(before, seen, strict=True) for piece in (self._rows[text], tile)]
            return torch.cat((*pieces, last))

    def _seen(self, pixels: Tensor) -> Tensor:
        """float32 [tiles, positions, hidden]: patches that are neighbours become one position."""
        states: Tensor = self._tower(pixel_values=pixels).last_hidden_state
        n, by = len(states), self._settings.shuffle
        grid = int(states.shape[1] ** 0.5)
        blocks = states.view(n, grid // by, by, grid // by, by, -1).transpose(2, 3)
        return blocks.reshape(n, self._settings.n, -1) @ self._connector.T


def marks(rows: int, columns: int) -> list[str]:
    """The markup before each tile, then before the whole picture, then after it."""
    if not rows:
        return [_FAKE + _WHOLE, _FAKE]
    tiles = [(row, column) for row in range(rows) for column in range(columns)]
    before = ["\n" * (row > 0 and not column) + f"{_FAKE}<row_{row + 1}_col_{column + 1}>" for row, column in tiles]
    return [*before, f"\n\n{_FAKE}{_WHOLE}", _FAKE]


def _settings(config: Mapping[str, object], processing: Processing, folder: Path) -> Settings:
    origin = str(folder / "config.json")
    vision = config.get("vision_config")
    if not isinstance(vision, dict) or vision.get("model_type", TOWERS[0]) not in TOWERS:
        kind = vision.get("model_type") if isinstance(vision, dict) else vision
        raise ModelError(f"{origin}: a vision tower of type {kind!r:.60} is not supported", hint="supported: " + ", ".join(TOWERS[:2]))
    given, sizes = checked(vision, _SIGLIP, 1e-6, "gelu_pytorch_tanh", origin)
    side, grid = sizes["image_size"], sizes["image_size"] // sizes["patch_size"]
    shuffle = config.get("scale_factor", 2)
    if type(shuffle) is not int or shuffle < 1 or not grid or grid % shuffle or grid**2 > MAX_PATCHES:
        raise ModelError(f"{origin}: scale_factor {shuffle!r:.60} does not divide a tile of {grid} by {grid} patches")
    n = (grid // shuffle) ** 2
    stated = _positions(folder)
    if stated not in (None, n):
        raise ModelError(f"{folder}: the processor's image_seq_len is {stated!r:.60}, but a tile has {n} positions")
    return Settings(given, side, shuffle, n, _most(processing, side, str(folder)))


def _positions(folder: Path) -> object:
    """What the processor's file says of the positions of a tile."""
    path = folder / "processor_config.json"
    return read_json(path).get("image_seq_len") if path.exists() else None


def _most(processing: Processing, side: int, origin: str) -> int:
    """How many tiles a picture has in each direction at most."""
    made = processor_of(processing)
    tile, size = (dict(getattr(made, key, None) or {}) for key in ("max_image_size", "size"))
    if tile.get("longest_edge") != side:
        raise ModelError(f"{origin}: the processor's max_image_size is {tile}, but the tower sees {side} pixels")
    if not getattr(made, "do_image_splitting", True):
        return 0
    if not getattr(made, "do_resize", True):
        raise ModelError(f"{origin}: do_resize must be true where pictures are cut into tiles")
    sides = [size.get(key) for key in ("longest_edge", "height", "width")]
    most = max(ceil(each / side) for each in (*sides, 0) if each is not None)
    if not 1 <= most**2 <= MAX_TILES:
        raise ModelError(f"{origin}: a picture of {most} by {most} tiles is not supported, {MAX_TILES} tiles are the most")
    return most


def _split(checkpoint: Checkpoint) -> Checkpoint:
    """Leave the text model's tensors in `checkpoint`, under the names that they have alone. Returns the
    others.
    """
    for name in checkpoint.names:
        if name.startswith(_TEXT):
            checkpoint.rename(name, "model." + name.removeprefix(_TEXT))
    return checkpoint.part({name: name for name in checkpoint.names if name == _CONNECTOR or name.startswith(_TOWER)})


def _empty(given: Mapping[str, object]) -> nn.Module:
    from transformers import Idefics3VisionConfig, Idefics3VisionTransformer

    with torch.device("meta"):
        tower: nn.Module = Idefics3VisionTransformer(Idefics3VisionConfig.from_dict(dict(given)))
    return tower
