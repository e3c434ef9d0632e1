"""Selects the block sizes of a kernel: the best ones measured on this card, otherwise defaults that
are good on most.

Results are in one file per card, version of Triton and version of our kernels, which is read once.
Nothing is measured here: `search` receives the measurement as an argument, and only a command calls
it, never a user's cell.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

Config = Mapping[str, int]
"""constants of a kernel: blocks, stages, num_warps"""

GAIN = 0.97
"""A candidate must need less than this share of the time to count as better; smaller differences
are noise.
"""

_log = logging.getLogger(__name__)


class Key(NamedTuple):
    kernel: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kernel} {self.shape}"


@dataclass(frozen=True, slots=True)
class Trial:
    """Configurations that override the file, and the defaults of all keys that were requested
    meanwhile.
    """

    configs: Mapping[Key, Config] = field(default_factory=dict)
    asked: dict[Key, Config] = field(default_factory=dict)


_trial: ContextVar[Trial | None] = ContextVar("trial", default=None)
_file: Path | None = None


def choice(kernel: str, shape: tuple[int, ...], default: Config) -> Config:
    """The constants of `kernel` (blocks, num_warps, num_stages) for a `shape` that is the same in
    all steps.
    """
    key = Key(kernel, shape)
    if (trial := _trial.get()) is not None:
        trial.asked[key] = default
        return trial.configs.get(key, default)
    found = _table(_file).get(key, default)
    return found if found.keys() == default.keys() else default


def use(file: Path) -> None:
    """From now on `choice` uses the results for the card of this `file_of`."""
    global _file
    _file = file


@contextmanager
def trial(configs: Mapping[Key, Config] | None = None) -> Iterator[Trial]:
    """In this block `choice` returns these `configs`, and defaults for other keys."""
    tried = Trial(configs or {})
    token = _trial.set(tried)
    try:
        yield tried
    finally:
        _trial.reset(token)


# ---------------------------------------------------------------- the file


@cache
def _table(file: Path | None) -> Mapping[Key, Config]:
    return {} if file is None else read(file)


def file_of(cache_dir: Path, device: str) -> Path:
    """Of the card with this name, the Triton that is installed and our kernels as they are."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    kernels = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    return cache_dir / "tuning" / f"{re.sub('[^A-Za-z0-9]+', '-', device)}_triton-{metadata.version('triton')}_{kernels}.json"


def read(path: Path) -> Mapping[Key, Config]:
    """Returns nothing, and logs a remark, if the file exists but is not a table."""
    try:
        return dict(map(_entry, json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("%s is not a table of block sizes; the defaults are used: %s", path, error)
        return {}


def _entry(entry: object) -> tuple[Key, Config]:
    match entry:
        case {"kernel": str(kernel), "shape": list(shape), "config": dict(config)}:
            pass
        case _:
            raise TypeError(f"an entry is {entry!r}")
    if not all(type(number) is int for number in shape) or not all(type(number) is int and number > 0 for number in config.values()):
        raise ValueError(f"an entry is {entry!r}")
    return Key(kernel, tuple(shape)), config


def write(path: Path, table: Mapping[Key, Config]) -> None:
    """Whole or not at all."""
    entries = [json.dumps({"kernel": key.kernel, "shape": key.shape, "config": dict(config)}) for key, config in sorted(table.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text("[\n" + ",\n".join(entries) + "\n]\n", encoding="utf-8")
    unfinished.replace(path)


# ---------------------------------------------------------------- the search


def search(default: Config, cost: Callable[[Config], float | None]) -> tuple[Config, float]:
    """The best configuration found by descent from `default`, one constant at a time, and its cost.

    cost  of a configuration; None if it cannot run or gives a different result
    """
    best, least = default, cost(default)
    least = math.inf if least is None else least
    seen = {tuple(default.items())}
    while True:
        rivals = [rival for rival in _beside(best) if tuple(rival.items()) not in seen]
        seen.update(tuple(rival.items()) for rival in rivals)
        costs = [(found, i) for i, rival in enumerate(rivals) if (found := cost(rival)) is not None]
        if not costs or min(costs)[0] >= least * GAIN:
            return best, least
        least, place = min(costs)
        best = rivals[place]


def _beside(config: Config) -> Iterable[Config]:
    """Blocks and warps half as large and twice, stages one more and one less."""
    for name, value in config.items():
        is_count = name in ("STAGES", "num_stages")
        for other in (value - 1, value + 1) if is_count else (value // 2, value * 2):
            if 1 <= other <= {"num_warps": 16, "STAGES": 5, "num_stages": 5}.get(name, 8192):
                yield {**config, name: other}
