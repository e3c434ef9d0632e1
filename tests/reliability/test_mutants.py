"""The planted bugs of `mutants`: all of them fit the source, and a sample that changes with the source is killed."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from ..pure.driving import SOAK
from .mutants import MUTANTS, ROOT, Mutant, judged, source

N_SAMPLE = 6


def test_every_planted_bug_fits_its_source_and_names_a_test_that_is_there() -> None:
    assert len(MUTANTS) >= 25
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    misfits = [mutant.name for mutant in MUTANTS if source(mutant).read_text(encoding="utf-8").count(mutant.old) != 1]
    assert not misfits
    for mutant in MUTANTS:
        file, _, test = mutant.killer.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), mutant.name


def sample() -> list[Mutant]:
    """All in soak; else a few, others whenever the engine's source changes."""
    if SOAK > 1:
        return list(MUTANTS)
    text = b"".join(path.read_bytes() for path in sorted({source(mutant) for mutant in MUTANTS}))
    return random.Random(zlib.crc32(text)).sample(MUTANTS, N_SAMPLE)


def test_planted_bugs_pass_the_smoke_test_and_are_killed(record_table: Callable[..., None]) -> None:
    verdicts = list(judged(sample(), 2))
    record_table("R2", planted=len(verdicts), of=len(MUTANTS), killed=sum(verdict.is_killed for verdict in verdicts))
    assert len(verdicts) >= N_SAMPLE
    assert [(verdict.mutant.name, verdict.output) for verdict in verdicts if not verdict.is_killed] == []
