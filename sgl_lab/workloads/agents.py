"""Generative agents: people of a small town. Each has a character and memories, and decides what to
do about each thing that happens. All share the rules; what one asks about an event shares its memories.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..lang import surface as sgl
from ..lang.state import ProgramState
from .data import Data
from .workload import Item, Workload

RULES = (
    "You play a person in a small town. Stay in character. You know only what this person remembers. "
    "Answer in one short sentence, in the first person.\n\n"
)


@sgl.function
def generative_agent(s: ProgramState, name: str, character: str, memories: Sequence[str], events: Sequence[str]) -> None:
    s += f"{RULES}Name: {name}\nCharacter: {character}\nMemories:\n"
    s += "".join(f"- {memory}\n" for memory in memories)
    for number, event in enumerate(events):
        s += f"\nNow: {event}\n"
        matters, feeling = s.fork(2)
        matters += f"How much does it matter to {name}, from 1 to 9?" + sgl.select("poignancy", choices=[f" {i}" for i in range(1, 10)])
        feeling += f"{name} feels" + sgl.gen("feeling", max_tokens=24, stop=[".", "\n"])
        s += f'It matters{matters["poignancy"]} of 9. {name} feels{feeling["feeling"]}.\n{name} says, "'
        s += sgl.gen(f"reaction_{number}", max_tokens=32, stop=['"', "\n"]) + '"\n'


def read(data: Data, n: int | None) -> list[Item]:
    rows = data.rows("agents", name=str, character=str, memories=list, events=list)[:n]
    fields = ("name", "character", "memories", "events")
    return [Item(str(row.get("id", i)), {name: row[name] for name in fields}) for i, row in enumerate(rows)]


ABOUT = "people with memories react to events, on two forks each"
WORKLOAD = Workload("agents", "Generative agents", ABOUT, generative_agent, read)
