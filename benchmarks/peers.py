"""Compares our engine with others on the same work, and shows the distance to each target.

    python benchmarks/peers.py --install all                          once: the peers' environments, under build/peers
    python benchmarks/peers.py [--engines sgl_lab openvino ...] [--loads decode prefill ttft W1 W2 W3 W4] [--reps 3] [--threads 2]
    python benchmarks/peers.py --from build/peers.json                the table and the targets of an earlier run
    python benchmarks/peers.py --model qwen2.5-coder-0.5b ...         another model, which has to be a GGUF file

All engines use the same weights (of the built-in model, or --model), the same token ids and the same number of
threads, greedy, ignoring end-of-sequence. Each engine runs in a process of its own, one after the
other. An engine that is missing or fails keeps its row, with the reason.

    decode   prompts of 128 tokens with 64 new ones each, from the first new token to the last, at
             batch 1, 8 and 32
    prefill  1,024 tokens, nothing cached, to the first new one
    ttft     24 new tokens after 1,000 that have just been computed, to the first new one
    W1       32 questions of 48 tokens on one prefix of 826, each answered by the likeliest of four
             tokens
    W2       8 plans of 64 tokens that fork from a root of 400, then 8 judges of 8 tokens
    W3       8 documents of 150 tokens, with a JSON record of about 110 under one regex after each
    W4       8 conversations of 4 turns with replies of 48 tokens

Every repetition has text of its own and begins with an empty cache. Each load runs once to warm up,
then --reps times, or until --budget seconds are over. Our rows use `Lab` and its backend port;
their last tokens are compared with the torch twin of the same weights. Decoding is judged without
drafts, because the continuations of these prompts repeat themselves, which would make drafts look
faster than with most texts. Results are also written to build/peers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engines import report, roster
from engines.drive import Peer, PeerFailed, measure
from engines.make import MAKERS, load
from engines.roster import Contender, Models

from sgl_lab.engine.text.tokenizer import Tokenizer

RESULTS = roster.ROOT / "build" / "peers.json"
CHECKED = 8
"""sequences per figure (W1: all) that are compared with the twin"""


def models_and_tokenizer(name: str) -> tuple[Models, Tokenizer]:
    """The model in every engine's format, and its tokenizer."""
    from sgl_lab.engine.compute.models.convert import convert
    from sgl_lab.engine.files import store
    from sgl_lab.engine.files.fetch import unseen

    gguf = store.resolve(name)
    folder = convert(gguf, name, store.cache_dir(), unseen)
    n_vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer = Tokenizer(folder, n_vocab)
    (end,) = tokenizer.encode("<|im_end|>", markup=True)
    return Models(gguf, folder, name, end), tokenizer


def run_engine(
    contender: Contender, models: Models, tokenizer: Tokenizer, figures: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """The engine's row, as `report` reads it. A worker that dies or hangs is restarted for the next
    figure.
    """
    row: dict[str, Any] = {"title": contender.title, "ours": contender.ours, "figures": {}}
    if (obstacle := contender.obstacle(models)) is not None:
        return row | {"problem": obstacle}
    limits = {"reps": options.reps, "budget_s": options.budget, "limit_s": options.limit}
    log = roster.PEERS / f"{contender.name}.log"
    answers: dict[str, Any] = {}
    waiting = list(figures)
    while waiting:
        try:
            peer = Peer(contender.command(options.threads, models), folder=roster.BENCHMARKS, log=log, threads=options.threads)
        except PeerFailed as failure:
            return row | {"problem": str(failure)}
        with peer:
            row["version"] = peer.version
            while waiting and peer.is_alive:
                figure = waiting.pop(0)
                tell(f"{contender.title}: {figure}")
                try:
                    n_before = n_accepted(peer) if contender.ours else 0
                    measured = measure(peer, partial(load, figure, tokenizer.encode), **limits)
                    n_after = n_accepted(peer) if contender.ours else 0
                except PeerFailed as failure:
                    row["figures"][figure] = {"problem": str(failure)}
                    continue
                if measured is not None:
                    row["figures"][figure] = {"seconds": measured.seconds, "is_warm": measured.is_warm, "n_accepted": n_after - n_before}
                    row["figures"][figure] |= in_form(measured.answers, tokenizer)
                    answers[figure] = measured.answers if figure == "W1" else measured.answers[:: max(1, len(measured.answers) // CHECKED)]
            if contender.ours and peer.is_alive:
                tell(f"{contender.title}: against the torch twin")
                try:
                    peak_mib = peer.call("peak_mib")
                    checked = peer.call("check", figures=answers)
                    row |= {"agreement": checked.pop("agreement"), "memory": checked | {"peak_mib": peak_mib}}
                except PeerFailed as failure:
                    row["unchecked"] = str(failure)
    return row


def in_form(answers: list[dict[str, Any]], tokenizer: Tokenizer) -> dict[str, str]:
    """How many of the constrained texts match their form, and their length."""
    asked = [one for one in answers if one["regex"] is not None]
    n_matched = sum(re.fullmatch(one["regex"], tokenizer.decode(one["tokens"]).strip()) is not None for one in asked)
    n_tokens = sum(len(one["tokens"]) for one in asked)
    return {"matched": f"{n_matched} of {len(asked)}, {n_tokens / len(asked):.0f} tokens each"} if asked else {}


def n_accepted(peer: Peer) -> int:
    """Draft tokens accepted so far."""
    return int(peer.call("stats").get("accepted_tokens", 0))


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a CPU")
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=roster.ROOT, capture_output=True, text=True, check=False)
    return {"cpu": cpu, "cores": os.cpu_count(), "load": os.getloadavg()[0], "commit": git.stdout.strip() or "unknown"}


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [contender.name for contender in roster.CONTENDERS]
    parser.add_argument("--engines", nargs="+", default=names, metavar="NAME", help="; ".join(names))
    parser.add_argument("--loads", nargs="+", default=list(MAKERS), choices=list(MAKERS), metavar="LOAD")
    parser.add_argument("--model", default="smollm2", metavar="NAME", help="one whose turns end with <|im_end|>")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=4.0, metavar="SECONDS", help="of one load on one engine, its warm-up not counted")
    parser.add_argument("--limit", type=float, default=15.0, metavar="SECONDS", help="of one repetition; what takes longer is given up")
    parser.add_argument("--install", nargs="+", choices=["all", *roster.RECIPES], metavar="NAME", help=f"all, {', '.join(roster.RECIPES)}")
    parser.add_argument("--from", dest="results", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.results:
        print(report.text(json.loads(options.results.read_text())))
        return
    try:
        contenders = roster.chosen(options.engines)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    models, tokenizer = models_and_tokenizer(options.model)
    if options.install:
        for recipe in roster.RECIPES if "all" in options.install else options.install:
            tell(f"installing {recipe}")
            roster.install(recipe, models)
        return
    figures = [figure for name in options.loads for figure in MAKERS[name]]
    settings = {"model": options.model, "reps": options.reps, "threads": options.threads, "budget_s": options.budget}
    results: dict[str, Any] = {"machine": machine(), "options": settings, "engines": {}}
    for contender in contenders:
        results["engines"][contender.name] = run_engine(contender, models, tokenizer, figures, options)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1))
    print(report.text(results))


if __name__ == "__main__":
    main()
