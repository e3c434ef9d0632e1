"""What a folder says about its image processor and its vision tower, of unknown origin and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ....contracts.errors import ModelError
from ...files.small import read_json

MAX_SIDE = 4096
MAX_WIDTH = 1 << 14
MAX_LAYERS = 256
MAX_PATCHES = 1 << 14
MAX_GRIDS, MAX_TILES = 64, 64
_USUAL_GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_NAMES = ("image_processor_type", "processor_class", "auto_map")


class Processing(NamedTuple):
    """What `preprocessor_config.json` says; `name` is a class of transformers."""

    name: str
    given: dict[str, object]


def processing(folder: Path, supported: tuple[str, ...]) -> Processing:
    """The image processor of the model in `folder`, one of `supported`. ModelMissing, ModelDamaged,
    ModelError.
    """
    path = folder / "preprocessor_config.json"
    if path.exists():
        data = read_json(path)
    else:
        path = folder / "processor_config.json"
        data = read_json(path).get("image_processor") or {}
    if not isinstance(data, dict):
        raise ModelError(f"{path}: image_processor must be an object")
    name = str(data.get("image_processor_type")).removesuffix("Fast").removesuffix("Pil")
    if name not in supported:
        raise ModelError(f"{path}: image processor {name!r:.60} is not supported", hint="supported: " + ", ".join(supported))
    for key in ("size", "crop_size", "max_image_size"):
        sides = data.get(key) if isinstance(data.get(key), dict) else {"": data.get(key)}
        for side in sides.values() if isinstance(sides, dict) else ():
            if side is not None and not (type(side) is int and 1 <= side <= MAX_SIDE):
                raise ModelError(f"{path}: {key} must have whole numbers from 1 to {MAX_SIDE}, not {side!r:.60}")
    return Processing(name, {key: value for key, value in data.items() if key not in _NAMES})


class TowerSettings(NamedTuple):
    """Keys of `vision_config`, and which of the tower's layers the text model sees."""

    given: dict[str, object]
    side: int
    """pixels of the square that the tower sees"""
    grid: int
    """patches in each direction"""
    hidden: int
    layers: tuple[int, ...]
    """indices of hidden states, side by side"""
    keeps_class: bool
    """whether the class token is a position of its own"""
    projector_act: str
    projector_bias: bool
    grids: tuple[tuple[int, int], ...] = ()
    """sizes in pixels, height and width, into the best of which a picture is fitted and cut into
    tiles; empty without tiles
    """

    @property
    def n(self) -> int:
        """Positions of a picture."""
        return self.grid**2 + self.keeps_class


_CLIP = {
    "hidden_size": (768, MAX_WIDTH),
    "intermediate_size": (3072, 8 * MAX_WIDTH),
    "num_hidden_layers": (12, MAX_LAYERS),
    "num_attention_heads": (12, MAX_WIDTH),
    "image_size": (224, MAX_SIDE),
    "patch_size": (32, MAX_SIDE),
    "num_channels": (3, 3),
}
"""Keys of a CLIP tower: transformers' default, and the most"""


def checked(
    vision: Mapping[str, object], integers: Mapping[str, tuple[int, int]], epsilon: float, act: str, origin: str
) -> tuple[dict[str, object], dict[str, int]]:
    """The keys of a `vision_config` that a tower is made of, and those of them that are whole numbers
    (their default and the most are in `integers`). ModelError names the key.
    """
    sizes: dict[str, int] = {}
    for key, (usual, most) in integers.items():
        value = vision.get(key, usual)
        if type(value) is not int or not 1 <= value <= most:
            raise ModelError(f"{origin}: vision_config {key} must be a whole number from 1 to {most}, not {value!r:.60}")
        sizes[key] = value
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise ModelError(f"{origin}: vision_config hidden_size is not a multiple of num_attention_heads")
    eps = vision.get("layer_norm_eps", epsilon)
    if not isinstance(eps, int | float) or not 0 <= eps < 1:
        raise ModelError(f"{origin}: vision_config layer_norm_eps must be a number from 0 to 1, not {eps!r:.60}")
    given = {"layer_norm_eps": float(eps), "hidden_act": _activation(vision.get("hidden_act", act), f"{origin}: vision_config")}
    return given | sizes, sizes


def tower_settings(config: Mapping[str, object], origin: str) -> TowerSettings:
    """Those of a LLaVA's configuration. ModelError names the key."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict) or vision.get("model_type") != "clip_vision_model":
        kind = vision.get("model_type") if isinstance(vision, dict) else vision
        raise ModelError(f"{origin}: a vision tower of type {kind!r:.60} is not supported", hint="supported: clip_vision_model")
    given, sizes = checked(vision, _CLIP, 1e-5, "quick_gelu", origin)
    grid = sizes["image_size"] // sizes["patch_size"]
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise ModelError(f"{origin}: vision_feature_select_strategy {strategy!r:.60} is not supported (default and full are)")
    if not 1 <= grid**2 <= MAX_PATCHES:
        raise ModelError(f"{origin}: a picture of {grid} by {grid} patches is not supported, {MAX_PATCHES} patches are the most")
    bias = config.get("multimodal_projector_bias", True)
    if not isinstance(bias, bool):
        raise ModelError(f"{origin}: multimodal_projector_bias must be true or false, not {bias!r:.60}")
    return TowerSettings(
        given,
        sizes["image_size"],
        grid,
        sizes["hidden_size"],
        _layers(config.get("vision_feature_layer", -2), sizes["num_hidden_layers"], origin),
        strategy == "full",
        _activation(config.get("projector_hidden_act", "gelu"), origin),
        bias,
        _grids(config, sizes["image_size"], strategy, origin) if config.get("model_type") == "llava_next" else (),
    )


def _grids(config: Mapping[str, object], side: int, strategy: object, origin: str) -> tuple[tuple[int, int], ...]:
    given = config.get("image_grid_pinpoints") or _USUAL_GRIDS
    if strategy != "default":
        raise ModelError(f"{origin}: vision_feature_select_strategy {strategy!r:.60} is not supported with tiles (default is)")
    found = []
    for grid in given if isinstance(given, list) and len(given) <= MAX_GRIDS else [given]:
        sides = [size for size in grid if type(size) is int and side <= size and size % side == 0] if isinstance(grid, list) else []
        if len(sides) != 2 or sides[0] * sides[1] > MAX_TILES * side**2:
            raise ModelError(f"{origin}: image_grid_pinpoints must be sizes of 1 to {MAX_TILES} tiles of {side}, not {grid!r:.60}")
        found.append((sides[0], sides[1]))
    return tuple(found)


def _layers(given: object, n_layers: int, origin: str) -> tuple[int, ...]:
    layers = given if isinstance(given, list) else [given]
    if not layers or len(layers) > n_layers or any(type(at) is not int or not -n_layers - 1 <= at <= n_layers for at in layers):
        raise ModelError(f"{origin}: vision_feature_layer {given!r:.60} names no layer of a tower of {n_layers}")
    return tuple(layers)


def _activation(name: object, origin: str) -> str:
    if name not in ("quick_gelu", "gelu", "gelu_pytorch_tanh", "relu", "silu"):
        raise ModelError(f"{origin}: activation {name!r:.60} is not supported")
    return str(name)
