"""LLaVA 1.5: a CLIP tower and a projector turn a picture into positions of a prompt.

The tower and the processor are transformers' classes; the text model runs on our own layers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ....contracts.errors import ModelError
from ...files.weights import Checkpoint
from .settings import Processing, TowerSettings, processing, tower_settings

ARCHITECTURE = "LlavaForConditionalGeneration"
_TEXT = re.compile(r"(?:model\.)?language_model\.(?:model\.)?(?=layers\.|embed_tokens\.|norm\.)")
_HEAD = "language_model.lm_head.weight"
_VISION = re.compile(r"(?:model\.)?(vision_tower|multi_modal_projector)\.(?:vision_model\.)?")


def is_llava(config: Mapping[str, object]) -> bool:
    return config.get("model_type") == "llava"


def text_config(config: Mapping[str, object], architectures: Mapping[str, str], origin: str) -> dict[str, object]:
    """The configuration of the text model, with the architecture of its type."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise ModelError(f"{origin}: text_config must be an object, not {text!r:.60}")
    kind = text.get("model_type", "llama")
    if kind not in architectures:
        raise ModelError(f"{origin}: a text model of type {kind!r:.60} is not supported", hint="supported: " + ", ".join(architectures))
    return text | {"model_type": kind, "architectures": [architectures[kind]]}


def split(checkpoint: Checkpoint) -> Checkpoint:
    """Leave the text model's tensors in `checkpoint`, under the names that they have alone. Returns the others."""
    others: dict[str, str] = {}
    for name in checkpoint.names:
        if (found := _VISION.match(name)) is not None:
            others[name] = f"{found[1]}.{name[found.end() :]}"
        elif (found := _TEXT.match(name)) is not None:
            checkpoint.rename(name, "model." + name[found.end() :])
        elif name == _HEAD:
            checkpoint.rename(name, "lm_head.weight")
    return checkpoint.part(others)


class Parts:
    """The vision half of a model's files: checked, and not read yet."""

    def __init__(self, folder: Path, config: Mapping[str, object], hidden: int, checkpoint: Checkpoint) -> None:
        self.settings = tower_settings(config, str(folder / "config.json"))
        self.processing = processing(folder)
        self.hidden = hidden
        self._checkpoint = checkpoint
        self._tower = _empty(self.settings)
        self._names = {f"vision_tower.{_short(name)}": name for name in self._tower.state_dict()}
        shapes = {short: tuple(self._tower.state_dict()[name].shape) for short, name in self._names.items()}
        self._projector = _projector(self.settings, hidden)
        shapes |= {f"multi_modal_projector.{name}": tuple(tensor.shape) for name, tensor in self._projector.state_dict().items()}
        checkpoint.check(shapes)
        self.n_bytes = 4 * sum(torch.Size(shape).numel() for shape in shapes.values())

    def read(self) -> Encoder:
        """Read the weights, in float32."""
        with self._checkpoint as weights:
            state = {name: weights.read(short, dtype=torch.float32) for short, name in self._names.items()}
            projector = {name: weights.read(f"multi_modal_projector.{name}", dtype=torch.float32) for name in self._projector.state_dict()}
        self._tower.load_state_dict(state, assign=True)
        self._projector.load_state_dict(projector, assign=True)
        for module in self._tower.modules():
            if isinstance(ids := getattr(module, "position_ids", None), Tensor):
                module.position_ids = torch.arange(ids.shape[-1]).expand(1, -1)
        return Encoder(self.settings, self.processing, self._tower.eval(), self._projector.eval())


class Encoder:
    """From pictures to embeddings."""

    def __init__(self, settings: TowerSettings, processing: Processing, tower: nn.Module, projector: nn.Module) -> None:
        self.settings = settings
        self._tower, self._projector = tower, projector
        self._processor = processor_of(processing)
        self.identity = json.dumps([processing.name, processing.given, settings._asdict()], sort_keys=True, default=str)
        """all that decides, beside the weights, what a picture becomes"""

    def n_positions(self, width: int, height: int) -> int:
        """Positions of a picture of this size."""
        return self.settings.n

    def embeddings(self, picture: object) -> Tensor:
        """float32 [positions, hidden] of a picture of Pillow."""
        with torch.inference_mode():
            pixels = self._processor(images=picture, return_tensors="pt")["pixel_values"]
            return self._seen(pixels.float())[0]

    def _seen(self, pixels: Tensor) -> Tensor:
        """float32 [pictures, positions, hidden]"""
        states = self._tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        first = 0 if self.settings.keeps_class else 1
        seen: Tensor = self._projector(torch.cat([states[layer][:, first:] for layer in self.settings.layers], dim=-1))
        return seen


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
