"""What it costs to run a cell again after a small edit: the radix tree keeps the prompt, and earlier answers serve as drafts.

    python benchmarks/rerun.py [--dtype int4] [--reps 5]

A chat about a page of text, three greedy answers of 64 tokens each. For each edit: seconds of the edited cell cold (empty
cache), and after the cell as it was before the edit; medians of --reps. Both say the same tokens, which is checked.
Steps are calls of the model; a draft is a guess at the next tokens that is verified in one call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from sgl_lab import assistant, function, gen, system, user
from sgl_lab.lang.state import ProgramState
from sgl_lab.session import Lab

PAGE = """The lighthouse at Marrow Point was lit for the first time on a wet evening in October 1868. It had taken six years to build. \
The rock on which it stands is dry for three hours at low tide, so the masons rowed out twice a day, worked as long as the sea let \
them, and rowed back with their tools tied to their belts. Two winters in a row the lower courses were washed away. In the third \
spring the engineer, a young woman named Hester Vane who had taken over from her father, had every stone cut with a dovetail, so that \
each one locked into its neighbours and the weight of the tower itself held the joints shut. Nothing was washed away after that.

The light was a single oil lamp with four wicks behind a lens as tall as a man. The lens had come from Paris in two hundred boxes, and \
it took a clockmaker from the village a month to put it together. It turned once a minute on a bath of mercury, driven by a weight that \
the keeper wound up every two hours. On a clear night it could be seen from a ship's deck at eighteen miles. Before it was built, the \
bay lost about nine ships a year; in the ten years that followed it lost two.

There were always three keepers, because with two, as the rule book explained, one might be suspected if the other died. They kept \
watches of four hours, wrote down the wind and the barometer, polished the brass, and grew potatoes in soil that had been carried out in \
sacks. The longest that bad weather kept a crew on the rock was sixty-one days, in the winter of 1903. They had biscuits left for five.

Electric light came late, in 1952, and with it a generator that everybody hated for its noise. The last keepers left in 1984, when a \
relay and a telephone line took over their watches. The lens still turns. The mercury was taken out for safety and the lens now floats \
on a ring of small bearings, which the volunteers who look after the tower oil by hand on the first Sunday of every month. They say that \
if you put your ear to the wall in a storm you can hear the stones settle against each other, as Hester Vane meant them to."""


@dataclass(frozen=True)
class Cell:
    page: str = PAGE
    first: str = "Summarise this page in three sentences."
    second: str = "Explain how the tower was kept from being washed away."
    last: str = "Describe the daily work of the keepers to a child."


BEFORE = Cell()
EDITS = {
    "nothing": BEFORE,
    "last line": Cell(last="Describe the daily work of the keepers to a student."),
    "middle": Cell(second="Explain briefly how the tower was kept from being washed away."),
    "one word in the first third": Cell(page=PAGE.replace("masons", "builders")),
}
NAMES = ("first", "second", "last")


@function
def chat(s: ProgramState, cell: Cell) -> None:
    s += system("You answer questions about a text.")
    s += user(f"{cell.page}\n\n{cell.first}")
    s += assistant(gen("first", max_tokens=64, temperature=0, ignore_eos=True))
    s += user(cell.second)
    s += assistant(gen("second", max_tokens=64, temperature=0, ignore_eos=True))
    s += user(cell.last)
    s += assistant(gen("last", max_tokens=64, temperature=0, ignore_eos=True))


@dataclass(frozen=True)
class Run:
    seconds: float
    ids: tuple[int, ...]
    n_steps: int
    n_drafted: int
    n_accepted: int
    n_cached: int


def run(lab: Lab, cell: Cell) -> Run:
    started = time.perf_counter()
    state = chat.run(cell, backend=lab.backend)
    state.sync()
    seconds = time.perf_counter() - started
    metas = [state.get_meta_info(name) for name in NAMES]

    def total(what: str) -> int:
        return sum(int(meta[what]) for meta in metas)

    return Run(seconds, state.token_ids(), total("model_steps"), total("drafted_tokens"), total("accepted_tokens"), total("cached_tokens"))


def measure(lab: Lab, edited: Cell, reps: int) -> Iterator[tuple[Run, Run]]:
    """(cold, after the cell before the edit), as often as asked for."""
    for _ in range(reps):
        lab.flush()
        cold = run(lab, edited)
        lab.flush()
        run(lab, BEFORE)
        again = run(lab, edited)
        if cold.ids != again.ids:
            raise SystemExit("a run from the cache said something else than a cold one")
        yield cold, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--reps", type=int, default=5)
    options = parser.parse_args()
    with Lab(dtype=options.dtype) as lab:
        run(lab, BEFORE)
        print(f"{lab.card.name}, {lab.card.dtype} on {lab.card.device}; medians of {options.reps}")
        print(f"{'edit':<29}{'cold s':>8}{'again s':>9}{'faster':>8}{'steps':>13}{'cached':>8}{'drafts accepted':>17}")
        for name, edited in EDITS.items():
            pairs = list(measure(lab, edited, options.reps))
            cold, again = (statistics.median(pair[i].seconds for pair in pairs) for i in range(2))
            first, then = pairs[-1]
            share = f"{then.n_accepted} of {then.n_drafted}"
            steps = f"{first.n_steps} -> {then.n_steps}"
            print(f"{name:<29}{cold:8.3f}{again:9.3f}{cold / again:7.1f}x{steps:>13}{then.n_cached:>8}{share:>17}")


if __name__ == "__main__":
    main()
