"""C1: the JSON Schema Test Suite, draft 2020-12: nothing invalid is accepted, and more is enforced than by the grammar library alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from llguidance import LLMatcher

from sgl_lab.contracts.errors import BackendUnsupported, BadArgument
from sgl_lab.grammar.schema import lowered

from ..pure.schemas import matcher_of, takes_value

SUITE = Path(__file__).parents[2] / "build" / "json-schema-suite" / "draft2020-12"
STRETCH = 0.70


def groups() -> Iterator[tuple[str, dict[str, Any]]]:
    assert SUITE.is_dir(), "the JSON Schema Test Suite is missing: run `make setup-test`"
    for path in sorted(SUITE.glob("*.json")):
        for group in json.loads(path.read_text()):
            yield path.stem, group


def alone(schema: Any) -> str:
    """What the library makes of a schema by itself, with the same separators."""
    written = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
    separators: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return LLMatcher.grammar_from_json_schema(json.dumps(written), overrides=separators)


def ours(schema: Any) -> str:
    return lowered(json.dumps(schema))


def outcomes(grammar_of: Callable[[Any], str]) -> tuple[Counter[str], list[str]]:
    """How often what came of a test, and the tests in which something invalid was taken. A test is tried in every order of keys."""
    counts: Counter[str] = Counter()
    wrong = []
    for keyword, group in groups():
        try:
            matcher = matcher_of(grammar_of(group["schema"]))
        except (BackendUnsupported, ValueError):
            counts["refused"] += len(group["tests"])
            continue
        for test in group["tests"]:
            taken = takes_value(matcher, test["data"])
            outcome = "passed" if taken == test["valid"] else "invalid taken" if taken else "valid not taken"
            if outcome == "invalid taken":
                wrong.append(f"{keyword}: {group['description']}: {test['description']}")
            counts[outcome] += 1
    return counts, wrong


def test_no_invalid_value_is_accepted_and_more_keywords_are_enforced_than_by_the_library_alone(
    record_table: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> NoReturn:
        raise AssertionError("a schema asked for the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    library, _ = outcomes(alone)
    mine, wrong = outcomes(ours)
    n_tests = mine.total()
    for name, counts in ("library alone", library), ("ours", mine):
        figures = {outcome.replace(" ", "_"): n for outcome, n in counts.items()}
        record_table("C1", of=name, tests=n_tests, rate=f"{counts['passed'] / n_tests:.1%}", **figures)
    assert wrong == []
    assert mine["passed"] >= max(library["passed"], STRETCH * n_tests)


def test_what_is_refused_names_the_keyword_and_its_path() -> None:
    vague = []
    for keyword, group in groups():
        try:
            ours(group["schema"])
        except BackendUnsupported as error:
            if "`" not in error.message or " at " not in error.message:
                vague.append(f"{keyword}: {group['description']}: {error}")
        except BadArgument as error:
            if "nothing can satisfy" not in error.message:
                vague.append(f"{keyword}: {group['description']}: {error}")
    assert vague == []
