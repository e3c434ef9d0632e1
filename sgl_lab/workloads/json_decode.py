"""JSON decoding: an article becomes a record, under a regular expression and under a schema."""

from __future__ import annotations

import json

import jsonschema

from ..contracts.errors import BadArgument
from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data, Row
from .workload import Item, Workload


@sgl.function
def json_decode(s: ProgramState, prompt: str, regex: str, schema: Row) -> None:
    s += prompt
    by_regex, by_schema = s.fork(2)
    by_regex += sgl.gen("record", max_tokens=200, regex=regex)
    by_schema += sgl.gen("record", max_tokens=200, json_schema=schema)
    s["by_regex"], s["by_schema"] = by_regex["record"], by_schema["record"]


def read(data: Data, n: int | None) -> list[Item]:
    task = data.value("json_decode_task", schemas=dict, regexes=dict, prompt=str)
    items = []
    for i, row in enumerate(data.rows("wiki_articles", kind=str, text=str)[:n]):
        kind = row["kind"]
        if kind not in task["schemas"] or kind not in task["regexes"]:
            raise BadArgument(f"wiki_articles.jsonl has an article of kind {kind!r}, for which json_decode_task.json has no schema")
        prompt = task["prompt"].replace("{kind}", kind).replace("{text}", row["text"])
        arguments = {"prompt": prompt, "regex": task["regexes"][kind], "schema": task["schemas"][kind]}
        items.append(Item(str(row.get("id", i)), arguments))
    return items


def judge(item: Item, state: ProgramState) -> bool:
    """Whether both are whole: they are held to their form while they are decoded."""
    try:
        jsonschema.validate(json.loads(state["by_schema"]), item.arguments["schema"])
    except (ValueError, jsonschema.ValidationError):
        return False
    return bool(state["by_regex"].endswith("}"))


WORKLOAD = Workload("json", "JSON decoding", "an article to a record, by regex and by schema, on two forks", json_decode, read, judge)
