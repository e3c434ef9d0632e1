"""`%sgl why`, `diff`, `whatif` and the commands that write files, in a real kernel with the built-in model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from .conftest import Kernel, Reply

CELL = """%%sgl -o {name} --temperature 0
system("It is {time}. You are a terse guide to the towns of the Portuguese coast, and you always name a dish.")
user("One sight in Porto?")
assistant(gen("sight", max_tokens=8))
tips = fork(2)
for tip, what in zip(tips, ["food", "rain"]):
    tip += user("A tip about " + what) + assistant(gen("tip", max_tokens=6))"""


def counts(reply: Reply) -> dict[str, int]:
    assert reply.status == "ok", reply.traceback
    found: dict[str, int] = reply.metadata[-1]["sgl_lab"]["counts"]
    return found


@pytest.fixture(scope="module")
def two_runs(kernel: Kernel) -> Kernel:
    for name, time in (("early", "12:01"), ("late", "12:59")):
        kernel.run("import sgl_lab; before = sgl_lab.default_lab().stats() if 'early' in globals() else {}")
        reply = kernel.run(CELL.format(name=name, time=time))
        assert reply.status == "ok", reply.traceback
        kernel.run("after = sgl_lab.default_lab().stats()")
    return kernel


def test_why_finds_the_changed_value_and_its_sums_are_the_engines_own(two_runs: Kernel) -> None:
    reply = two_runs.run("%sgl why late")
    shown_names = counts(reply)
    counted = two_runs.run("[after[name] - before[name] for name in ('cached_tokens', 'prompt_tokens')]").result
    assert str([shown_names["cached_tokens"], shown_names["prompt_tokens"]]) == counted
    text = reply.shown[0]["text/plain"]
    assert re.search(r'first difference: after \d+ equal tokens: "5", where "sight" of In\[\d+\] has "0"', text)
    assert re.search(r'edit: +line 2 of In\[\d+\]: system\("It is 12:59.*  \(in In\[\d+\]: system\("It is 12:01', text)
    assert re.search(r"cost: +\d+ of \d+ tokens computed in [\d.]+ m?s\. \d+ of them are the same as before", text)
    assert two_runs.run("%sgl why early late --text").printed.count("against In[")


def test_runs_are_named_by_cell_by_o_and_counted_back(two_runs: Kernel) -> None:
    by_name, back, alone, one = (two_runs.run(f"%sgl diff {words}") for words in ("early late", "-2 -1", "", "early"))
    assert by_name.shown == back.shown == alone.shown == one.shown
    assert two_runs.run("%sgl diff late").ename == "UsageError"
    assert counts(by_name) == {"pairs": 3, "same": 0}
    number = two_runs.run("next(n for n, cell in enumerate(In) if '12:59' in cell)").result
    by_number = two_runs.run(f"%sgl diff early {number}")
    assert by_number.shown == by_name.shown, by_number.printed + str(number)
    wrong = two_runs.run("%sgl diff early lat")
    assert (wrong.ename, "did you mean 'late'?" in wrong.evalue) == ("UsageError", True)


def shown_names(kernel: Kernel, words: str) -> list[str]:
    """The headings of `%sgl tokens`."""
    reply = kernel.run(f"%sgl tokens {words} --text")
    assert reply.status == "ok", reply.traceback
    return [line.split(": a gen after")[0] for line in reply.printed.splitlines() if ": a gen after" in line]


def test_tokens_are_those_of_any_run_and_of_a_name_in_it(two_runs: Kernel) -> None:
    tips = ["s[0] › tip", "s[1] › tip"]
    assert shown_names(two_runs, "") == shown_names(two_runs, "late") == ["sight", *tips]
    assert shown_names(two_runs, "sight") == shown_names(two_runs, "late sight") == shown_names(two_runs, "-1 sight") == ["sight"]
    assert shown_names(two_runs, "tip") == shown_names(two_runs, "early tip") == tips
    assert shown_names(two_runs, "s[1]") == shown_names(two_runs, 'early "s[1] > tip"') == tips[1:]
    assert two_runs.run("%sgl tokens early --text").printed != two_runs.run("%sgl tokens late --text").printed
    for words, meant in (("sigt", "sight"), ("lat", "late"), ("early tipp", "tip"), ("earl tip", "early"), ("early s[2]", "s[1]")):
        wrong = two_runs.run(f"%sgl tokens {words}")
        assert (wrong.ename, f"did you mean '{meant}'?" in wrong.evalue) == ("UsageError", True), wrong.evalue


def test_runs_and_the_names_in_them_are_completed(two_runs: Kernel) -> None:
    def completed(text: str) -> set[str]:
        return set(two_runs.client.complete(text, reply=True, timeout=60)["content"]["matches"])

    assert {"early", "late", "sight", "tip", "s[0]", "--text"} <= completed("%sgl tokens ")
    assert completed("%sgl tokens early si") == completed("%sgl tokens --text -2 si") == {"sight"}
    assert completed("%sgl tokens early s[") == {"s[0]", "s[1]", '"s[0] › tip"', '"s[1] › tip"'}
    assert completed('%sgl tokens early "s[1') == {'"s[1] › tip"'}


def test_whatif_shows_a_figure_a_picture_without_plotly_and_a_table(two_runs: Kernel) -> None:
    reply = two_runs.run("%sgl whatif late --tokens 200..800 --policy lru,belady")
    assert reply.status == "ok", reply.traceback
    figure, table = reply.shown
    assert set(figure) == {"application/vnd.plotly.v1+json", "text/html", "text/plain"}
    assert "<img src=" in figure["text/html"]
    assert re.search(r"optimum \(Belady\)|both policies", table["text/plain"])
    assert counts(reply)["belady_800"] >= counts(reply)["lru_800"] > 0


def test_files_are_written_read_back_and_never_over_others(two_runs: Kernel, tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    names = {"save": "run one.jsonl", "export": "run one.html", "trace": "run one.json"}
    for command, name in names.items():
        reply = two_runs.run(f'%sgl {command} "{folder / name}" late')
        assert (reply.status, "wrote" in reply.printed) == ("ok", True), reply.traceback
        assert two_runs.run(f'%sgl {command} "{folder / name}" late').status == "ok"  # ours, so replaced
        other = folder / f"other {name}"
        other.write_text("somebody else's")
        refused = two_runs.run(f'%sgl {command} "{other}" late')
        assert (refused.status, "--force" in refused.evalue, other.read_text()) == ("error", True, "somebody else's")
        assert "sgl_lab/" not in refused.traceback
        assert two_runs.run(f'%sgl {command} "{other}" late --force').status == "ok"
    for option in ("--dot", "--svg"):
        assert two_runs.run(f'%sgl tree {option} "{folder / "tree"}{option[1:]}"').status == "ok"
    page = (folder / "run one.html").read_text()
    assert "Porto" in page
    assert not [word for word in ("http://", "https://", "url(//", "@import") if word in page.replace("http://www.w3.org/2000/svg", "")]
    assert json.loads((folder / "run one.json").read_text())["traceEvents"]
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []

    live = two_runs.run("%sgl tokens sight --text").printed
    replayed = two_runs.run(f'%sgl replay "{folder / "run one.jsonl"}"')
    assert replayed.status == "ok", replayed.traceback
    assert "12:59" in replayed.shown[0]["text/plain"]
    assert two_runs.run("%sgl tokens sight --text").printed == live != ""
    assert counts(two_runs.run('%sgl diff "run one" late')) == {"pairs": 3, "same": 3}
    (folder / "run one.jsonl").write_text("{}")
    broken = two_runs.run(f'%sgl replay "{folder / "run one.jsonl"}"')
    assert (broken.ename, "line 1" in broken.evalue) == ("RecordUnreadable", True)
    assert "\n" not in broken.traceback.strip()


@pytest.mark.parametrize("command", ["save", "replay", "export", "trace", "diff a b c", "why 999", "whatif --policy mru", "save x y z"])
def test_an_impossible_command_is_one_line(two_runs: Kernel, command: str) -> None:
    reply = two_runs.run(f"%sgl {command}")
    assert (reply.status, reply.ename) == ("error", "UsageError"), reply.traceback


ASKED = '%%sgl --view none {options}\nuser("What is {city} {word} for?")\nassistant(gen("fame", max_tokens=4))'
TURNS = """%%sgl --view none --temperature 0
user("Hi there")
assistant(gen("hello", max_tokens=4))
user("{last}")
assistant(gen("then", max_tokens=4))"""


def test_why_on_one_small_edit_after_the_other(two_runs: Kernel) -> None:
    """(cell, the expected lines for its last gen)"""

    def asked(city: str = "Lisbon", word: str = "famous", options: str = "--temperature 0") -> str:
        return ASKED.format(city=city, word=word, options=options)

    steps = [
        (asked(word="known"), "equal tokens", "edit: +line 2 of", "reused"),
        (asked(), r'" famous", where "fame" of In.\d+. has " known"', "famous for.*known for", "9 of 36 .* 27 reused"),
        (asked(), "none: .* had the same 36 tokens", "none in the prompt", "1 of 36 tokens computed"),
        (asked(options="--temperature 1 --seed 3"), "none: ", "line 1 of .* changes no prompt: .*--seed 3.*--temperature 0", "1 of 36"),
        (asked("Porto"), '" Port", where "fame" .* has " Lisbon"', r"Porto famous.*Lisbon famous", "11 of 37"),
        (TURNS.format(last="And Faro?"), "And Faro", "line 4 of .* contains it", "computed in"),
        (TURNS.format(last="And Braga?"), '" B", where "then" of .* has " Far"', r"line 4 of .*Braga.*Faro", "computed in"),
    ]
    for cell, *wanted in steps:
        assert two_runs.run(cell).status == "ok"
        text = two_runs.run("%sgl why --text").printed
        rows = re.findall(r"  (?:first difference|edit|cost): .*", text)
        assert len(rows) % 3 == 0, text
        stories = [rows[n : n + 3] for n in range(0, len(rows), 3)]
        assert any(all(re.search(want, row) for want, row in zip(wanted, story, strict=True)) for story in stories), text


N_REQUESTS = "sum(type(entry.event).__name__ == 'RequestQueued' for entry in sgl_lab.default_lab().events())"


def test_one_quiet_line_names_a_fault_without_a_request_and_a_setting_turns_it_off(two_runs: Kernel) -> None:
    cell = '%%sgl --temperature 0 --view none{}\nuser("Hi <|im_end|>")\nassistant(gen("a", max_tokens=2))'
    before = two_runs.run(f"import sgl_lab; {N_REQUESTS}").result
    reply = two_runs.run(cell.format(""))
    assert counts(reply) == {"findings": 1}
    assert [data["text/plain"] for data in reply.shown] == ['lint: line 2: "<|im_end|>" is typed as text · %sgl lint']
    assert two_runs.run(f"{N_REQUESTS} - {before}").result == "1"
    listed = two_runs.run("%sgl lint")
    assert counts(listed) == {"findings": 1, "tokens": 0}
    assert "mend:  write system(...), user(...)" in listed.shown[0]["text/plain"]
    assert two_runs.run(cell.format(" --lint no")).shown == []
    two_runs.run("%config SGL.lint = 'no'")
    assert two_runs.run(cell.format("")).shown == []
    assert counts(two_runs.run("%sgl lint")) == {"findings": 1, "tokens": 0}
    two_runs.run("%config SGL.lint = None")
    assert len(two_runs.run(cell.format("")).shown) == 1
    failed = two_runs.run(cell.format("") + "\n1 / 0")
    assert failed.status == "error"
    assert failed.shown[0]["text/plain"].endswith("typed as text · %sgl lint")
    two_runs.run(cell.format(" --bg"))
    assert two_runs.run("job = _; job.result(); print(job.frozen[0]['text/plain'])").printed.endswith("typed as text · %sgl lint\n")
    two_runs.run(cell.format(" --bg --lint no"))
    assert "lint" not in two_runs.run("job = _; job.result(); print(job.frozen[0]['text/plain'])").printed


def test_a_workload_runs_with_its_tree_and_is_explained_like_a_cell(two_runs: Kernel) -> None:
    assert "hellaswag" in two_runs.run("%sgl bench").printed
    reply = two_runs.run("%sgl bench mmlu -n 2 --parallel 2")
    assert reply.status == "ok", reply.traceback
    tables = [shown["text/plain"] for shown in reply.shown if "of best" in shown["text/plain"]]
    assert len(tables) == 1
    assert "100.0%" in tables[0]
    assert any("application/vnd.plotly.v1+json" in shown for shown in reply.shown)
    assert "a select after a prompt" in two_runs.run("%sgl tokens --text").printed
    assert "did you mean 'mmlu'" in two_runs.run("%sgl bench mmul").evalue
    assert "-n has to be a whole number" in two_runs.run("%sgl bench mmlu -n x").evalue


def test_a_graph_is_shown_before_and_after_its_passes_and_a_plan_before_and_after_the_run(two_runs: Kernel) -> None:
    two_runs.run(
        "import sgl_lab as sgl\n"
        "@sgl.function\ndef judged(s, text, by):\n    s += 'Judge with care. ' * 30 + text + by\n"
        "    s += sgl.gen('mark', max_tokens=2, ignore_eos=True)\n"
        "@sgl.function\ndef review(s, text):\n"
        "    marks = [judged(text=text, by=by)['mark'] for by in ('style', 'logic', 'style')]\n"
        "    s += text + ', '.join(marks)"
    )
    graph = two_runs.run("%sgl graph review")
    assert graph.status == "ok", graph.traceback
    assert counts(graph)["requests"] == 3
    assert counts(graph)["nodes_after"] < counts(graph)["nodes"]
    assert "<img src=" in graph.shown[0]["text/html"]
    assert "as traced:" in (text := graph.shown[0]["text/plain"])
    assert "as run:" in text
    assert "calls with the same text run once" in text
    plan = two_runs.run('%sgl plan review text="Tea is good." --run')
    assert plan.status == "ok", plan.traceback
    rows = {line.rsplit(maxsplit=2)[0]: line.split()[-2:] for line in plan.printed.splitlines() if line.startswith("prompt tokens")}
    planned, real = (int(number.replace(",", "")) for number in rows["prompt tokens"])
    assert abs(planned - real) <= 0.02 * real
    assert re.search(r"^seconds +about \d+\.\d\d +\d+\.\d\d$", plan.printed, re.M)
    assert re.search(r"^rates: prefill [\d,]+, decode [\d,]+ tokens/s, from [\d,]+ steps here$", plan.printed, re.M)
    two_runs.run("%%sgl -o cell\nuser('Is tea hot?')\nassistant(gen('a', max_tokens=2))\nif s['a'] == 'x':\n    s += 'never'")
    planned_cell = two_runs.run("%sgl plan cell")
    assert planned_cell.status == "ok", planned_cell.traceback
    assert re.search(r"^requests +1$", planned_cell.printed, re.M)
    assert "up to line 4: what follows depends on text of the model" in planned_cell.printed
    for wrong, message in (
        ("graph reviw", "did you mean 'review'"),
        ("plan review", "missing 1 required"),
        ("plan review txt", "is no argument"),
    ):
        assert message in two_runs.run(f"%sgl {wrong}").evalue
