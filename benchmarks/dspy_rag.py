"""DSPy's retrieval-augmented generation over the door: what its prompts share, and what the cache finds of it.

    python -m tests.partners.environments dspy     # once: DSPy in an environment of its own, build/partners/dspy
    python benchmarks/dspy_rag.py [--model smollm2] [--questions 8] [--fresh] [--json]

Opens a door to the built-in model and runs a DSPy program as a client in its own process: an embedding
retriever over a small corpus, and `dspy.ChainOfThought` with demonstrations. Prints each answer, the
prompt and cached tokens of each request, the hit rate, and what `%sgl why` says of the client. `--fresh`
puts the time at the top of each prompt, as prompts in the wild do, to show what that costs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORPUS = [
    "The harbour of Lindby was built in 1871. It has three piers, and the oldest of them is made of oak.",
    "The lighthouse of Lindby stands on the northern cliff. Its keeper was Ada Holm until 1932.",
    "Ferries to the island of Sund leave Lindby every two hours from the middle pier.",
    "The island of Sund has one village, Marn, and a chapel with a blue door.",
    "In Marn, the baker Ole Rasmus sells rye bread on Mondays and Thursdays.",
    "The railway came to Lindby in 1894, and its station is now a museum of nets.",
    "The museum of nets is open from ten to four and closed on Wednesdays.",
    "The school of Lindby has a garden with forty apple trees, planted by Ida Lund.",
    "Storms in the winter of 1921 broke the southern pier, which was rebuilt of stone.",
    "The market of Lindby takes place on Saturdays in front of the town hall.",
    "The town hall has a clock that runs five minutes late since the fire of 1903.",
    "Whales pass the northern cliff in May, and are seen from the lighthouse.",
]
QUESTIONS = [
    ("When was the harbour of Lindby built?", "1871"),
    ("Who kept the lighthouse until 1932?", "Ada Holm"),
    ("From which pier do ferries to Sund leave?", "the middle pier"),
    ("What colour has the door of the chapel on Sund?", "blue"),
    ("On which days is rye bread sold in Marn?", "Mondays and Thursdays"),
    ("What is the station of Lindby now?", "a museum of nets"),
    ("When is the museum of nets closed?", "Wednesdays"),
    ("Who planted the apple trees?", "Ida Lund"),
    ("When do whales pass the cliff?", "in May"),
    ("On which day is the market?", "Saturday"),
]
SHOTS = [
    (9, 10, "Where is the market?", "The market is at the town hall.", "the town hall"),
    (8, 0, "What broke the pier?", "Storms broke the southern pier.", "storms"),
]
"""demonstrations: two passages, question, reasoning, answer"""


def client(url: str, token: str, model: str, n: int, fresh: bool) -> list[dict[str, Any]]:
    """The DSPy program; runs where DSPy is installed."""
    import dspy  # type: ignore[import-not-found]
    import numpy

    def embed(texts: list[str]) -> Any:
        """Words hashed into a vector: enough to find a passage of twelve."""
        vectors = numpy.zeros((len(texts), 512), numpy.float32)
        for row, text in enumerate(texts):
            for word in "".join(letter if letter.isalnum() else " " for letter in text.lower()).split():
                if len(word) > 3:
                    vectors[row, hash_of(word[:6])] += 1
        return vectors / numpy.maximum(1e-6, numpy.linalg.norm(vectors, axis=1, keepdims=True))

    class Rag(dspy.Module):  # type: ignore[misc]  # DSPy is not installed where this is type-checked
        def __init__(self) -> None:
            self.find = dspy.retrievers.Embeddings(corpus=CORPUS, embedder=dspy.Embedder(embed), k=2)
            self.respond = dspy.ChainOfThought("context: list[str], question: str -> answer: str")

        def forward(self, question: str) -> Any:
            return self.respond(context=self.find(question).passages, question=question)

    lm = dspy.LM(f"openai/{model}", api_base=url, api_key=token, cache=False, temperature=0.0, max_tokens=96)
    dspy.configure(lm=lm, adapter=dspy.JSONAdapter())
    rag = Rag()
    rag.respond.predict.demos = [
        dspy.Example(context=[CORPUS[a], CORPUS[b]], question=question, reasoning=reasoning, answer=answer)
        for a, b, question, reasoning, answer in SHOTS
    ]
    found = []
    for number, (question, wanted) in enumerate(QUESTIONS[:n]):
        if fresh:
            signature = rag.respond.predict.signature
            rag.respond.predict.signature = signature.with_instructions(f"It is {number:02}:15. Answer from the context.")
        answer = rag(question=question)
        found.append({"question": question, "answer": str(answer.answer), "wanted": wanted, "calls": len(lm.history)})
    return found


def hash_of(word: str) -> int:
    """Of 512; the same in each process."""
    value = 2166136261
    for letter in word.encode():
        value = (value ^ letter) * 16777619 % 2**32
    return value % 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--fresh", action="store_true", help="the time at the top of each prompt")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    parser.add_argument("--client", nargs=2, metavar=("URL", "TOKEN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        url, token = options.client
        print(json.dumps(client(url, token, options.model, options.questions, options.fresh)))
        return
    from sgl_lab.contracts.events import RequestFinished
    from sgl_lab.serve import serve
    from sgl_lab.session import Lab
    from sgl_lab.viz.draw.why import headline
    from sgl_lab.viz.explain.why import why

    python = ROOT / "build" / "partners" / "dspy" / "bin" / "python"
    if not python.exists():
        raise SystemExit("DSPy is not set up here: `python -m tests.partners.environments dspy` does it")
    with Lab(options.model, cache_tokens=20_000) as lab, serve(lab) as door:
        words = ["--model", options.model, "--questions", str(options.questions), *(["--fresh"] if options.fresh else [])]
        command = [python, __file__, *words, "--client", door.client["base_url"], door.token]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        answers = json.loads(done.stdout.strip().splitlines()[-1])
        ended = [entry.event for record in lab.guests for entry in record.entries if isinstance(entry.event, RequestFinished)]
        stats = lab.stats()
        for asked in answers:
            print(f"{asked['question']}\n  {asked['answer']!r} (wanted: {asked['wanted']})")
        print("\nrequest  prompt  cached  generated")
        for number, event in enumerate(ended, 1):
            print(f"{number:7}  {event.n_prompt:6}  {event.n_cached:6}  {event.n_completion:9}")
        print(f"\nhit rate {stats['hit_rate']:.1%}: {stats['cached_prompt_tokens']:,} of {stats['prompt_tokens']:,} prompt tokens")
        for record in lab.guests:
            print(f"%sgl why {record.title}: {headline(why(record))}")
        if options.json:
            requests = [(event.n_prompt, event.n_cached) for event in ended]
            print(json.dumps({"answers": [asked["answer"] for asked in answers], "requests": requests, "hit_rate": stats["hit_rate"]}))


if __name__ == "__main__":
    main()
