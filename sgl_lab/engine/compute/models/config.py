"""Reads a `config.json` of unknown origin: typed values, and keys that families share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ....contracts.errors import ModelError
from .spec import RopeScaling, Rotary

# Far beyond any published model; a damaged file must not make us allocate by its numbers.
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 21
MAX_CONTEXT = 1 << 27

_ORIGINAL = "original_max_position_embeddings"


class Config:
    """Typed access to a configuration of unknown origin. Every error becomes a ModelError that
    names the key.

    A missing key has the default of transformers for this type of model. No default is copied from
    there.
    """

    def __init__(self, data: Mapping[str, object], origin: str, model_type: str = "") -> None:
        self._data = data
        self._origin = origin
        self.model_type = model_type
        self._read = set[object]()

    def fail(self, what: str) -> ModelError:
        return ModelError(f"{self._origin}: {what}")

    def get(self, key: str) -> object:
        self._read.add(key)
        return self._data.get(key)

    def default(self, key: str) -> object:
        """The default of transformers for a missing `key`, given the keys that were read so far;
        None if it has no such key.

        ModelError if it has no such model. Importing transformers takes a second, and most files
        contain every key.
        """
        try:
            from transformers import CONFIG_MAPPING

            kind = CONFIG_MAPPING[self.model_type]
            make: Callable[..., object] = kind
            given = {name: self._data[name] for name in kind.__annotations__.keys() & self._read if self._data.get(name) is not None}
            return getattr(make(**given), key, None)
        except Exception as error:  # it refuses a configuration with errors of many kinds
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise self.fail(f"{key} is missing, and transformers has no default for it ({reason:.300})") from error

    def has(self, key: str) -> bool:
        return key in self._data

    def was_read(self, key: str) -> bool:
        return key in self._read

    def _value(self, key: str, default: object, has_default: bool) -> object:
        value = self.get(key)
        if value is None and default is None and has_default:
            return self.default(key)
        return default if value is None else value

    def integer(self, key: str, most: int, default: int | None = None, *, least: int = 1, has_default: bool = False) -> int:
        """`default` if it is missing or null; with `has_default`, that of transformers."""
        value = self._value(key, default, has_default)
        if type(value) is not int or not least <= value <= most:
            raise self.fail(f"{key} must be a whole number from {least} to {most}, not {value!r:.60}")
        return value

    def number(self, key: str, default: float | None = None, *, has_default: bool = False) -> float:
        value = self._value(key, default, has_default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise self.fail(f"{key} must be a number above 0, not {value!r:.60}")
        return float(value)

    def flag(self, key: str, default: bool | None = False) -> bool:
        """None for transformers' default."""
        value = self._value(key, default, default is None)
        if not isinstance(value, bool):
            raise self.fail(f"{key} must be true or false, not {value!r:.60}")
        return value

    def numbers(self, key: str, n: int) -> tuple[float, ...]:
        value = self.get(key)
        if not isinstance(value, list) or len(value) != n:
            raise self.fail(f"{key} must be a list of {n} numbers")
        entries = Config({str(index): entry for index, entry in enumerate(value)}, f"{self._origin}, {key}")
        return tuple(entries.number(str(index)) for index in range(n))

    def expect(self, key: str, *values: object) -> None:
        """ModelError if an unread key has a value other than `values`. With one of these values the
        key has no effect.
        """
        if key in self._data and key not in self._read and self._data[key] not in values:
            raise self.fail(f"{key} {self._data[key]!r:.60} is not supported")

    def table(self, key: str) -> Config | None:
        """None if it is missing or empty."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(f"{key} must be an object, not {value!r:.60}")
        return Config(value, f"{self._origin}, {key}") if value else None

    def tables(self) -> list[str]:
        """The keys whose values are objects."""
        return [str(key) for key, value in self._data.items() if isinstance(value, dict)]


def _theta(config: Config) -> float:
    if config.get("rope_theta") is not None:
        return config.number("rope_theta")
    parameters = config.default("rope_parameters")
    return Config(parameters if isinstance(parameters, dict) else {}, "transformers").number("rope_theta")


def rotary(config: Config, context: int, head_dim: int) -> Rotary:
    """From either spelling: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling`,
    which wins.
    """
    scaling = next((found for key in ("rope_scaling", "rope_parameters") if (found := config.table(key))), None)
    has_base = scaling is not None and scaling.get("rope_theta") is not None
    return scaled_rotary(config, scaling, scaling.number("rope_theta") if scaling and has_base else _theta(config), context, head_dim)


def scaled_rotary(config: Config, scaling: Config | None, theta: float, context: int, head_dim: int) -> Rotary:
    """Rotary positions by a base, stretched as `scaling` says, in a model for `context` positions."""
    dims = _turning_dims(config, scaling, head_dim)
    if scaling is None:
        return Rotary(theta, dims)
    if nested := scaling.tables():
        raise scaling.fail(f"rotary positions that differ from layer to layer are not supported ({', '.join(nested):.80})")
    original = config if config.get(_ORIGINAL) is not None else scaling
    kind = next((scaling.get(key) for key in ("rope_type", "type") if scaling.has(key)), "default")
    if config.model_type == "phi3" and kind in ("su", "yarn"):  # its older names
        kind = "longrope"
    match kind:
        case "default":
            return Rotary(theta, dims)
        case "dynamic":  # stretches beyond the trained context only, and no sequence is longer
            scaling.number("factor")
            return Rotary(theta, dims)
        case "linear":
            return Rotary(theta, dims, RopeScaling("linear", scaling.number("factor")))
        case "llama3":
            low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
            if low >= high:
                raise scaling.fail(f"low_freq_factor {low} must be below high_freq_factor {high}")
            context = original.integer(_ORIGINAL, MAX_CONTEXT, context)
            return Rotary(theta, dims, RopeScaling("llama3", scaling.number("factor"), low, high, context))
        case "yarn":
            return Rotary(theta, dims, _yarn(scaling, theta, original.integer(_ORIGINAL, MAX_CONTEXT, context)))
        case "longrope":
            return Rotary(theta, dims, _longrope(scaling, original.integer(_ORIGINAL, MAX_CONTEXT, context), context, dims))
        case other:
            raise scaling.fail(f"rotary scaling {other!r:.60} is not supported (linear, dynamic, llama3, yarn and longrope are)")


def _turning_dims(config: Config, scaling: Config | None, head_dim: int) -> int:
    """How many dimensions of a head turn; only a Phi-3 may have fewer than all."""
    tables = [table for table in (scaling, config) if table is not None and table.get("partial_rotary_factor") is not None]
    if not tables:
        return head_dim
    given = tables[0]
    factor = given.number("partial_rotary_factor")
    dims = int(head_dim * factor)
    if factor != 1 and config.model_type != "phi3":
        raise given.fail(f"partial_rotary_factor {factor:g} is not supported in a model of type {config.model_type}")
    if not 2 <= dims <= head_dim or dims % 2:
        raise given.fail(f"partial_rotary_factor {factor:g} turns {dims} of {head_dim} dimensions, which is not an even number of them")
    return dims


def _yarn(scaling: Config, theta: float, original: int) -> RopeScaling:
    """Peng et al. 2023, arXiv:2309.00071, with the names of transformers."""
    factor = scaling.number("factor")
    fast, slow = scaling.number("beta_fast", 32.0), scaling.number("beta_slow", 1.0)
    if theta <= 1:
        raise scaling.fail(f"yarn needs a rope_theta above 1, not {theta:g}")

    def amplitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.get("attention_factor") is not None:
        found = scaling.number("attention_factor")
    elif scaling.get("mscale") and scaling.get("mscale_all_dim"):
        found = amplitude(scaling.number("mscale")) / amplitude(scaling.number("mscale_all_dim"))
    else:
        found = amplitude(1.0)
    return RopeScaling("yarn", factor, slow, fast, original, amplitude=found, is_truncated=scaling.flag("truncate", True))


def _longrope(scaling: Config, original: int, context: int, dims: int) -> RopeScaling:
    """The factors of sequences within the original context. Longer sequences have other factors for
    all their positions, so one model computes one of the two; where both are the same, there is no
    such limit.
    """
    short, long = (scaling.numbers(key, dims // 2) for key in ("short_factor", "long_factor"))
    factor = scaling.number("factor") if scaling.get("factor") is not None else context / original
    if scaling.get("attention_factor") is not None:
        amplitude = scaling.number("attention_factor")
    else:
        amplitude = 1.0 if factor <= 1 or original < 2 else math.sqrt(1 + math.log(factor) / math.log(original))
    limit = context if short == long else min(context, original)
    return RopeScaling("longrope", divisors=short, original_context=limit, amplitude=amplitude)
