"""Auto-tuning: the width of a batch and the engine's settings, chosen by measuring on the user's rows.

A small grid is searched by successive halving: every candidate is measured beside the default, in
alternation, and the better half is measured again, until one is left. The default stays unless that
one is better by more than chance, as the default beside itself shows it. Only greedy text is tuned
for: no setting changes it.

Evictions are chosen beforehand, by what-if: one run of the rows is recorded and replayed under each
policy, without the model. Only the best two that compute less than the default's are measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite, log, sqrt
from os import PathLike
from pathlib import Path
from statistics import median, stdev
from typing import Protocol, TypeVar

from ...contracts.errors import BadArgument
from ...contracts.knobs import Knobs, Place, Tunable
from ...contracts.policies import EVICTIONS
from ..interrupts import INTERRUPTS
from ..keywords import suggests

T = TypeVar("T")

FORMAT = "sgl_lab.tuning/2"
MIN_GAIN = 0.02
"""share of the time that a candidate has to save in any case"""
PAIRS = 2
"""measurements of a candidate in the first round; twice as many in each further one"""
SHARE = 20
"""one run of the rows takes about this part of the budget; if all take longer, some are measured"""
LEAST_ROWS = 2
BEST = 2
"""evictions that are measured, of all that were replayed"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of the grid."""

    width: int
    """items of a batch that run at once"""
    knobs: Knobs

    def words(self, default: Setting) -> str:
        """How it differs from another."""
        mine, other = _flat(self), _flat(default)
        return ", ".join(f"{name} {mine[name]}" for name in mine if mine[name] != other[name]) or "default"


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured of one candidate."""

    setting: Setting
    ratios: tuple[float, ...]
    """its seconds over those of the default, measured just before it, in its last round. Earlier
    rounds chose it, so they would flatter it
    """
    computed: int
    """tokens that one run computes"""
    rounds: int
    """the last round of the search that it was in"""

    @property
    def ratio(self) -> float:
        return median(self.ratios)


@dataclass(frozen=True)
class Tuned:
    """The result of a search. `str` shows all numbers."""

    program: str
    place: Place
    default: Setting
    choice: Setting
    trials: tuple[Trial, ...]
    """the best first"""
    noise: float
    """share of the time that chance saves or costs, from the default beside itself"""
    default_seconds: float
    """median of one run of the measured rows"""
    default_computed: int
    n_rows: int
    """rows that were measured"""
    seconds: float
    """that the search took"""
    replayed: tuple[tuple[str, int], ...] = ()
    """tokens that one run computes under each eviction, by what-if; empty if nothing could be replayed"""

    @property
    def gain(self) -> float:
        """Share of the default's time that the choice saves; 0 if the default stays."""
        chosen = [trial for trial in self.trials if trial.setting == self.choice]
        return 1 - chosen[0].ratio if chosen else 0.0

    def rows(self) -> list[tuple[str, ...]]:
        """The measurements as a table, with headings."""
        found: list[tuple[str, ...]] = [("setting", "time", "tokens computed", "pairs", "round")]
        found.append(("default", "1.00", f"{self.default_computed:,}", "", ""))
        for trial in self.trials:
            words = trial.setting.words(self.default)
            found.append((words, f"{trial.ratio:.2f}", f"{trial.computed:,}", str(len(trial.ratios)), str(trial.rounds)))
        return found

    def foretold(self) -> str:
        """What was replayed, and which evictions were measured, in one line; empty without a replay."""
        if not self.replayed:
            return ""
        counts = ", ".join(f"{name} {n_tokens:,}" for name, n_tokens in self.replayed)
        chosen = ", ".join(_worth(dict(self.replayed), self.default)) or "none, because no other computes less"
        return f"what-if, tokens of one run by eviction: {counts}; to be measured: {chosen}"

    def verdict(self) -> str:
        """The choice, and why, in one line."""
        noise = f"chance is worth {100 * self.noise:.1f} % here"
        if self.choice == self.default:
            if not self.trials:
                return "the default stays: there was no time to measure another setting"
            best = f"the best candidate took {self.trials[0].ratio:.2f} of its time"
            if 1 - self.trials[0].ratio > max(self.noise, MIN_GAIN):
                return f"the default stays: {best}, but the time was up before that was sure; give it more seconds"
            return f"the default stays: {noise}; {best}"
        return f"chosen: {self.choice.words(self.default)} ({1 - self.gain:.2f} of the default's time; {noise})"

    def __str__(self) -> str:
        lines = ["  ".join(row) for row in self.rows()]
        return "\n".join(filter(None, [*lines, self.foretold(), self.verdict()]))

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as JSON, which `load_tuning` reads."""
        Path(path).write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    def check(self, program: str, place: Place) -> None:
        """BadArgument, in one line, if it was measured of another program or elsewhere."""
        if program != self.program:
            raise BadArgument(f"this tuning is of {self.program}, not of {program}", hint="tune this program")
        for name in Place._fields:
            here, there = getattr(place, name), getattr(self.place, name)
            if here != there:
                raise BadArgument(f"this tuning was measured with {name} {there}, and here it is {here}", hint="tune again here")


class Measured(Protocol):
    """Runs the first `n` rows with a width, and returns when all are done."""

    def __call__(self, n: int, width: int) -> None: ...


def grid(default: Setting, evictions: Sequence[str] = EVICTIONS) -> list[Setting]:
    """The default with one setting changed, and the pairs of settings that help each other. The best
    of the `evictions` is the last.
    """
    knobs = default.knobs
    found = [replace(default, knobs=replace(knobs, evict=name)) for name in evictions[::-1]]
    found += [replace(default, width=width) for width in (4, 16, 64)]
    found += [replace(default, knobs=replace(knobs, step_tokens=n)) for n in (128, 256, 512, 1024, 2048)]
    found += [replace(default, knobs=replace(knobs, draft_tokens=n)) for n in (0, 16, 64)]
    found += [replace(default, knobs=replace(knobs, schedule=name)) for name in ("lpm", "fcfs", "dfs-weight")]
    best = evictions[-1] if evictions else knobs.evict
    found += [Setting(64, replace(knobs, step_tokens=1024)), Setting(64, replace(knobs, schedule="dfs-weight", evict=best))]
    return [setting for setting in dict.fromkeys(found) if setting != default]


def search(
    program: str,
    run: Measured,
    engine: Tunable,
    width: int,
    n_rows: int,
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    report: Callable[[str], None] = lambda words: None,
) -> Tuned:
    """Measure within about `seconds`, and leave the engine as it was.

    BadArgument for a budget that is not positive. An interrupt ends it, with the engine as it was.
    """
    if not (isinstance(seconds, int | float) and seconds > 0):
        raise BadArgument(f"seconds must be more than 0, not {seconds!r:.40}")
    default = Setting(width, engine.knobs())
    began = clock()
    try:
        return _Search(program, run, engine, default, n_rows, began + seconds, began, clock, report).result()
    finally:
        engine.turn(default.knobs)


@dataclass(slots=True)
class _Search:
    program: str
    run: Measured
    engine: Tunable
    default: Setting
    n: int
    until: float
    began: float
    clock: Callable[[], float]
    report: Callable[[str], None]

    def result(self) -> Tuned:
        self._once(self.default, LEAST_ROWS)  # kernels and grammars are ready after it
        first, _ = self._once(self.default, min(self.n, LEAST_ROWS))
        room = (self.until - self.began) / SHARE
        self.n = max(min(self.n, LEAST_ROWS), min(self.n, int(room / max(first, 1e-9) * LEAST_ROWS)))
        seconds, computed = self._once(self.default, self.n)
        defaults = [seconds]
        trials: dict[Setting, Trial] = {}
        replayed = self._replayed()
        evictions = _worth(replayed, self.default) if replayed else EVICTIONS
        left, n_pairs, rounds, is_whole = grid(self.default, evictions), PAIRS, 0, False
        while True:
            rounds += 1
            for setting in self._affordable(left, n_pairs, defaults):
                ratios = []
                for _ in range(n_pairs):
                    before, _ = self._once(self.default, self.n)
                    took, n_computed = self._once(setting, self.n)
                    defaults.append(before)
                    ratios.append(took / max(before, 1e-9))
                trials[setting] = Trial(setting, tuple(ratios), n_computed, rounds)
                self.report(f"round {rounds}, {setting.words(self.default)}: {median(ratios):.2f} of the default's time")
            measured = [trial for trial in trials.values() if trial.rounds == rounds]
            if len(measured) < len(left):  # the budget is used up
                break
            if is_whole := len(left) == 1:
                break
            best = sorted(measured, key=lambda trial: trial.ratio)
            left = [trial.setting for trial in best[: max(1, len(best) // 2)]]
            n_pairs *= 2
        ordered = sorted(trials.values(), key=lambda trial: (-trial.rounds, trial.ratio))
        found = self._chosen(ordered, defaults, computed, is_whole=is_whole)
        return replace(found, replayed=tuple(replayed.items()))

    def _replayed(self) -> Mapping[str, int]:
        """Tokens of one run of the default under each eviction."""
        INTERRUPTS.check()
        self.engine.turn(self.default.knobs)
        found = self.engine.replayed(lambda: self.run(self.n, self.default.width), EVICTIONS)
        if found:
            self.report("what-if: " + ", ".join(f"{name} {n_tokens:,}" for name, n_tokens in found.items()) + " tokens")
        return found

    def _affordable(self, left: Sequence[Setting], n_pairs: int, defaults: Sequence[float]) -> Iterator[Setting]:
        """Those for which there is time."""
        for setting in left:
            if self.clock() + 2 * n_pairs * median(defaults) > self.until:
                return
            yield setting

    def _once(self, setting: Setting, n: int) -> tuple[float, int]:
        """Seconds of one run from an empty cache, and the tokens that it computed."""
        INTERRUPTS.check()
        self.engine.turn(setting.knobs)
        before, began = self.engine.computed(), self.clock()
        self.run(n, setting.width)
        return self.clock() - began, self.engine.computed() - before

    def _chosen(self, trials: list[Trial], defaults: Sequence[float], computed: int, *, is_whole: bool) -> Tuned:
        best = trials[0] if trials else None
        noise = _noise(defaults, len(best.ratios) if best else PAIRS)
        is_better = is_whole and best is not None and 1 - best.ratio > max(noise, MIN_GAIN)
        return Tuned(
            self.program,
            self.engine.place(),
            self.default,
            best.setting if best is not None and is_better else self.default,
            tuple(trials),
            noise,
            median(defaults),
            computed,
            self.n,
            self.clock() - self.began,
        )


def _worth(replayed: Mapping[str, int], default: Setting) -> list[str]:
    """The evictions that are worth a measurement, the best last."""
    least = replayed.get(default.knobs.evict, 0)
    better = sorted((name for name, n_tokens in replayed.items() if n_tokens < least), key=lambda name: -replayed[name])
    return better[-BEST:]


def _noise(defaults: Sequence[float], n: int) -> float:
    """Twice the standard error of the median of `n` ratios, as the default beside itself shows it: a
    share of the time that chance alone saves or costs once in twenty times.
    """
    apart = [log(max(later, 1e-9) / max(earlier, 1e-9)) for earlier, later in zip(defaults[::2], defaults[1::2], strict=False)]
    return 2 * 1.2533 * stdev(apart) / sqrt(n) if len(apart) > 1 else 0.0


# ---------------------------------------------------------------- files


@suggests
def load_tuning(path: str | PathLike[str]) -> Tuned:
    """What `Tuned.save` wrote. BadArgument, in one line, for another version or a damaged file."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise BadArgument(f"{path} is no tuning of version {FORMAT}", hint="Tuned.save writes one")
        return _read(data)
    except BadArgument:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadArgument(f"{path} is damaged: {error!r:.120}", hint="tune again, and save it") from None


