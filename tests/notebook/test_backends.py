"""Cells on a backend without an engine in the kernel: choosing it, what is shown, and what is refused."""

from __future__ import annotations

from .conftest import Kernel

PROGRAM = 'user("Hello")\nassistant(gen("a"))\nf = fork(2)\nf += lambda i: user(f"Tip {i}") + assistant(gen("tip", max_tokens=1))'


def test_a_backend_is_chosen_by_name_and_its_cells_are_shown(kernel: Kernel) -> None:
    chosen = kernel.run("%sgl backend scripted")
    assert "backend: scripted-chat · scripted" in chosen.printed
    assert "refused there: token ids" in chosen.printed
    reply = kernel.run(f"%%sgl -o s\n{PROGRAM}")
    assert reply.status == "ok"
    text, counts = reply.shown[-1]["text/plain"], reply.metadata[-1]["sgl_lab"]["counts"]
    assert "[assistant] ⟦ok⟧" in text
    assert "cached by the server" in text
    assert "radix tree" not in text
    assert (counts["generated"], counts["forks"]) == (4, 2)
    assert "scripted-chat · scripted" in reply.shown[-1]["text/html"]
    assert kernel.run("s['a']").result == "'ok'"
    assert kernel.run("import sys; 'torch' in sys.modules").result == "False"


def test_the_commands_say_what_that_backend_can_tell(kernel: Kernel) -> None:
    kernel.run(f"%%sgl -b scripted\n{PROGRAM}")
    table = kernel.run("%sgl stats").shown[-1]["text/plain"]
    assert "scripted-chat · scripted (in use)" in table
    assert "unknown: no price is known" in table
    listed = kernel.run("%sgl tokens").shown[-1]["text/plain"]
    assert "tokens, as the server counts" in listed
    assert "· text                              'Hello'" in listed
    assert "found" in kernel.run("%sgl timeline").shown[-1]["text/plain"]
    refused = kernel.run("%sgl tree")
    assert "shows no tree" in refused.printed + refused.evalue
    job = kernel.run("%%sgl --bg -o t\nuser('Q')\nassistant(gen('b'))")
    assert job.status == "ok"
    assert kernel.run("__import__('time').sleep(0.3); t['b']").result == "'ok'"


def test_a_wrong_name_is_one_line_and_runs_nothing(kernel: Kernel) -> None:
    for code, message in {
        "%%sgl -b opnai\nuser('x')": "there is no backend 'opnai' (did you mean 'openai'?)",
        "%sgl backend server": "server needs an address (write server@http://HOST:PORT)",
        "%%sgl -b scripted --device cpu\nuser('x')": "leave one of them out",
        "%%sgl -b scripted --deterministic\nuser('x')": "which --deterministic asks for",
        "%%sgl --budget lots\nuser('x')": "--budget cannot be 'lots'",
    }.items():
        reply = kernel.run(code)
        assert message in reply.printed + reply.evalue, code


def test_programs_follow_the_cells_and_a_name_may_be_given_to_run(kernel: Kernel) -> None:
    kernel.run("import sgl_lab as sgl\n@sgl.function\ndef p(s): s += sgl.user('q') + sgl.assistant(sgl.gen('a'))")
    kernel.run("%sgl backend scripted")
    assert kernel.run("p.run()['a']").result == "'ok'"
    assert kernel.run("p.run_batch([{}, {}], backend='scripted:other')[1]['a']").result == "'ok'"
    assert "other · scripted" in kernel.run("%sgl stats").shown[-1]["text/plain"]


def test_a_key_in_a_cell_is_warned_of_and_not_recorded(kernel: Kernel) -> None:
    key = "sk-proj-" + "a1b2c3d4" * 4
    reply = kernel.run(f"%%sgl -b scripted\nk = '{key}'\nuser('x')\nassistant(gen('a'))")
    assert "holds what looks like an API key" in reply.printed
    assert kernel.run("%sgl save keyed.jsonl --force").status == "ok"
    assert kernel.run(f"'{key[:12]}' in open('keyed.jsonl').read()").result == "False"
    kernel.run("import os; os.remove('keyed.jsonl')")
    assert kernel.run("1 + 1").printed == ""
