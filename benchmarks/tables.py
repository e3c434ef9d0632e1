"""Questions asked of each row of a table: the order given, rows sorted, rows and fields, and GGR.

    python benchmarks/tables.py [--rows 48] [--cache-tokens 4096] [--data FOLDER] [--model NAME] [--count]

The tables have the shapes that GGR measures (arXiv:2403.05821): reviews of films (a long description
that depends on the title), of products and of beers (short fields), comments on posts, and questions
with retrieved passages. Texts come from the package's sample, or from `--data`. For each way it prints
the share of prompt tokens that a prompt has in common with the one before it, the tokens computed in a
cache that is smaller than the table, the seconds, those of CPU time, and the ratios to the order given. `GGR` is
written here from the paper's algorithm 1, with its functional dependencies and no early stop.
`--count` leaves the model out. GGR reports 1.5 to 3.4 times as fast, on tables of 15,000 rows.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import sgl_lab as sgl
from sgl_lab.contracts.prefixes import n_common
from sgl_lab.workloads.data import Data

Row = dict[str, str]
ASK = "You are given the fields of one row. Answer in one word: yes or no.\n"


@sgl.function
def films(s: Any, kind: str, critic: str, review: str, genre: str, title: str, description: str) -> None:
    parts = ["kind: " + kind, "critic: " + critic, "review: " + review, "genre: " + genre, "title: " + title, "description: " + description]
    s += ASK + sgl.unordered([part + "\n" for part in parts]) + "Suitable for children?" + sgl.gen("answer", max_tokens=2)


@sgl.function
def products(s: Any, review: str, stars: str, verified: str, title: str, description: str) -> None:
    parts = ["review: " + review, "stars: " + stars, "verified: " + verified, "title: " + title, "description: " + description]
    s += ASK + sgl.unordered([part + "\n" for part in parts]) + "Is the customer content?" + sgl.gen("answer", max_tokens=2)


@sgl.function
def beers(s: Any, review: str, taste: str, aroma: str, style: str, name: str, brewer: str) -> None:
    parts = ["review: " + review, "taste: " + taste, "aroma: " + aroma, "style: " + style, "name: " + name, "brewer: " + brewer]
    s += ASK + sgl.unordered([part + "\n" for part in parts]) + "Is it European?" + sgl.gen("answer", max_tokens=2)


@sgl.function
def posts(s: Any, comment: str, user: str, score: str, post: str) -> None:
    parts = ["comment: " + comment, "user: " + user, "score: " + score, "post: " + post]
    s += ASK + sgl.unordered([part + "\n" for part in parts]) + "Does the comment agree?" + sgl.gen("answer", max_tokens=2)


@sgl.function
def passages(s: Any, question: str, first: str, second: str, third: str) -> None:
    s += ASK + sgl.unordered([first + "\n", second + "\n", third + "\n"]) + "Question: " + question + sgl.gen("answer", max_tokens=2)


class Table(NamedTuple):
    program: Any
    rows: list[Row]
    fixed: tuple[str, ...] = ()
    """fields that the program has after the others, in any case"""
    dependent: tuple[tuple[str, ...], ...] = ()
    """fields that follow from each other"""


def tables(data: Data, n: int) -> dict[str, Table]:
    """`n` rows each, shuffled, about eight for each value that repeats."""
    chance = random.Random(5)
    known = [(row["title"], row["text"]) for row in data.rows("wiki_passages_corpus", title=str, text=str)]
    questions = [row["question"] for row in data.rows("mmlu_test", question=str)]
    things = chance.sample(known, min(len(known), max(2, n // 8)))
    genres = {title: chance.choice(("drama", "comedy", "thriller")) for title, _ in things}
    brewers = {title: f"{chance.randrange(1, 900)}" for title, _ in things}
    styles = {title: chance.choice(("pale ale", "stout", "lager")) for title, _ in things}
    users = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo"]
    made: dict[str, list[Row]] = {name: [] for name in ("films", "products", "beers", "posts", "passages")}
    for number in range(n):
        title, text = chance.choice(things)
        opinion = f"({number}) " + chance.choice(questions)[:160]
        few = chance.sample(things, min(3, len(things)))
        film = {"kind": chance.choice(("Fresh", "Rotten")), "critic": chance.choice(users), "review": opinion}
        made["films"].append(film | {"genre": genres[title], "title": title, "description": text})
        product = {"review": opinion, "stars": chance.choice("12345"), "verified": chance.choice(("true", "false"))}
        made["products"].append(product | {"title": title, "description": text})
        marks = {"taste": chance.choice("12345"), "aroma": chance.choice("12345")}
        beer = {"style": styles[title], "name": title, "brewer": brewers[title]}
        made["beers"].append({"review": opinion[:60], **marks, **beer})
        made["posts"].append({"comment": opinion, "user": chance.choice(users), "score": chance.choice("123"), "post": text})
        texts = [each for _, each in few]
        made["passages"].append({"question": opinion, "first": texts[0], "second": texts[-2], "third": texts[-1]})
    return {
        "films": Table(films, made["films"], dependent=(("title", "description"),)),
        "products": Table(products, made["products"], dependent=(("title", "description"),)),
        "beers": Table(beers, made["beers"], dependent=(("name", "brewer"),)),
        "posts": Table(posts, made["posts"]),
        "passages": Table(passages, made["passages"], ("question",)),
    }


# ---------------------------------------------------------------- GGR, as published


def ggr(table: Table) -> list[tuple[int, tuple[str, ...]]]:
    """The rows, by number, in their order, and the order of the fields in each."""
    names = tuple(name for name in table.rows[0] if name not in table.fixed)
    return _recursion(table, list(range(len(table.rows))), names)


def _recursion(table: Table, rows: list[int], names: tuple[str, ...]) -> list[tuple[int, tuple[str, ...]]]:
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for number in rows:
        for name in names:
            groups[name, table.rows[number][name]].append(number)
    best, most = None, 0.0
    for (name, text), members in groups.items():
        with_it = _dependent(table, name, names)
        lengths = len(text) ** 2 + sum(sum(len(table.rows[row][other]) for row in members) ** 2 / len(members) ** 2 for other in with_it)
        if (len(members) - 1) * lengths > most:
            best, most = (name, members, with_it), (len(members) - 1) * lengths
    if best is None:  # nothing repeats
        return [(row, names) for row in sorted(rows, key=lambda row: [table.rows[row][name] for name in names])]
    name, members, with_it = best
    left = tuple(each for each in names if each != name and each not in with_it)
    inside = _recursion(table, members, left) if left else [(row, ()) for row in members]
    outside = [row for row in rows if row not in set(members)]
    return [(row, (name, *with_it, *after)) for row, after in inside] + (_recursion(table, outside, names) if outside else [])


def _dependent(table: Table, name: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(other for group in table.dependent if name in group for other in group if other != name and other in names)


# ---------------------------------------------------------------- measuring


@sgl.function
def prompt(s: Any, text: str) -> None:
    s += text + sgl.gen("answer", max_tokens=2)


def prompts(table: Table, order: Iterable[tuple[int, Sequence[str]]]) -> list[str]:
    """The prompts of the program with the rows and the fields in this order, as texts."""
    names = tuple(name for name in table.rows[0] if name not in table.fixed)
    found = []
    for number, fields in order:
        row = table.rows[number]
        whole = given_prompt(table, row)
        at = len(ASK)
        parts = {}
        for name in names:
            end = whole.index(row[name] + "\n", at) + len(row[name]) + 1
            parts[name], at = whole[at:end], end
        found.append(ASK + "".join(parts[name] for name in fields) + whole[at:])
    return found


def given_prompt(table: Table, row: Row) -> str:
    """What the program says with this row, in its own order."""
    graph = table.program.trace()
    values = (getattr(node.value, "text", None) or row.get(getattr(node.value, "name", None) or "", "") for node in graph.nodes)
    return "".join(text for node, text in zip(graph.nodes, values, strict=True) if type(node.value).__name__ in ("Text", "Argument"))


def shared(texts: Sequence[str], encode: Callable[[str], Sequence[int]]) -> float:
    """The share of tokens that are the beginning of the prompt before."""
    ids = [encode(text) for text in texts]
    return sum(n_common(one, other) for one, other in pairwise(ids)) / sum(map(len, ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TABLE")
    parser.add_argument("--model", default=None)
    parser.add_argument("--data", help="a folder of JSON Lines; the package's own sample without it")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--cache-tokens", type=int, default=4096)
    parser.add_argument("--parallel", type=int, default=8, help="rows at once; default: %(default)s")
    parser.add_argument("--count", action="store_true", help="only the shares, without running anything")
    options = parser.parse_args()
    model: dict[str, Any] = {"model": options.model} if options.model else {}
    found = tables(Data(options.data), options.rows)
    with sgl.Lab(**model, cache_tokens=options.cache_tokens, draft_tokens=0) as lab:
        encode = lab.backend.encode
        for name in options.names or found:
            table = found[name]
            rows, names = table.rows, tuple(each for each in table.rows[0] if each not in table.fixed)
            began = time.perf_counter()
            ours = table.program.compile()._for_rows(rows)
            made = [_text(one._graph(0.0), row) for one, row in zip(ours, rows, strict=True)]
            planning = time.perf_counter() - began
            published = prompts(table, ggr(table))
            given = prompts(table, ((number, names) for number in range(len(rows))))
            plain = table.program.compile(without=["fields"])
            common: dict[str, Any] = {"num_threads": options.parallel, "temperature": 0, "ignore_eos": True, "backend": lab.backend}
            texts = partial(prompt.run_batch, **common)
            ways = {
                "as given": (given, partial(texts, [{"text": text} for text in given])),
                "rows sorted": (sorted(given), partial(plain.run_batch, rows, **common)),
                "rows and fields": (sorted(made), partial(table.program.compile().run_batch, rows, **common)),
                "GGR": (published, partial(texts, [{"text": text} for text in published])),
            }
            first: tuple[int, float, float] | None = None
            for way, (order, run) in ways.items():
                line = f"{name:<9} {way:<16} {shared(order, encode):>5.1%} shared"
                if not options.count:
                    lab.flush()
                    before, began, cpu = lab.stats()["computed_tokens"], time.perf_counter(), time.process_time()
                    run()
                    n, seconds, cpu = int(lab.stats()["computed_tokens"] - before), time.perf_counter() - began, time.process_time() - cpu
                    first = first or (n, seconds, cpu)
                    line += f"  {n:>7,} tokens ({first[0] / n:.2f}x)  {seconds:6.2f} s ({first[1] / seconds:.2f}x)"
                    line += f"  {cpu:6.2f} s of CPU ({first[2] / cpu:.2f}x)"
                print(line, flush=True)
            print(f"{name:<9} {len(rows)} rows, orders chosen in {1000 * planning:.0f} ms")


def _text(graph: Any, row: Row) -> str:
    values = (getattr(node.value, "text", None) or row.get(getattr(node.value, "name", None) or "", "") for node in graph.nodes)
    return "".join(text for node, text in zip(graph.nodes, values, strict=True) if type(node.value).__name__ in ("Text", "Argument"))


if __name__ == "__main__":
    main()