def _read(data: Mapping[str, object]) -> Tuned:
    found = dict(data)
    if set(found) != {field.name for field in fields(Tuned)}:
        raise ValueError("its fields are not those of a tuning")
    model, dtype, device, cache_tokens = _listed(found["place"])
    made = Tuned(
        _typed(found["program"], str),
        Place(_typed(model, str), _typed(dtype, str), _typed(device, str), _typed(cache_tokens, int)),
        _setting(found["default"]),
        _setting(found["choice"]),
        tuple(map(_trial, _listed(found["trials"]))),
        _number(found["noise"]),
        _number(found["default_seconds"]),
        _typed(found["default_computed"], int),
        _typed(found["n_rows"], int),
        _number(found["seconds"]),
        tuple(map(_replay, _listed(found["replayed"]))),
    )
    if made.choice != made.default and made.choice not in {trial.setting for trial in made.trials}:
        raise ValueError("its choice was not measured")
    return made


def _setting(data: object) -> Setting:
    found = _named(data, Setting)
    knobs, width = _named(found["knobs"], Knobs), _typed(found["width"], int)
    if width < 1:
        raise ValueError("a width below 1")
    steps, drafts = (_typed(knobs[name], int) for name in ("step_tokens", "draft_tokens"))
    return Setting(width, Knobs(steps, drafts, _typed(knobs["schedule"], str), _typed(knobs["evict"], str)))


def _trial(data: object) -> Trial:
    found = _named(data, Trial)
    ratios = tuple(map(_number, _listed(found["ratios"])))
    if not ratios:
        raise ValueError("a trial without measurements")
    return Trial(_setting(found["setting"]), ratios, _typed(found["computed"], int), _typed(found["rounds"], int))


def _replay(data: object) -> tuple[str, int]:
    name, n_tokens = _listed(data)
    return _typed(name, str), _typed(n_tokens, int)


def _named(data: object, kind: type) -> Mapping[str, object]:
    names = {field.name for field in fields(kind)}
    if not isinstance(data, dict) or set(data) != names:
        raise ValueError(f"no {kind.__name__.lower()}: {data!r:.60}")
    return data


def _listed(data: object) -> Sequence[object]:
    if not isinstance(data, list):
        raise TypeError(f"no list: {data!r:.60}")
    return data


def _typed(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r:.60} has the wrong type")
    return value


def _number(value: object) -> float:
    return value if isinstance(value, float) and isfinite(value) else float(_typed(value, int))


def _flat(setting: Setting) -> dict[str, object]:
    return {"width": setting.width, **{name.replace("_", " "): value for name, value in asdict(setting.knobs).items()}}
