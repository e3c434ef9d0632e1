"""Over data: rows, kept results, folds of what was recorded, comparisons and files, without a model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sgl_lab.backends.local import LocalBackend
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.errors import RequestFailed
from sgl_lab.contracts.events import Emit, RequestFinished, RowStarted, silent
from sgl_lab.contracts.ids import RunId
from sgl_lab.contracts.port import ModelCard
from sgl_lab.elsewhere import BackendLab
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.tools.fake import ByteTokenizer, HashRunner
from sgl_lab.lang import surface
from sgl_lab.lang.program import SglFunction
from sgl_lab.magics import body as bodies
from sgl_lab.magics.cell import LANGUAGE
from sgl_lab.magics.commands.history import is_called
from sgl_lab.magics.line import run_line
from sgl_lab.magics.options import OptionError, parse_cell
from sgl_lab.magics.over.digest import body_digest, digest
from sgl_lab.magics.over.files import as_csv, jsonl
from sgl_lab.magics.over.rows import notes_of_columns, read_rows
from sgl_lab.magics.over.run import run_over
from sgl_lab.magics.over.show import opener, results
from sgl_lab.magics.prepared import Cell
from sgl_lab.magics.session import Session
from sgl_lab.trace import read_jsonl, write_jsonl
from sgl_lab.viz.draw import grid as draw
from sgl_lab.viz.explain.table import picture
from sgl_lab.viz.explain.versions import Grid, parting
from sgl_lab.viz.freeze import LIMIT
from sgl_lab.viz.grid import frozen, page
from sgl_lab.viz.views.grid import Cell as GridCell
from sgl_lab.viz.views.grid import Given, Piece
from sgl_lab.viz.views.inspection import inspections

from .language import watchdog  # noqa: F401

ANSWER = "user(question)\nassistant(gen('a', max_tokens=8))\nexpect(s['a'], equals=answer)"


class Book:
    """A notebook whose cells run on a scripted backend, and what they print."""

    def __init__(self, answers: Any = "yes", lab: BackendLab | None = None) -> None:
        self.backend = ScriptedBackend(answers)
        self.lab = lab or BackendLab(self.backend)
        self.session = Session()
        self.session.lab_for = lambda report, options, **_: self.lab  # type: ignore[method-assign]
        self.shell: Any = SimpleNamespace(user_ns={"expect_none": None})
        self.n_cells = 0

    def run(self, source: str, line: str, **variables: object) -> Grid:
        self.shell.user_ns.update(variables)
        options = replace(parse_cell(line), view=())
        code = bodies.compile_cell(source, "<cell>", LANGUAGE)
        self.n_cells += 1
        cell = Cell(self.shell, options, code, f"%%sgl {line}", source, f"In[{self.n_cells}]")
        run_over(self.session, cell, LANGUAGE)
        return list(self.session.grids.values())[-1]

    @property
    def n_asked(self) -> int:
        return len(self.backend.jobs)


@pytest.fixture
def counting() -> Iterator[Book]:
    """A notebook on an engine that computes tokens and counts them, without a model."""
    emits: list[Emit] = []
    tokenizer, config = ByteTokenizer(), EngineConfig(n_pages=4096, draft_tokens=0)
    engine = Engine(config, HashRunner(4096, 1), tokenizer, context=4096, namespace=("hash",), emit=lambda event: emits[0](event))
    resident = Resident(engine)
    card = ModelCard("hash", ("hash",), 4096, 260, "cpu", "none", TOKEN_LEVEL)
    lab = BackendLab(LocalBackend(resident, tokenizer, card, silent))
    emits.append(lab.ring.emit)
    yield Book(lab=lab)
    resident.close()


HASHED = "s += f'{question} and so on: '\ns += gen('a', max_tokens=4, ignore_eos=True)\nexpect(s['a'], that=len)"


def computed(book: Book, run: int) -> int:
    """Tokens that all requests of a run computed, from its record alone."""
    return sum(entry.event.n_computed for entry in book.lab.records[run].entries if isinstance(entry.event, RequestFinished))


def rows_of(n: int, **more: object) -> list[dict[str, object]]:
    return [{"question": f"Q{index}?", "answer": "yes" if index % 2 else "no", **more} for index in range(n)]


def cells(grid: Grid, column: int = 0) -> list[Any]:
    return [grid.columns[column].cells.get(key) for key in grid.rows]


@pytest.fixture
def book() -> Book:
    return Book()


# ---------------------------------------------------------------- runs


def test_each_row_has_its_values_checks_and_counts(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    grid = book.run(ANSWER, "--over rows --as g", rows=rows_of(6))
    found = cells(grid)
    assert [cell.value for cell in found] == ["yes"] * 6
    assert [cell.passed for cell in found] == [False, True] * 3
    assert {cell.status for cell in found} == {"ok"}
    assert all("".join(text for text, _ in cell.pieces) == "yes" for cell in found)
    assert "v1: 3 of 6 pass, 50 % (18.8 to 81.2 %)" in capsys.readouterr().out


def test_the_same_cell_computes_nothing_and_a_new_body_is_the_next_version(book: Book) -> None:
    grid = book.run(ANSWER, "--over rows --as g", rows=rows_of(6))
    assert book.n_asked == 6
    assert book.run(ANSWER, "--over rows --as g") is grid
    assert (book.n_asked, len(grid.columns)) == (6, 1)
    book.run(ANSWER, "--over rows --as g", rows=[*rows_of(6), {"question": "new?", "answer": "yes"}])
    assert (book.n_asked, len(grid.columns), len(grid.rows)) == (7, 1, 7)
    book.run(ANSWER.replace("user(question)", "user('Please: ' + question)"), "--over rows --as g")
    assert (book.n_asked, [column.version for column in grid.columns]) == (14, [1, 2])
    book.run(ANSWER, "--over rows --as g --temperature 0.5")
    assert [column.version for column in grid.columns] == [1, 2, 3]
    book.run(ANSWER, "--over rows --as g --fresh")
    assert (book.n_asked, [column.version for column in grid.columns]) == (28, [1, 2, 3, 4])
    book.run(ANSWER, "--over rows --as g")
    assert book.n_asked == 28, "the latest version of this body continues"


def test_equal_rows_are_rows_of_their_own(book: Book) -> None:
    grid = book.run(ANSWER, "--over rows", rows=[{"question": "Q?", "answer": "no"}] * 3)
    assert (grid.name, book.n_asked, len(grid.rows)) == ("rows", 3, 3)


def test_a_row_has_the_tokens_of_its_own_requests(counting: Book) -> None:
    grid = counting.run(HASHED, "--over rows --as g", rows=rows_of(20))
    found = cells(grid)
    assert [(cell.generated, len(cell.pieces), cell.passed) for cell in found] == [(4, 4, True)] * 20
    assert sum(cell.computed for cell in found) == computed(counting, 0)
    n_prompts = [len(f"Q{n}? and so on: ") for n in range(20)]
    assert [cell.computed + cell.cached for cell in found] == [n + 3 for n in n_prompts]


def test_an_interrupt_in_the_middle_keeps_what_is_done_and_no_row_is_computed_twice(counting: Book) -> None:
    """200 rows; one of them interrupts, as the Stop button does. Flags hides the change from the digest."""
    source = "if question == 'Q100?' and flags.stops:\n    raise KeyboardInterrupt\n" + HASHED
    flags = SimpleNamespace(stops=True)
    with pytest.raises(KeyboardInterrupt):
        counting.run(source, "--over rows --as g", rows=rows_of(200), flags=flags)
    grid = counting.session.grids["g"]
    done = {key: cell for key, cell in grid.columns[0].cells.items() if cell.status == "ok"}
    before = {key: (cell.run, cell.computed, tuple(cell.pieces)) for key, cell in done.items()}
    assert 0 < len(done) < 200
    assert len(grid.rows) == 200
    flags.stops = False
    counting.run(source, "--over rows --as g")
    assert len(grid.columns) == 1
    assert [cell.status for cell in cells(grid)] == ["ok"] * 200
    after = {key: (cell.run, cell.computed, tuple(cell.pieces)) for key, cell in grid.columns[0].cells.items()}
    assert {key: after[key] for key in before} == before
    started = [entry.event for entry in counting.lab.records[1].entries if isinstance(entry.event, RowStarted)]
    assert len(started) == 200 - len(done)
    assert not {event.key for event in started} & before.keys()
    assert sum(cell.computed for key, cell in grid.columns[0].cells.items() if key not in before) == computed(counting, 1)


def _settings() -> list[tuple[str, object]]:
    return [(name, None) for name in ("temperature", "max_tokens", "seed", "adapter", "deterministic")]


def test_a_row_that_fails_is_one_line_and_is_run_again(book: Book) -> None:
    source = "if question == 'Q2?' and fails:\n    raise ValueError('no\\nluck')\n" + ANSWER
    fails = [1]
    grid = book.run(source, "--over rows --as g", rows=rows_of(5), fails=fails)
    broken = cells(grid)[2]
    assert (broken.status, broken.message, broken.line, broken.passed) == ("error", "ValueError: no↵luck", 3, False)
    assert [cell.status for cell in cells(grid)] == ["ok", "ok", "error", "ok", "ok"]
    assert book.n_asked == 4
    fails.clear()
    grid.columns[0].key = body_digest(source, _settings(), book.shell.user_ns, {"fails"})
    book.run(source, "--over rows --as g")
    assert (book.n_asked, cells(grid)[2].status) == (5, "ok")


@pytest.mark.parametrize("ending", ["exit()", "raise SystemExit(3)", "1 / 0", "s['never']", "nothing_like_this"])
def test_whatever_a_body_does_the_other_rows_go_on(book: Book, ending: str) -> None:
    grid = book.run(f"import sys\nexit = sys.exit\nif question == 'Q1?':\n    {ending}\n" + ANSWER, "--over rows", rows=rows_of(4))
    assert [cell.status for cell in cells(grid)] == ["ok", "error", "ok", "ok"]


def test_a_request_that_fails_fails_its_row_alone() -> None:
    book = Book([RequestFailed("the server is tired"), *["yes"] * 3])
    grid = book.run(ANSWER, "--over rows", rows=rows_of(4))
    assert sorted(cell.status for cell in cells(grid)) == ["error", "ok", "ok", "ok"]
    (failed,) = [cell for cell in cells(grid) if cell.status == "error"]
    assert "the server is tired" in failed.message


def test_a_row_without_a_column_that_the_body_reads_is_one_line(book: Book) -> None:
    rows = rows_of(3)
    del rows[1]["question"]
    grid = book.run(ANSWER, "--over rows", rows=rows, question="the notebook's, which no row means")
    assert [cell.status for cell in cells(grid)] == ["ok", "error", "ok"]
    assert cells(grid)[1].message == "BadArgument: the row has no column 'question', which the body reads"
    assert book.n_asked == 2
    grid = book.run(ANSWER.replace("(question)", "(qestion)"), "--over rows --as other", rows=rows_of(1))
    assert "did you mean the column 'question'?" in cells(grid)[0].message


def test_a_body_that_awaits_runs_too(book: Book) -> None:
    grid = book.run("user(question)\nassistant(gen('a'))\nexpect(await s.get('a'), 'yes')", "--over rows", rows=rows_of(5))
    assert [cell.passed for cell in cells(grid)] == [True] * 5


def test_a_judge_is_counted_apart(counting: Book) -> None:
    def good(s: Any, value: str, answer: str) -> bool:
        s += f"{value} or {answer}?" + surface.gen("verdict", max_tokens=2, ignore_eos=True)
        return bool(s["verdict"]) and answer == "yes"

    source = HASHED.replace("that=len", "judge=good")
    grid = counting.run(source, "--over rows", rows=rows_of(4), good=SglFunction(good))
    assert [cell.passed for cell in cells(grid)] == [False, True] * 2
    assert [cell.generated for cell in cells(grid)] == [4] * 4
    assert all(cell.judged > 0 and list(cell.values) == ["a"] and len(cell.pieces) == 4 for cell in cells(grid))
    assert sum(cell.judged + cell.computed for cell in cells(grid)) == computed(counting, 0)


def test_an_open_row_names_the_command_that_opens_its_answer(counting: Book) -> None:
    grid = counting.run(HASHED, "--over rows", rows=rows_of(2))
    counting.session.runs = lambda: list(counting.lab.records)  # type: ignore[method-assign]
    opened = [row["cells"][0] for row in picture(grid, opener(counting.session))["rows"]]
    assert [cell and cell["open"] for cell in opened] == ['%sgl explore 1 "row 1 > a"', '%sgl explore 1 "row 2 > a"']
    (found,) = [one for one in inspections(counting.lab.records[0].entries) if is_called(one, "row 2 > a")]
    assert found.title == "row 2 › a"


def test_what_the_body_assigns_stays_in_its_row_and_the_results_are_a_list(book: Book) -> None:
    book.run("mine = question\n" + ANSWER, "--over rows -o found", rows=rows_of(3))
    assert "mine" not in book.shell.user_ns
    found = book.shell.user_ns["found"]
    assert [each["row"] for each in found] == [1, 2, 3]
    assert found[1]["checks"] == {"equals": True}
    again = book.run("user(value)\nassistant(gen('b'))", "--over found --as chained")
    assert [cell.status for cell in cells(again)] == ["ok"] * 3


def test_a_saved_run_shows_its_rows_again(book: Book, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = book.run(ANSWER, "--over rows --as g", rows=rows_of(4))
    write_jsonl(book.lab.records[-1], tmp_path / "g.jsonl")
    session = Session()
    session.last = session.replayed["g"] = read_jsonl(tmp_path / "g.jsonl")
    capsys.readouterr()
    run_line(book.shell, session, "grid g")
    printed = capsys.readouterr().out
    assert "2 of 4 pass" in printed
    assert all(f"{'✓' if cell.passed else '✕'} yes" in printed for cell in cells(grid))
    run_line(book.shell, session, 'tokens g "row 2"')
    assert "row 2 › a" in capsys.readouterr().out


# ---------------------------------------------------------------- comparisons


def versions(*outcomes: str) -> Grid:
    """A grid of rows that pass (+), fail (-), failed (!) or were not run ( ), a version for each text."""
    book = Book(["yes"] * 9_999)
    for version, marks in enumerate(outcomes):
        rows = [{"n": n, "mark": mark} for n, mark in enumerate(marks)]
        source = f"user(str(n))\nassistant(gen('a'))\nmarks[n] == '!' and 1 / 0\nexpect(marks[n] == '+', name='c')\n{version}"
        keep = [{"n": row["n"]} for row in rows if row["mark"] != " "]
        book.run(source, "--over keep --as g", keep=keep, marks=marks)
    return book.session.grids["g"]


def test_a_comparison_counts_the_rows_that_both_have_finished() -> None:
    grid = versions("+++++-----! ", "++++-++++-++", "            ".replace(" ", "+"))
    found = [(pair.n_rows, pair.n_fixed, pair.n_broken, words) for *_, pair, words in grid.comparisons()]
    assert found[0][:3] == (11, 5, 1)
    assert found[0][3] == "v2 fixes 5 rows of v1 and breaks 1; p = 0.22: not shown to be better"
    assert found[1][:3] == (12, 2, 0)
    assert [words for *_, words in grid.comparisons(grid.columns[0])][-1].startswith("v3 fixes 6 rows of v1; p = 0.031: better")


def test_the_first_token_that_differs_is_named() -> None:
    grid, texts = Grid("g"), ("the same", "the sane", "the")
    grid.order({"k": Given((("q", "x"),))})
    for version, answer in enumerate(texts, 1):
        pieces: list[Piece] = [(letter, ord(letter)) for letter in answer]
        grid.column(str(version), "m").cells["k"] = GridCell(0, RunId(version), "In[1]", "ok", answer, pieces=pieces)
    found = picture(grid)["rows"][0]["cells"]
    assert [cell["parting"] for cell in found if cell is not None] == [None, (7, "m", "n"), (4, " ", "")]
    assert draw.parting_words((4, " ", "")) == "token 4: “ ” → the end"
    one, other = GridCell(0, RunId(1), "", "ok", pieces=[("a", 1)]), GridCell(0, RunId(1), "", "ok", pieces=[("a", 2)])
    assert parting(one, other, by_id=True) == (1, "a", "a")
    assert parting(one, other, by_id=False) is None


def test_models_are_columns_of_one_version() -> None:
    book = Book()
    labs = {}

    def lab_for(report: object, options: Any, **_: object) -> BackendLab:
        lab = labs.setdefault(options.model, BackendLab(ScriptedBackend("yes" if options.model == "a" else "no")))
        lab.__class__ = type("Named", (BackendLab,), {"title": options.model})
        return lab

    book.session.lab_for = lab_for  # type: ignore[assignment]
    grid = book.run(ANSWER, "--over rows --as g -m a,b", rows=rows_of(4))
    assert [grid.label(column) for column in grid.columns] == ["v1 · a", "v1 · b"]
    assert [[cell.passed for cell in cells(grid, n)] for n in (0, 1)] == [[False, True] * 2, [True, False] * 2]
    assert [words for *_, words in grid.comparisons()] == ["v1 · b fixes 2 rows of v1 · a and breaks 2; p = 1.00: no difference is shown"]
    assert [record.title for lab in labs.values() for record in lab.records] == ["In[1] · a", "In[1] · b"]


# ---------------------------------------------------------------- rows


class Frame:
    """A DataFrame, as far as one is read."""

    columns = ("a", 1)

    def to_dict(self, orient: str) -> list[dict[object, object]]:
        assert orient == "records"
        return [{"a": "x", 1: "y"}]


def test_rows_come_from_lists_frames_and_files(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('﻿question,answer\n"a, ""b""\nc",1\n\nonly\nx,y,z\nd,2\n', encoding="utf-8")
    (tmp_path / "q.tsv").write_text("question\tanswer\na\t1\n")
    (tmp_path / "q.jsonl").write_text('{"question": "a"}\n\n{broken\n[1]\n{"question": "b", "answer": 2}\n')
    (tmp_path / "q.json").write_text('[{"question": "a"}]')
    found = read_rows(str(tmp_path / "q.csv"), {})
    assert [row.values for row in found.rows] == [
        {"question": 'a, "b"\nc', "answer": "1"},
        {"question": "only"},
        {"question": "d", "answer": "2"},
    ]
    assert found.notes == ["line 6 has 3 fields, not 2, and is left out"]
    assert found.name == "q"
    found = read_rows("path", {"path": tmp_path / "q.jsonl"})
    assert [row.values for row in found.rows] == [{"question": "a"}, {"question": "b", "answer": 2}]
    assert [note[:30] for note in found.notes] == ["line 3 is not JSON and is left", "line 4 is a list, not a dict, "]
    assert read_rows(str(tmp_path / "q.tsv"), {}).rows[0].values == {"question": "a", "answer": "1"}
    assert read_rows(str(tmp_path / "q.json"), {}).rows[0].values == {"question": "a"}
    assert read_rows("frame", {"frame": Frame()}).rows[0].values == {"a": "x", "1": "y"}
    assert len(read_rows("made", {"made": ({"n": n} for n in range(3))}).rows) == 3


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"\xff\xfe\x00bad", "q.csv", "cannot read"),
        (b"", "q.csv", "no line of column names"),
        (b"a,a\n1,2\n", "q.csv", "two columns 'a'"),
        (b"a\n", "q.csv", "has no row"),
        (b"not json\n", "q.jsonl", "has no row"),
        (b"{}", "q.json", "holds a dict"),
        (b"[[[", "q.json", "is not JSON"),
        (b"PK\x03\x04", "q.xlsx", "neither CSV nor JSONL"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(content: bytes, name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionError, match=words) as failed:
        read_rows(str(tmp_path / name), {})
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("word", "names", "words"),
    [
        ("rwos", {"rows": [{}]}, "did you mean 'rows'"),
        ("missing.csv", {}, "there is no file"),
        ("rows", {"rows": 3}, "rows is a int, not rows"),
        ("rows", {"rows": {"a": [1]}}, "rows is a dict, not rows"),
        ("rows", {"rows": []}, "has no row"),
        ("rows", {"rows": ["a"]}, "row 1 is a str, not a dict"),
    ],
)
def test_what_is_no_rows_is_one_line(word: str, names: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        read_rows(word, names)


def test_a_file_whose_quote_never_ends_is_read_up_to_it(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('a\nx\n"y\nz\n')
    found = read_rows(str(tmp_path / "q.csv"), {})
    assert [row.values for row in found.rows] == [{"a": "x"}]
    assert "is not CSV, and nothing is read from there on" in found.notes[0]


def test_columns_that_are_no_variables_are_read_from_the_row(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"user": "u", "first name": "f", "class": "c", "__doc__": "d", "fine": "x"}]
    notes = notes_of_columns(read_rows("rows", {"rows": rows}), LANGUAGE)
    assert notes[0] == "column 'user' is a name of the language: the body reads it as row['user']"
    assert [note.split("'")[1] for note in notes] == ["user", "first name", "class", "__doc__"]
    grid = book.run("user(row['user'] + row['first name'] + fine)\nassistant(gen('a'))", "--over rows", rows=rows)
    assert cells(grid)[0].status == "ok"
    assert capsys.readouterr().out.count("sgl: column") == 4


def test_digests_tell_apart_what_differs_and_nothing_else() -> None:
    different: Sequence[object] = [
        1, "1", 1.5, True, None, b"1", [1], (1, 2), {"a": 1}, {"a": "1"}, {1}, "", [], {}, [[1], 2], [1, [2]], "\ud800", Frame,
    ]  # fmt: skip
    assert len({digest(each) for each in different}) == len(different)
    assert digest([1, "a", {"b": None}]) == digest((1, "a", {"b": None}))
    one, other = (eval(f"lambda x: x + {n}") for n in (1, 2))  # noqa: S307
    again = eval("lambda x: x + 1")  # noqa: S307
    assert digest(one) == digest(again) != digest(other)
    names = {"prompt": "a", "module": json, "f": one}
    assert body_digest("x", [], names, {"prompt"}) == body_digest("x\n", [], {**names, "f": other}, {"prompt", "module"})
    assert body_digest("x", [], names, {"f"}) != body_digest("x", [], {**names, "f": other}, {"f"})


# ---------------------------------------------------------------- pictures and files


def test_a_grid_is_written_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = Book(["=1+1", "yes", "-5", "@x"])
    source = "user(question)\nassistant(gen('a', max_tokens=20))\nexpect(s['a'], 'yes', name='+c')"
    grid = book.run(source, "--over rows --as g", rows=rows_of(4))
    texts = {"=1+1", "yes", "-5", "@x"}
    lines = [json.loads(line) for line in jsonl(grid).splitlines()]
    assert {each["value"] for each in lines} == texts
    assert lines[0].keys() == {"grid": 0, **results(grid)[0]}.keys()
    found = list(csv.DictReader(io.StringIO(as_csv(grid))))
    assert {each["value"] for each in found} == {"'=1+1", "yes", "-5", "'@x"}
    assert {each["row.question"] for each in found} == {f"Q{n}?" for n in range(4)}
    assert [each["check.+c"] for each in found].count("yes") == 1
    for name in ("g.csv", "g.jsonl", "g.html"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(Exception, match="not a file that sgl_lab wrote"):
            run_line(book.shell, book.session, f"grid g -o {tmp_path / name}")
        run_line(book.shell, book.session, f"grid g -o {tmp_path / name} --force")
        run_line(book.shell, book.session, f"grid g -o {tmp_path / name}")
    assert capsys.readouterr().out.count("wrote") == 6
    with pytest.raises(OptionError, match=r"written as \.csv"):
        run_line(book.shell, book.session, "grid g -o g.xlsx")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("grid", "there is no grid yet"),
        ("grid x", "there is no grid 'x'"),
        ("grid --against", "needs a value"),
    ],
)
def test_a_grid_that_is_not_there_is_one_line(line: str, words: str, book: Book) -> None:
    with pytest.raises(OptionError, match=words):
        run_line(book.shell, book.session, line)


def test_versions_and_grids_are_suggested(book: Book) -> None:
    book.run(ANSWER, "--over rows --as capitals", rows=rows_of(1))
    with pytest.raises(OptionError, match="did you mean 'capitals'"):
        run_line(book.shell, book.session, "grid capitls")
    with pytest.raises(OptionError, match="unknown version 'v7'"):
        run_line(book.shell, book.session, "grid capitals --against v7")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--over r --bg", "--over and --bg"),
        ("x << --over r", "--over and `<<`"),
        ("--over r --interact x=1..2", "--over and --interact"),
        ("--as g", "--as needs --over"),
        ("--fresh", "--fresh needs --over"),
        ("-b openai:x,openai:y", "-b takes one engine"),
        ("--over r --def f(x)", "--over applies to a run"),
    ],
)
def test_options_that_do_not_go_together_are_refused(line: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        parse_cell(line)


def test_a_large_grid_stays_below_the_limit_of_a_cell() -> None:
    book = Book("word " * 8)
    source = "user(question)\nassistant(gen('a', max_tokens=60))\nexpect(s['a'], 'yes')\n{}"
    for version in range(2):
        book.run(source.format(version), "--over rows --as g", rows=rows_of(500, text="long " * 200))
    found = picture(book.session.grids["g"])
    bundle = frozen(found)
    assert sum(len(part.encode()) for part in bundle.values()) <= LIMIT
    assert "<script>" in bundle["text/html"]
    whole = page(found)
    assert "Q499?" in whole
    assert "data-sgl-grid" in whole
