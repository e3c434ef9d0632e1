"""Measures running a cell again after a small edit: the radix tree keeps the prompt, and earlier
answers serve as drafts.

    python benchmarks/rerun.py [--dtype int4] [--reps 5]

The cell is a chat about a text of about 1,600 words with three greedy answers of 64 tokens each.
For each edit: seconds of the edited cell with an empty cache, and after the original cell; medians
of --reps. Both must generate the same tokens, which is checked. Steps are calls of the model; a
draft is a proposal of the next tokens that is verified in one call.
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

TEXT = """\
The lighthouse at Marrow Point was lit for the first time on a wet evening in October 1868. It had taken six years to build. The rock on \
which it stands is dry for three hours at low tide, so the masons rowed out twice a day, worked as long as the sea let them, and rowed \
back with their tools tied to their belts. Two winters in a row the lower courses were washed away. In the third spring the engineer, a \
young woman named Hester Vane who had taken over from her father, had every stone cut with a dovetail, so that each one locked into its \
neighbours and the weight of the tower itself held the joints shut. Nothing was washed away after that.

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
if you put your ear to the wall in a storm you can hear the stones settle against each other, as Hester Vane meant them to.

The village owes its harbour to the tower. Before 1868 there was only a shingle beach on which boats were hauled up by hand. The stone \
for the lighthouse came by sea from a quarry forty miles away, and the barges that carried it could not be unloaded on shingle, so the \
first thing that was built was a quay. When the tower was finished nobody had any use for the quay, and it was sold to a fisherman \
called Amos Trelawn for the price of two boats. Within five years there were thirty boats at it, and a smokehouse, and an ice store cut \
into the hill. The ice came from a pond above the church; boys were paid a penny an hour to keep it free of leaves in autumn, so that it \
would freeze clear. In a good week in 1890 the village sent eleven tons of smoked herring to the city.

The herring stopped coming in 1911. Nobody has ever found out why. Some blamed the steam trawlers, some the warm summers, and the oldest \
man in the village blamed a curate who had preached against drinking on the quay. Half of the families left within two years. Those who \
stayed turned to crabs, which fetch more but cannot be smoked, and the smokehouse was let to a painter from the city who liked the \
light. She was followed by others. By 1930 there was a school of painting, a shop that sold nothing but frames, and a law against drying \
nets on the public road, which the fishermen ignored.

The railway reached the village late and left it early. The line was opened in 1897, mainly to carry herring, and for fourteen years it \
did well. It had one engine, named Prudence, which could not turn round at the upper end and therefore ran backwards all the way down. \
There was one serious accident: in 1905 a goods wagon full of ice broke loose, ran three miles down to the quay and went into the \
harbour, where it floated. After 1911 the trains carried painters in summer and coal in winter. The line was closed in 1936. Its bed is \
now a footpath, and the two station houses are a bakery and a small museum, in which the lamp of the engine can be seen.

The museum keeps the log books of the lighthouse as well, all one hundred and sixteen years of them. A schoolteacher, Ines Calder, has \
read every page. Most of it is weather. But she found that the keepers had counted birds every spring since 1871, because one of them \
had a bet with the vicar, and that nobody ever stopped. Her table of those counts is now used by people who study how the climate \
changes: the puffins come eleven days earlier than they did, and the terns no longer come at all. She also found the recipe for the \
biscuits, a drawing of a whale with its length in boots, and, on a page from the winter of 1903, forty-three games of noughts and \
crosses without a winner.

Today about three hundred people live in the village all year round. The crab boats go out at four in the morning, the painters get up \
at ten, and the two groups meet at the bakery. On the first Sunday of the month the quay is full of volunteers with oil cans who wait \
for the tide. There is a plan to make electricity from the current off the point, where the tide runs at seven knots. The engineers who \
came to measure it wanted to know how to fix an anchor to that rock so that the sea would not pull it out. They were shown the drawings \
of a young woman who had thought about that for a whole winter, and they went home with copies."""


@dataclass(frozen=True)
class Cell:
    text: str = TEXT
    first: str = "Summarise this text in three sentences."
    second: str = "Explain how the tower was kept from being washed away."
    last: str = "Describe the daily work of the keepers to a child."


BEFORE = Cell()
EDITS = {
    "last line, the value shown": BEFORE,  # Python after the last answer: the prompts are the same
    "last line, another reader": Cell(last="Describe the daily work of the keepers to a student."),
    "last line, one word more": Cell(last="Describe the daily work of the keepers to a small child."),
    "last line, one more wish": Cell(last="Describe the daily work of the keepers to a child in simple words."),
    "middle": Cell(second="Explain briefly how the tower was kept from being washed away."),
    "one word in the first third": Cell(text=TEXT.replace("masons", "builders")),
}
NAMES = ("first", "second", "last")
TARGET = 5.0


@function
def chat(s: ProgramState, cell: Cell) -> None:
    s += system("You answer questions about a text.")
    s += user(f"{cell.text}\n\n{cell.first}")
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
    """(cold, after the original cell), repeatedly."""
    for _ in range(reps):
        lab.flush()
        cold = run(lab, edited)
        lab.flush()
        run(lab, BEFORE)
        again = run(lab, edited)
        if cold.ids != again.ids:
            raise SystemExit("a run from the cache differs from a cold one")
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
        factors = {}
        for name, edited in EDITS.items():
            pairs = list(measure(lab, edited, options.reps))
            cold, again = (statistics.median(pair[i].seconds for pair in pairs) for i in range(2))
            first, then = pairs[-1]
            share = f"{then.n_accepted} of {then.n_drafted}"
            steps = f"{first.n_steps} -> {then.n_steps}"
            factors[name] = cold / again
            print(f"{name:<29}{cold:8.3f}{again:9.3f}{factors[name]:7.1f}x{steps:>13}{then.n_cached:>8}{share:>17}")
        last = statistics.median(factor for name, factor in factors.items() if name.startswith("last line"))
        print(f"an edited last line, median of its kinds: {last:.1f}x; target {TARGET:.0f}x, {'met' if last >= TARGET else 'missed'}")


if __name__ == "__main__":
    main()
