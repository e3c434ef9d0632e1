"""Measures the cost and the savings of structured output on the built-in model.

python benchmarks/structured.py [--parts forcing masks schemas valid] [--n-valid 500] [--budget 400]
[--reps 5]

    forcing  one record of about 120 tokens under a schema with fixed keys, one and eight at a time:
             tokens, forced tokens, model steps, and the time with and without forcing
             (`Lab(jump_forward=False)`)
    masks    the time to a schema's first mask, cold, and of the masks along a text, over the
             vocabulary
    schemas  every schema of benchmarks/schemas.json, greedy: how many texts are complete within
             their budget, and valid
    valid    generations at temperature 1 under those schemas and some regular expressions. A
             complete text is checked by jsonschema or re.fullmatch, an incomplete one by its
             beginning

Drafts are off except in `valid`, so that every step computes one token per row. Times are medians.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import jsonschema
from engines.ours import Gen

from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput
from sgl_lab.engine.serving.replies import encoded
from sgl_lab.session import Lab

SCHEMAS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "schemas.json").read_text())
RECORD = {
    "type": "object",
    "properties": {
        "full_name": {"type": "string", "pattern": "^[A-Z][a-z]{2,9} [A-Z][a-z]{2,11}$"},
        "date_of_birth": {"type": "string", "pattern": "^19[0-9]{2}-[01][0-9]-[0-3][0-9]$"},
        "occupation": {"enum": ["engineer", "teacher", "physician", "merchant"]},
        "address": {
            "type": "object",
            "properties": {
                "street_and_number": {"type": "string", "maxLength": 24},
                "postal_code": {"type": "string", "pattern": "^[0-9]{5}$"},
                "country": {"enum": ["Portugal", "Norway", "Ireland"]},
            },
            "required": ["street_and_number", "postal_code", "country"],
            "additionalProperties": False,
        },
        "languages_spoken": {"type": "array", "items": {"enum": ["English", "Portuguese", "Norwegian"]}, "minItems": 2, "maxItems": 2},
        "is_currently_employed": {"type": "boolean"},
        "short_biography": {"type": "string", "minLength": 60, "maxLength": 120},
    },
    "required": [
        "full_name", "date_of_birth", "occupation", "address", "languages_spoken", "is_currently_employed", "short_biography"
    ],
    "additionalProperties": False,
}  # fmt: skip
ASK = "Write down the person of this note as JSON.\n\nNote {n}: she lived in {town} and was well known there.\n\n"
TOWNS = ("Lisbon", "Bergen", "Cork", "Porto", "Oslo", "Galway", "Braga", "Tromso")
REGEXES = (r"[A-Z][a-z]+, [0-9]{1,2} (March|April|May) (19|20)[0-9]{2}", r"(yes|no), because [a-z ,]{10,60}\.", r"(\d{1,3}\.){3}\d{1,3}")


def say(lab: Lab, prompts: list[str], params: list[SamplingParams]) -> tuple[list[GenOutput], float]:
    """The outputs after each prompt, all submitted at once, and the seconds taken."""
    for one in params:
        if one.constraint is not None:
            lab.backend.prepare(one.constraint)
    jobs = [GenJob(encoded(lab.backend, prompt), one) for prompt, one in zip(prompts, params, strict=True)]
    answers = [Gen() for _ in jobs]
    started = time.perf_counter()
    for job, answer in zip(jobs, answers, strict=True):
        lab.backend.submit(job, answer)
    outputs = [answer.result() for answer in answers]
    return outputs, time.perf_counter() - started


def schema(document: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(document))


def forcing(lab: Lab, plain: Lab, reps: int) -> None:
    params = SamplingParams(temperature=0, max_tokens=400, constraint=schema(RECORD))
    print("| at a time | tokens | forced | steps | seconds | without forcing: steps | seconds | ratio |\n|---|---|---|---|---|---|---|---|")
    for n in (1, 8):
        prompts = [ASK.format(n=i, town=town) for i, town in enumerate(TOWNS[:n])]
        rows = []
        for one in (lab, plain):
            found = []
            for _ in range(reps + 1):
                one.flush()
                found.append(say(one, prompts, [params] * n))
            outputs = found[-1][0]
            assert all(output.is_complete for output in outputs)
            rows.append((outputs, median(seconds for _, seconds in found[1:])))
        (ours, fast), (others, slow) = rows
        n_tokens = sum(len(output.ids) for output in ours) / n
        n_forced = sum(output.usage.forced_tokens for output in ours) / n
        steps, other_steps = (max(output.usage.model_steps for output in outputs) for outputs in (ours, others))
        print(
            f"| {n} | {n_tokens:.0f} | {n_forced:.0f} ({n_forced / n_tokens:.0%}) | {steps} | {fast:.3f} "
            f"| {other_steps} | {slow:.3f} | {slow / fast:.2f} |"
        )


def masks(lab: Lab) -> None:
    from sgl_lab.grammar.grammars import Grammars

    spelling = lab._tokenizer
    warm = Grammars(spelling)
    warm.prepare(Constraint("regex", "a+"))
    first, each, n_text = [], [], 0
    for entry in SCHEMAS:
        constraint = schema(entry["schema"])
        began = time.perf_counter()
        matcher = warm.start(constraint)
        matcher.masks(1)
        matcher.fill(())
        first.append(time.perf_counter() - began)
        (output,), _ = say(lab, [entry["prompt"]], [SamplingParams(temperature=0, max_tokens=200, constraint=constraint)])
        matcher = warm.start(constraint)
        matcher.masks(1)
        for token in output.ids:
            began = time.perf_counter()
            matcher.fill(())
            each.append(time.perf_counter() - began)
            matcher.take(token)
            if matcher.is_over:
                break
        n_text += len(output.ids)
    print(f"vocabulary of {spelling.n_vocab:,} tokens, {len(first)} schemas, {n_text:,} tokens of text")
    print(f"first mask, compiling included: median {1000 * median(first):.2f} ms, slowest {1000 * max(first):.1f} ms")
    slow = sorted(each)[int(0.99 * len(each))]
    print(f"a mask: median {1e6 * median(each):.0f} us, 99th percentile {1e6 * slow:.0f} us, slowest {1e6 * max(each):.0f} us")


def schemas(lab: Lab, budget: int) -> None:
    params = [
        SamplingParams(temperature=0, max_tokens=entry.get("budget", budget), constraint=schema(entry["schema"])) for entry in SCHEMAS
    ]
    outputs, seconds = say(lab, [entry["prompt"] for entry in SCHEMAS], params)
    whole = [(entry, output) for entry, output in zip(SCHEMAS, outputs, strict=True) if output.is_complete]
    for entry, output in whole:
        jsonschema.Draft202012Validator(entry["schema"]).validate(json.loads(output.text))
    n_tokens, n_forced = (sum(counts) for counts in zip(*((len(o.ids), o.usage.forced_tokens) for o in outputs), strict=True))
    print(f"{len(whole)} of {len(SCHEMAS)} schemas ({len(whole) / len(SCHEMAS):.0%}) whole within their budget, all of them valid")
    print(f"{n_tokens:,} tokens, {n_forced / n_tokens:.0%} forced, {seconds:.1f} s")
    cut = [entry["name"] for entry, output in zip(SCHEMAS, outputs, strict=True) if not output.is_complete]
    print("ran out of tokens: " + (", ".join(cut) or "none"))


def valid(lab: Lab, n_wanted: int, budget: int) -> None:
    deal = Random(1)
    n_whole = n_cut = 0
    began = time.perf_counter()
    while n_whole < n_wanted:
        asked = []
        for _ in range(64):
            entry = deal.choice([*SCHEMAS, *({"regex": regex, "prompt": "An example: "} for regex in REGEXES)])
            constraint = Constraint("regex", entry["regex"]) if "regex" in entry else schema(entry["schema"])
            asked.append((entry, SamplingParams(temperature=1, seed=deal.getrandbits(40), max_tokens=budget, constraint=constraint)))
        outputs, _ = say(lab, [entry["prompt"] for entry, _ in asked], [params for _, params in asked])
        for (entry, _), output in zip(asked, outputs, strict=True):
            if not output.is_complete:
                assert output.finish_reason == "length", output
                n_cut += 1
            elif "regex" in entry:
                assert re.fullmatch(entry["regex"], output.text), output.text
            else:
                jsonschema.Draft202012Validator(entry["schema"]).validate(json.loads(output.text))
            n_whole += bool(output.is_complete)
    seconds = time.perf_counter() - began
    print(f"{n_whole:,} of {n_whole:,} whole texts valid; {n_cut:,} more ran out of {budget} tokens, reported as such; {seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("forcing", "masks", "schemas", "valid")
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--n-valid", type=int, default=500)
    parser.add_argument("--budget", type=int, default=400, metavar="TOKENS")
    parser.add_argument("--reps", type=int, default=5)
    options = parser.parse_args()
    with Lab(draft_tokens=0) as lab:
        print(f"{lab.card.name} in {lab.card.dtype}")
        for part in options.parts:
            print(f"\n{part}")
            match part:
                case "forcing":
                    with Lab(draft_tokens=0, jump_forward=False) as plain:
                        forcing(lab, plain, options.reps)
                case "masks":
                    masks(lab)
                case "schemas":
                    schemas(lab, options.budget)
                case _:
                    with Lab() as drafting:
                        valid(drafting, options.n_valid, options.budget)


if __name__ == "__main__":
    main()
