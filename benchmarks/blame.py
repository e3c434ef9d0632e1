"""Measures blame: how often it finds a planted sentence first, whether its scores are those of
prompts that are computed alone, and what it costs.

    python -m benchmarks.blame [--prompts 50] [--check 5] [--model smollm2]

A prompt is a note of twelve sentences, three of which give a code, and the question for one of
them. Prompts are asked until the model has answered --prompts of them right; blame then explains the
digits of each answer, by sentence. The first --check of them are scored again in a second engine
without a cache, one prompt at a time, and every score is compared.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from sgl_lab import assistant, function, gen, user
from sgl_lab.contracts.port import ScoreJob, ScoreOutput
from sgl_lab.lang.state import ProgramState
from sgl_lab.session import Lab
from sgl_lab.viz.explain.attribution.blame import Blame, blame
from sgl_lab.viz.explain.attribution.pieces import pieces
from sgl_lab.viz.views.asked import asked

PLACES = (
    "the harbour", "the mill", "the library", "the boathouse", "the bakery", "the school", "the station", "the chapel", "the garage",
    "the museum", "the kitchen", "the greenhouse", "the archive", "the cellar", "the theatre", "the workshop",
)  # fmt: skip
OTHERS = (
    "It rained for most of the morning.",
    "Anna has painted her bicycle red.",
    "The bus to the coast leaves from the square.",
    "Two of the windows on the stairs are broken.",
    "Somebody left a green umbrella in the hall.",
    "The cat sleeps on the piano most of the day.",
    "Lunch will be soup and bread again.",
    "The river is higher than it was last week.",
    "Tom is looking for his glasses.",
    "There will be music in the park tonight.",
    "The new carpet has not arrived yet.",
    "A parcel for the neighbours is on the table.",
    "The clock in the office is ten minutes slow.",
    "Please water the plants on the balcony.",
)
N_SENTENCES, N_CODES, MOST_TRIES = 12, 3, 5


@dataclass(frozen=True, slots=True)
class Question:
    note: str
    place: str
    code: str

    @property
    def planted(self) -> str:
        return sentence(self.place, self.code)


def sentence(place: str, code: str) -> str:
    return f"The code of {place} is {code}."


def questions(seed: int = 0) -> Iterator[Question]:
    """Without end, the same for a seed."""
    chance = random.Random(seed)
    while True:
        places = chance.sample(PLACES, N_CODES)
        codes = [str(code) for code in chance.sample(range(1000, 10_000), N_CODES)]
        sentences = [*map(sentence, places, codes), *chance.sample(OTHERS, N_SENTENCES - N_CODES)]
        chance.shuffle(sentences)
        yield Question(" ".join(sentences), places[0], codes[0])


@function
def answered(s: ProgramState, question: Question) -> None:
    s += user(f"{question.note}\nWhat is the code of {question.place}?")
    s += assistant(gen("answer", max_tokens=24, temperature=0, stop="."))


def explained(lab: Lab, question: Question) -> tuple[Blame, Sequence[ScoreJob], Sequence[ScoreOutput]] | None:
    """Blame for the digits of the answer, and all that was scored; None if the answer is wrong."""
    with lab.record("retrieval") as record:
        state = answered.run(question, backend=lab.backend)
        text = state["answer"]
    if question.code not in text or text.count("code") > 2:
        return None
    (one,) = asked(record.entries, lambda token: not lab.backend.decode((token,), special=False))
    texts = [lab.spell(token) for token in one.answer]
    start = "".join(texts).find(question.code)
    ends = [sum(map(len, texts[: at + 1])) for at in range(len(texts))]
    of = tuple(sum(end <= at for end in ends) for at in (start, start + len(question.code) - 1))
    jobs: list[ScoreJob] = []
    outputs: list[ScoreOutput] = []

    def score(some: Sequence[ScoreJob]) -> Sequence[ScoreOutput]:
        found = lab.score(some)
        jobs.extend(some)
        outputs.extend(found)
        return found

    found = blame(one, pieces(one.prompt, "sentence", lab.spell), score, by="sentence", of=(of[0], of[1] + 1))
    return found, jobs, outputs


def is_first(found: Blame, question: Question) -> bool:
    return question.planted == found.pieces[found.ranking[0]].text.strip()


def largest_difference(lab: Lab, jobs: Sequence[ScoreJob], outputs: Sequence[ScoreOutput]) -> float:
    """Of scores in a lab without a cache, where each prompt is computed alone."""
    alone = [output for job in jobs for output in lab.score([job])]
    return max(
        abs((a.logprob or 0.0) - (b.logprob or 0.0))
        for one, other in zip(alone, outputs, strict=True)
        for row, its in zip(one.logprobs, other.logprobs, strict=True)
        for a, b in zip(row, its, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--check", type=int, default=5)
    parser.add_argument("--model", default="smollm2")
    options = parser.parse_args()
    found: list[Blame] = []
    checks: list[tuple[Sequence[ScoreJob], Sequence[ScoreOutput]]] = []
    n_asked = n_first = 0
    with Lab(options.model) as lab:
        for question in questions():
            if len(found) == options.prompts or n_asked == MOST_TRIES * options.prompts:
                break
            n_asked += 1
            if (result := explained(lab, question)) is None:
                continue
            one, jobs, outputs = result
            found.append(one)
            checks += [(jobs, outputs)] if len(checks) < options.check else []
            n_first += is_first(one, question)
            print(f"{len(found)} answered right, {n_first} found first", end="\r", flush=True)
    print(f"{n_asked} prompts asked, {len(found)} answered right; the planted sentence is first in {n_first} ({n_first / len(found):.0%})")
    computed, naive = sum(one.n_computed for one in found), sum(one.n_naive for one in found)
    n_scored = sum(one.n_scored for one in found)
    print(f"{n_scored:,} prompts scored: {computed:,} tokens computed, {naive:,} without the cache ({naive / computed:.2f} times)")
    for k in (1, 3, 5):
        print(f"mean top-{k} drop: {fmean(dict(one.drops)[k] for one in found):.2f} nats")
    print(f"mean linear datamodelling score: {fmean(one.lds or 0.0 for one in found):.2f}")
    if checks:
        with Lab(options.model, reuse="none") as lab:
            differences = [largest_difference(lab, jobs, outputs) for jobs, outputs in checks]
        n = sum(len(jobs) for jobs, _ in checks)
        print(f"{n} prompts scored again, each alone and without a cache: the largest difference is {max(differences):.2g} nats")


if __name__ == "__main__":
    main()
