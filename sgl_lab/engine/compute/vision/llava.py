"""LLaVA 1.5 and LLaVA-NeXT: a CLIP tower and a projector turn a picture into positions of a prompt.

LLaVA-NeXT looks at the whole picture and at tiles of it, whose number depends on its size. The tower and
the processor are transformers' classes; the text model runs on our own layers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ....contracts.errors import ModelError
from ...files.weights import Checkpoint
from .settings import Processing, TowerSettings, processing, tower_settings

MODEL_TYPES = ("llava", "llava_next")
PROCESSORS = ("CLIPImageProcessor", "LlavaImageProcessor", "LlavaNextImageProcessor")
_TEXT = re.compile(r"(?:model\.)?language_model\.(?:model\.)?(?=layers\.|embed_tokens\.|norm\.)")
_HEAD = "language_model.lm_head.weight"
_NEWLINE = re.compile(r"(?:model\.)?image_newline")
_VISION = re.compile(r"(?:model\.)?(vision_tower|multi_modal_projector)\.(?:vision_model\.)?")


def _split(checkpoint: Checkpoint) -> Checkpoint:
    """Leave the text model's tensors in `checkpoint`, under the names that they have alone. Returns
    the others.
    """
    others: dict[str, str] = {}
    for name in checkpoint.names:
        if (found := _VISION.match(name)) is not None:
            others[name] = f"{found[1]}.{name[found.end() :]}"
        elif _NEWLINE.fullmatch(name):
            others[name] = "image_newline"
        elif (found := _TEXT.match(name)) is not None:
            checkpoint.rename(name, "model." + name[found.end() :])
        elif name == _HEAD:
            checkpoint.rename(name, "lm_head.weight")
    return checkpoint.part(others)


class Parts:
    """The vision half of a model's files: checked, and not read yet. `checkpoint` has the text model's
    tensors afterwards.
    """

    def __init__(self, folder: Path, config: Mapping[str, object], hidden: int, checkpoint: Checkpoint) -> None:
        checkpoint = _split(checkpoint)
        self.settings = tower_settings(config, str(folder / "config.json"))
        self.processing = processing(folder, PROCESSORS)
        self.hidden = hidden
        self._checkpoint = checkpoint
        self._tower = _empty(self.settings)
        self._names = {f"vision_tower.{_short(name)}": name for name in self._tower.state_dict()}
        shapes = {short: tuple(self._tower.state_dict()[name].shape) for short, name in self._names.items()}
        self._projector = _projector(self.settings, hidden)
        shapes |= {f"multi_modal_projector.{name}": tuple(tensor.shape) for name, tensor in self._projector.state_dict().items()}
        if self.settings.grids:
            shapes["image_newline"] = (hidden,)
        checkpoint.check(shapes)
        self.n_bytes = 4 * sum(torch.Size(shape).numel() for shape in shapes.values())

    def read(self, encode: Encode) -> Encoder:
        """Read the weights, in float32. A picture has no text of its own."""
        with self._checkpoint as weights:
            state = {name: weights.read(short, dtype=torch.float32) for short, name in self._names.items()}
            projector = {name: weights.read(f"multi_modal_projector.{name}", dtype=torch.float32) for name in self._projector.state_dict()}
            newline = weights.read("image_newline", dtype=torch.float32) if self.settings.grids else None
        self._tower.load_state_dict(state, assign=True)
        self._projector.load_state_dict(projector, assign=True)
        for module in self._tower.modules():
            if isinstance(ids := getattr(module, "position_ids", None), Tensor):
                module.position_ids = torch.arange(ids.shape[-1]).expand(1, -1)
        return Encoder(self.settings, self.processing, self._tower.eval(), self._projector.eval(), newline)


class Encoder:
    """From pictures to embeddings."""

    def __init__(
        self, settings: TowerSettings, processing: Processing, tower: nn.Module, projector: nn.Module, newline: Tensor | None = None
    ) -> None:
        self.settings = settings
        self._tower, self._projector, self._newline = tower, projector, newline
        if settings.grids:
            processing = processing._replace(given=processing.given | {"image_grid_pinpoints": [list(grid) for grid in settings.grids]})
        self._processor = processor_of(processing)
        self.identity = json.dumps([processing.name, processing.given, settings._asdict()], sort_keys=True, default=str)
        """all that decides, beside the weights, what a picture becomes"""

    @property
    def n_positions(self) -> int:
        """Positions of every picture; 0 if their number depends on its size."""
        return 0 if self.settings.grids else self.settings.n

    def embeddings(self, picture: object) -> Tensor:
        """float32 [positions, hidden] of a picture of Pillow."""
        with torch.inference_mode():
            found = self._processor(images=picture, return_tensors="pt")
            if self._newline is None:
                return self._seen(found["pixel_values"].float())[0]
            height, width = (int(side) for side in found["image_sizes"][0])
            return self._tiled(self._seen(found["pixel_values"][0].float()), height, width, self._newline)

    def _seen(self, pixels: Tensor) -> Tensor:
        """float32 [pictures, positions, hidden]"""
        states = self._tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        first = 0 if self.settings.keeps_class else 1
        seen: Tensor = self._projector(torch.cat([states[layer][:, first:] for layer in self.settings.layers], dim=-1))
        return seen

    def _tiled(self, seen: Tensor, height: int, width: int, newline: Tensor) -> Tensor:
        """float32 [positions, hidden]: the whole picture, then its tiles row by row, without what
        padded them; each row ends with a vector of its own.
        """
        from transformers.models.llava_next import modeling_llava_next as theirs

        shape_of: Callable[..., tuple[int, int]] = theirs.get_anyres_image_grid_shape
        unpadded: Callable[..., Tensor] = theirs.unpad_image
        grid, hidden = self.settings.grid, seen.shape[-1]
        rows, columns = shape_of((height, width), list(self.settings.grids), self.settings.side)
        whole, tiles = seen[0], seen[1:].view(rows, columns, grid, grid, hidden)
        plane = unpadded(tiles.permute(4, 0, 2, 1, 3).reshape(hidden, rows * grid, columns * grid), (height, width))
        ended = torch.cat((plane, newline[:, None, None].expand(hidden, plane.shape[1], 1)), dim=-1)
        return torch.cat((whole, ended.flatten(1).transpose(0, 1)))


Encode = Callable[[str], Sequence[int]]
"""from markup to the ids of the text model"""
Processor = Callable[..., Mapping[str, Tensor]]


def processor_of(processing: Processing) -> Processor:
    """transformers' processor over Pillow, whatever else is installed: pixels then do not depend on it."""
    import transformers

    name = "CLIPImageProcessor" if processing.name == "LlavaImageProcessor" else processing.name
    made: Callable[..., Processor] = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    try:
        return made(**processing.given)
    except Exception as error:  # transformers checks the types of some settings, in its own way
        raise ModelError(f"the image processor's settings are not usable: {error!s:.300}") from None


def _empty(settings: TowerSettings) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with torch.device("meta"):
        tower: nn.Module = CLIPVisionModel(CLIPVisionConfig.from_dict(settings.given))
    return tower


def _projector(settings: TowerSettings, hidden: int) -> nn.Module:
    """Two layers, as transformers names them."""
    from transformers.activations import ACT2FN

    with torch.device("meta"):
        made = nn.Sequential()
        made.add_module("linear_1", nn.Linear(settings.hidden * len(settings.layers), hidden, bias=settings.projector_bias))
        made.add_module("act", ACT2FN[settings.projector_act])
        made.add_module("linear_2", nn.Linear(hidden, hidden, bias=settings.projector_bias))
    return made


def _short(name: str) -> str:
    return name.removeprefix("vision_model.")
