"""Renews the table of prices from a file: `python -m sgl_lab.backends.remote.refresh [FILE]
[--as-of DATE] [--add]`.

FILE is LiteLLM's `model_prices_and_context_window_backup.json`, which its package ships. Numbers of
models in the table are taken from it, and the table gets the date. A model that FILE does not have
keeps its line, and is named; `--add` takes in the chat models that the table does not have. Without
FILE the table is checked only. Nothing is fetched. Exit status 1: the table is malformed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import cast

from ...contracts.json_values import Json
from .prices import CAN, check_table

TABLE = Path(__file__).with_name("prices.json")
Line = dict[str, Json]

_PREFIXES = {"openai": ("",), "anthropic": ("",), "gemini": ("gemini/", ""), "vertex": ("vertex_ai/", "")}
"""of names in FILE, by provider, the more exact first"""
_MODES = ("chat", "responses", "completion")
_PRICES = {
    "prompt": "input_cost_per_token",
    "completion": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "written": "cache_creation_input_token_cost",
}
_COUNTS = {"context": "max_input_tokens", "max_output": "max_output_tokens", "cache_min": "prompt_cache_min_tokens"}
_ORDER = ("prompt", "completion", "cached", "written", "long", "context", "max_output", "cache_min", "can")
_DATE = re.compile(r"-(\d{8}|\d{4}-\d\d-\d\d)$")
_LONG = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_SAYS = {
    "images": "supports_vision",
    "tools": "supports_function_calling",
    "schema": "supports_response_schema",
    "thinks": "supports_reasoning",
    "none_effort": "supports_none_reasoning_effort",
}


def line_of(listed: Mapping[str, Json], before: Line) -> Line | None:
    """A model's line, with what the one before says of it and FILE does not; None if FILE has no price."""
    prices = _prices(listed, "")
    if not {"prompt", "completion"} <= prices.keys():
        return None
    line: Line = dict(prices)
    if "cached" not in prices:
        line.pop("written", None)
    if threshold := next((found for name in listed if (found := _LONG.fullmatch(name))), None):
        line["long"] = {"above": int(threshold[1]) * 1000, **_prices(listed, f"_above_{threshold[1]}k_tokens")}
    line |= {name: listed[theirs] for name, theirs in _COUNTS.items() if isinstance(listed.get(theirs), int)}
    can = [name for name in CAN if listed.get(_SAYS.get(name, "")) or (name == "responses_only" and listed.get("mode") == "responses")]
    line["can"] = before.get("can", cast(Json, can))
    if "cache_min" in before:
        line.setdefault("cache_min", before["cache_min"])
    return {name: line[name] for name in _ORDER if line.get(name, []) != []}


def _prices(listed: Mapping[str, Json], suffix: str) -> dict[str, Json]:
    """Of a million tokens."""
    found = {name: listed.get(theirs + suffix) for name, theirs in _PRICES.items()}
    return {name: round(price * 1e6, 6) for name, price in found.items() if isinstance(price, int | float)}


def renewed(models: Mapping[str, Line], listed: Mapping[str, Mapping[str, Json]], *, adds: bool) -> tuple[dict[str, Line], list[str]]:
    """The new lines, and what has changed, a sentence each."""
    lines, remarks = dict(models), []
    for name, before in models.items():
        theirs = _found(name, listed)
        after = line_of(listed[theirs], before) if theirs else None
        if after is None:
            remarks.append(f"{name}: not in the file, left as it is")
            continue
        lines[name] = after
        changed = [field for field in {**before, **after} if before.get(field) != after.get(field)]
        remarks += [f"{name}: {field} {before.get(field)} -> {after.get(field)}" for field in changed]
    for name, theirs in _new(models, listed):
        after = line_of(listed[theirs], {}) if adds else None
        remarks.append(f"{name}: {'added' if after else 'new in the file, not added'}")
        if after:
            lines[name] = after
    return dict(sorted(lines.items())), remarks


def _found(name: str, listed: Mapping[str, Mapping[str, Json]]) -> str:
    """Its name in the file; one that costs nothing there is a trial, and counts last."""
    provider, _, model = name.partition("/")
    names = [prefix + model for prefix in _PREFIXES.get(provider, ()) if prefix + model in listed]
    return next((each for each in names if listed[each].get("input_cost_per_token")), next(iter(names), ""))


def _new(models: Mapping[str, Line], listed: Mapping[str, Mapping[str, Json]]) -> Iterator[tuple[str, str]]:
    providers = {"openai": "openai", "anthropic": "anthropic", "gemini": "gemini", "vertex_ai-language-models": "vertex"}
    for theirs, about in listed.items():
        provider = providers.get(str(about.get("litellm_provider")), "")
        name = f"{provider}/{theirs.rpartition('/')[2]}"
        is_known = name in models or _DATE.sub("", name) in models  # a date stands for its model (`prices.find_prices`)
        if provider and about.get("mode") in _MODES and not is_known and "ft:" not in theirs:
            yield name, theirs


def written(as_of: str, source: str, models: Mapping[str, Line]) -> str:
    """The table's text: a line a model."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(line)}" for name, line in models.items())
    return f'{{\n "as_of": {json.dumps(as_of)},\n "source": {json.dumps(source)},\n "models": {{\n{lines}\n }}\n}}\n'


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sgl_lab.backends.remote.refresh", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--as-of", type=date.fromisoformat, default=date.today(), help="the date of FILE's prices (default: today)")
    parser.add_argument("--source", help="what FILE is, in words; by default as in the table")
    parser.add_argument("--add", action="store_true", help="take in models that the table does not have")
    parser.add_argument("--table", type=Path, default=TABLE, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        table = json.loads(options.table.read_text("utf-8"))
        check_table(table)
        if options.file is None:
            print(f"{len(table['models'])} models, prices of {table['as_of']}")
            return 0
        listed = json.loads(options.file.read_text("utf-8"))
        if not isinstance(listed, dict) or not all(isinstance(about, dict) for about in listed.values()):
            raise ValueError("it must be an object with an object for each model")
        models, remarks = renewed(table["models"], listed, adds=options.add)
        text = written(options.as_of.isoformat(), options.source or table["source"], models)
        check_table(json.loads(text))
    except (OSError, ValueError) as error:
        print(f"{options.file or options.table}: {error}", file=sys.stderr)
        return 1
    options.table.write_text(text, "utf-8")
    print("\n".join((*remarks, f"{len(models)} models, prices of {options.as_of}")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
