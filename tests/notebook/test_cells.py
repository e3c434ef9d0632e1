"""`%%sgl` and `%sgl` in a real kernel, with the built-in model."""

from __future__ import annotations

import ast
import random
import re
import time
from pathlib import Path

import pytest
import torch

from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.files import store

from .conftest import Kernel

STOP_S = 5
"""A generous second for something that would last a minute: other processes may use the machine."""

HELLO = '%%sgl --temperature 0 --view none\nuser("Say hello.")\nassistant(gen("hello", max_tokens=6))\ns["hello"]'


def hello_works(kernel: Kernel) -> None:
    reply = kernel.run(HELLO)
    assert reply.status == "ok", reply.traceback
    assert reply.result is not None
    assert len(ast.literal_eval(reply.result)) > 3


def test_a_cell_runs_shows_and_leaves_its_results(kernel: Kernel) -> None:
    reply = kernel.run(
        "%%sgl -o trip --temperature 0 --max-tokens 8\n"
        'user("Name a city.")\nassistant(gen("city"))\n'
        "pair = fork(2)\nfor f in pair:\n    f += user('Why?') + assistant(gen('why'))\n"
        "s['city'], [f['why'] for f in pair]"
    )
    assert reply.status == "ok", reply.traceback
    city, whys = ast.literal_eval(reply.result or "")
    assert city
    assert len(whys) == 2
    frozen = reply.shown[0]
    assert set(frozen) == {"text/html", "text/plain"}
    assert city.strip().split()[0] in frozen["text/plain"]
    again = kernel.run("trip['city'], trip.get_meta_info('city')['completion_tokens']")
    assert ast.literal_eval(again.result or "") == (city, 8)


def test_capture_keeps_the_last_expression_and_shows_no_out(kernel: Kernel) -> None:
    reply = kernel.run('%%sgl word << --temperature 0 --view none\n"a" + "b"')
    assert (reply.status, reply.result) == ("ok", None)
    assert kernel.run("word").result == "'ab'"


def test_a_semicolon_and_a_trailing_expression_of_the_language_show_no_out(kernel: Kernel) -> None:
    assert kernel.run("%%sgl --view none\n1;").result is None
    assert kernel.run('%%sgl --view none\nuser("hi")').result is None


def test_def_makes_a_program_that_sees_later_variables(kernel: Kernel) -> None:
    assert (
        kernel.run('%%sgl --def tip(topic, k=5)\nuser(f"{greeting}: {topic}")\nassistant(gen("tip", max_tokens=k))\nlen(s["tip"])').status
        == "ok"
    )
    reply = kernel.run(
        'greeting = "One tip"\nstate = tip.run("tea", temperature=0)\nstate.get_meta_info("tip")["completion_tokens"], state.ret_value > 0'
    )
    assert reply.result == "(5, True)", reply.traceback


def test_text_that_stands_alone_is_appended_and_assigned_names_stay(kernel: Kernel) -> None:
    cell = """%%sgl -o st --view none
"The answer is: "
def ask(q):
    f"Q: {q}"
    assistant(gen("a", max_tokens=2))
with s.user():
    "hello"
for n in range(2):
    f"<{n}>"
results = []
word = "dropped"
word
user("a"), user("b")
s.text()
len(results)"""
    reply = kernel.run(cell)
    assert reply.result == "0"
    assert re.findall(r"line (\d+): (.*?) stands alone", reply.printed) == [("12", "a string"), ("13", "a tuple of expressions")]
    words = ("The answer is: Q", "hello", "<0><1>", "dropped")
    assert kernel.run(f"[word in st.text() for word in {words}]").result == "[False, True, True, False]"
    assert kernel.run("st.text().startswith('The answer is: ')").result == "True"
    assert kernel.run("results, word, 'n' in globals(), 's' in globals(), ask.__globals__ is globals()").result == (
        "([], 'dropped', False, False, True)"
    )
    assert "call the function from a %%sgl cell" in kernel.run("ask(1)").evalue
    assert kernel.run("%%sgl -o st2 --view none\nask(2)\ndel results").status == "ok"
    assert kernel.run("'Q: 2' in st2.text(), 'a' in st2, 'results' in globals()").result == "(True, True, False)"


def test_a_state_alone_is_shown_with_turns_values_and_counts(kernel: Kernel) -> None:
    cell = '%%sgl -o st --view none\nuser("<b>hi</b>")\nassistant(gen("a", max_tokens=2))\n'
    kernel.run(cell + 'forks = fork(2)\nforks += gen("tip", max_tokens=1)')
    drawn = "get_ipython().display_formatter.format({})[0]['text/html']"
    kernel.run(f"page = {drawn.format('st')}")
    assert kernel.run("'&lt;b&gt;hi' in page, '<b>' in page, '2 forks' in page").result == "(True, False, True)"
    assert kernel.run(f"'tip' in {drawn.format('forks')}, len(forks.rows())").result == "(True, 2)"
    assert kernel.run("st").result.startswith("ProgramState s: done")  # type: ignore[union-attr]
    assert kernel.run("[st]").result.count("\n") == 0  # type: ignore[union-attr]


def test_help_and_completion_know_the_names_of_a_body(kernel: Kernel) -> None:
    ask = "code = {!r}; r = get_ipython().kernel.do_inspect(code, len(code)); r['found'], {!r} in r['data'].get('text/plain', '')"
    cases = (("%%sgl\ngen(", "max_tokens", True), ("%%time\n%%sgl\ns.fork", "continue from here", True), ("gen(", "", False))
    for code, words, known in cases:
        assert kernel.run(ask.format(code, words)).result == f"({known}, {known or not words})"
    complete = "code = {!r}; get_ipython().kernel.do_complete(code, len(code))['matches']"
    assert kernel.run(complete.format('%%sgl\nassistant(gen("answer"))\nselect(name="which")\ns["')).result == "['answer', 'which']"
    assert kernel.run(complete.format('%%sgl\ngen("answer")\nf"{s.value(\'a')).result == "['answer']"


def test_a_question_mark_shows_a_word_of_the_body_wherever_it_stands(kernel: Kernel) -> None:
    kernel.run("shown = []; get_ipython().set_hook('show_in_pager', lambda self, data, *a, **k: shown.append(str(data)))")
    plain = kernel.run("gen?")
    assert plain.printed.strip() == "gen is a word of %%sgl cells; elsewhere: from sgl_lab import gen"
    assert kernel.run("%%sgl --view none\ngen?\ns.fork?").printed == ""
    wanted = "('max_tokens', 'max_tokens', 'continue from here')"
    assert kernel.run(f"[words in data for words, data in zip({wanted}, shown)]").result == "[True, True, True]"
    assert "not found" in kernel.run("genn?").printed
    kernel.run("gen = 3")
    assert kernel.run("gen?").printed == ""
    kernel.run("del gen")


def test_a_magic_in_a_body_leaves_the_cell_its_interrupts(kernel: Kernel) -> None:
    cell = """%%sgl --view none
%sgl config --text
%sgl jobs --text
import os, signal, threading, time
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
time.sleep(100)"""
    reply = kernel.run(cell)
    assert reply.ename == "Stopped"
    assert reply.seconds < 60
    inside = "%%sgl --view none\nuser('x')\nassistant(gen('a', max_tokens=2))\ns['a']\n%sgl tokens --text"
    assert "'<|im_start|>'" in kernel.run(inside).printed


def test_seed_makes_a_cell_repeatable(kernel: Kernel) -> None:
    cell = '%%sgl --seed 7 --temperature 1.5 --view none\nuser("Invent a word.")\nassistant(gen("word", max_tokens=12))\ns["word"]'
    first, second = kernel.run(cell).result, kernel.run(cell).result
    assert first == second
    assert kernel.run(cell.replace("7", "8")).result != first


def test_notebook_variables_are_read_and_a_hidden_one_is_named(kernel: Kernel) -> None:
    kernel.run("city = 'Rome'; user = 'me'")
    reply = kernel.run('%%sgl -o st --view none\nuser(f"Hello {city}")\nresult = 1')
    assert "user means the language's user" in reply.printed
    assert kernel.run("'Hello Rome' in st.text(), user, result").result == "(True, 'me', 1)"
    kernel.run("del user")


@pytest.mark.parametrize(
    ("cell", "ename", "message"),
    [
        ("%%sgl --temprature 0\n1", "UsageError", "did you mean '--temperature'?"),
        ("%sgl treee", "UsageError", "did you mean 'tree'?"),
        ("%sgl model no-such-model", "ModelMissing", "no-such-model"),
        ('%%sgl --view none\nuser("word " * 20000)\nassistant(gen("x"))\ns["x"]', "PromptTooLong", "8192"),
        ('%%sgl --view none\ns["nothing"]', "UnknownVariable", "nothing"),
        ('%%sgl --view none\nselect("x", choices=[])', "BadArgument", "choices"),
    ],
)
def test_bad_input_is_one_clear_message_and_the_next_cell_works(kernel: Kernel, cell: str, ename: str, message: str) -> None:
    reply = kernel.run(cell)
    assert (reply.status, reply.ename) == ("error", ename), reply.traceback
    assert message in reply.evalue or message in reply.traceback
    assert "site-packages" not in reply.traceback
    assert "sgl_lab/" not in reply.traceback
    hello_works(kernel)


def test_a_prompt_larger_than_the_cache_is_refused_with_both_numbers(kernel: Kernel) -> None:
    reply = kernel.run(
        "import sgl_lab as sgl\n"
        "with sgl.Lab(cache_tokens=64) as small:\n"
        "    @sgl.function\n"
        "    def long(s):\n"
        "        s += sgl.user('word ' * 100) + sgl.assistant(sgl.gen('x', max_tokens=4))\n"
        "    long.run(backend=small.backend)['x']"
    )
    assert (reply.status, reply.ename) == ("error", "CacheFull"), reply.traceback
    assert "64" in reply.evalue
    hello_works(kernel)


def test_an_exception_in_the_body_shows_the_users_line_only(kernel: Kernel) -> None:
    reply = kernel.run('%%sgl\nuser("hi")\nx = 1 / 0\nassistant(gen("a", max_tokens=4))')
    assert (reply.status, reply.ename) == ("error", "ZeroDivisionError")
    assert "line 3" in reply.traceback
    assert "x = 1 / 0" in reply.traceback
    assert "sgl_lab/" not in reply.traceback
    assert "interactiveshell" not in reply.traceback
    hello_works(kernel)


def test_an_error_that_nothing_read_is_one_line_and_the_users_own(kernel: Kernel) -> None:
    reply = kernel.run('%%sgl --view none\nuser("very " * 9000)\nassistant(gen("a"))')
    message, place = reply.traceback.split("\n")
    assert message.startswith("PromptTooLong: a prompt of 9031 tokens")
    assert "shorten the prompt by" in message
    assert place == "in gen('a'), line 3: assistant(gen(\"a\"))"


def test_an_error_in_a_notebook_function_shows_that_function_too(kernel: Kernel) -> None:
    kernel.run("def broken():\n    raise KeyError('inner')")
    reply = kernel.run("%%sgl --view none\nbroken()")
    assert reply.ename == "KeyError"
    assert "raise KeyError('inner')" in reply.traceback
    assert "broken()" in reply.traceback


def test_a_syntax_error_shows_the_line_of_the_cell_and_nothing_of_ours(kernel: Kernel) -> None:
    reply = kernel.run("%%sgl\na = 1\nb = = 2")
    assert (reply.status, reply.ename) == ("error", "SyntaxError")
    assert "line 3" in reply.traceback
    assert re.search(r"b = = 2\n +\^", reply.traceback)
    assert "sgl_lab/" not in reply.traceback
    assert "interactiveshell" not in reply.traceback
    hello_works(kernel)


def test_a_body_may_await(kernel: Kernel) -> None:
    reply = kernel.run(
        "import asyncio\nseen = []\n"
        "async def both(s):\n    return await asyncio.gather(*(f.get('why') for f in s.fork(2).__iadd__(sgl_why)))\n"
        "import sgl_lab as sgl\nsgl_why = sgl.user('Why?') + sgl.assistant(sgl.gen('why', max_tokens=4))"
    )
    assert reply.status == "ok", reply.traceback
    reply = kernel.run(
        "%%sgl -o awaited --temperature 0 --max-tokens 6 --view none\n"
        'user("Name a city.")\nassistant(gen("city"))\n'
        "async for piece in s.text_async_iter('city'):\n    seen.append(piece)\n"
        "async with asyncio.timeout(60):\n    whys = await both(s)\n"
        "print('printed')\nawait s.get('city'), whys"
    )
    assert reply.status == "ok", reply.traceback
    city, whys = ast.literal_eval(reply.result or "")
    assert (reply.printed, len(whys)) == ("printed\n", 2)
    assert kernel.run("''.join(seen) == awaited['city']").result == "True"
    assert kernel.run("awaited['city']").result == repr(city)


def test_an_error_in_a_body_that_awaits_shows_the_users_line_only(kernel: Kernel) -> None:
    reply = kernel.run('%%sgl --view none\nuser("hi")\nassistant(gen("a", max_tokens=4))\nawait s.get("a")\nx = 1 / 0')
    assert reply.ename == "ZeroDivisionError"
    assert "----> 5 x = 1 / 0" in reply.traceback
    for inner in ("sgl_lab/", "asyncio", "interactiveshell"):
        assert inner not in reply.traceback
    unknown = kernel.run("%%sgl --view none\nawait s.get('nothing')")
    assert (unknown.ename, "----> 2 await s.get('nothing')" in unknown.traceback) == ("UnknownVariable", True)
    assert "asyncio" not in unknown.traceback
    hello_works(kernel)


@pytest.mark.parametrize("waiting", ["await s.get('n')", "await asyncio.sleep(60)", "time.sleep(60); await s.get('n')"])
def test_an_interrupt_of_a_body_that_awaits_stops_at_once(kernel: Kernel, waiting: str) -> None:
    kernel.run("import asyncio, time")
    message = kernel.start(f'%%sgl -o cut\nuser("Count up.")\nassistant(gen("n", max_tokens=2000, ignore_eos=True))\n{waiting}')
    kernel.wait_for("comm_msg", message, r'"generated": ?[1-9]')
    kernel.interrupt()
    reply = kernel.finish(message)
    assert (reply.status, reply.ename) == ("error", "Stopped"), reply.traceback
    assert reply.seconds < STOP_S
    assert kernel.run("cut.get_meta_info('n')['finish_reason']").result == "'abort'"
    hello_works(kernel)
    assert kernel.run("import sgl_lab as sgl; sgl.default_lab().check()").status == "ok"


@pytest.mark.parametrize("read", ["def long(s):\n    {}\n    s['n']", "async def long(s):\n    {}\n    await s.get('n')"])
def test_an_interrupt_reaches_a_program_that_the_body_runs(kernel: Kernel, read: str) -> None:
    body = "s += sgl.user('Count up.') + sgl.assistant(sgl.gen('n', max_tokens=2000, ignore_eos=True))\n    print('begun', flush=True)"
    kernel.run(f"import sgl_lab as sgl\n@sgl.function\n{read.format(body)}")
    message = kernel.start("%%sgl --view none\nlong.run()")
    kernel.wait_for("stream", message)
    kernel.interrupt()
    reply = kernel.finish(message)
    assert (reply.status, reply.ename) == ("error", "Stopped"), reply.traceback
    assert reply.seconds < STOP_S
    assert kernel.run("counts = sgl.default_lab().stats(); counts['requests_running'], counts['requests_waiting']").result == "(0, 0)"


def test_a_program_is_awaited_and_driven_in_an_ordinary_cell(kernel: Kernel) -> None:
    kernel.run("%%sgl --def tip(topic)\nuser(topic)\nassistant(gen('tip', max_tokens=4))\nawait s.get('tip')")
    reply = kernel.run(
        "a = await tip.run_async('tea', temperature=0)\nb = tip.run('tea', temperature=0)\na['tip'] == b.ret_value, tip.is_async"
    )
    assert reply.result == "(True, True)", reply.traceback
    message = kernel.start(
        "import sgl_lab as sgl\n@sgl.function\nasync def long(s):\n    s += sgl.user('Count') + sgl.assistant(sgl.gen('n', max_tokens=4000,"
        " ignore_eos=True))\n    print('begun', flush=True)\n    await s.get('n')\nawait long.run_async()"
    )
    kernel.wait_for("stream", message)
    kernel.interrupt()
    reply = kernel.finish(message)
    assert reply.status == "error"
    assert reply.seconds < STOP_S
    assert kernel.run("counts = sgl.default_lab().stats(); counts['requests_running']").result == "0"


def test_blank_lines_below_the_magic_keep_the_line_numbers(kernel: Kernel) -> None:
    reply = kernel.run("%%sgl --view none\n\n\nx = 1\n1/0")
    assert "----> 5 1/0" in reply.traceback
    assert "line 5" in kernel.run("%%sgl --view none\n\n\nx = 1\n1/").traceback


@pytest.mark.parametrize("strange", ["\f", "\x0b", "\u2028"])
def test_a_strange_line_break_in_a_string_moves_no_line(kernel: Kernel, strange: str) -> None:
    assert "----> 3 1/0" in kernel.run(f"%%sgl --view none\nx = 'a{strange}b'\n1/0").traceback


def test_errors_that_follow_from_others_show_all_of_the_users_and_nothing_of_ours(kernel: Kernel) -> None:
    during = kernel.run("%%sgl --view none\ntry:\n    1/0\nexcept ZeroDivisionError:\n    raise ValueError('second')")
    assert during.ename == "ValueError"
    assert "During handling of the above exception" in during.traceback
    assert "ZeroDivisionError: division by zero" in during.traceback
    caused = kernel.run("%%sgl --view none\ntry:\n    s['nothing']\nexcept KeyError as e:\n    raise ValueError('second') from e")
    assert "direct cause" in caused.traceback
    assert "UnknownVariable" in caused.traceback
    assert "sgl_lab/" not in during.traceback + caused.traceback
    alone = kernel.run("%%sgl --view none\ntry:\n    1/0\nexcept ZeroDivisionError:\n    raise ValueError('second') from None")
    assert "division by zero" not in alone.traceback


def test_an_error_in_a_program_of_another_cell_shows_its_line(kernel: Kernel) -> None:
    kernel.run("%%sgl --def wrong()\nuser('hi')\nlen(5)")
    reply = kernel.run("%%sgl --view none\nwrong.run()")
    assert reply.ename == "TypeError"
    assert "wrong.run()" in reply.traceback
    assert "----> 3     len(5)" in reply.traceback
    assert "sgl_lab/" not in reply.traceback


def test_an_error_met_again_in_another_cell_shows_that_cell(kernel: Kernel) -> None:
    failed = kernel.run('%%sgl -o long --view none\nuser("word " * 20000)\nassistant(gen("x"))\ns["x"]')
    again = kernel.run('1\nlong["x"]')
    assert failed.ename == again.ename == "PromptTooLong"
    assert '----> 2 long["x"]' in again.traceback


def test_a_body_may_use_s_for_something_else(kernel: Kernel) -> None:
    assert kernel.run('%%sgl -o rebound --view none\nfor s in ["a", "b"]:\n    user(s)').status == "ok"
    assert kernel.run("[m['content'] for m in rebound.messages() if m['role'] == 'user']").result == "['a', 'b']"


def test_an_interrupt_stops_at_once_and_keeps_what_there_is(kernel: Kernel) -> None:
    message = kernel.start('%%sgl -o cut --temperature 0\nuser("Count up.")\nassistant(gen("n", max_tokens=2000, ignore_eos=True))\ns["n"]')
    kernel.wait_for("comm_msg", message, r'"generated": ?[1-9]')
    kernel.interrupt()
    reply = kernel.finish(message)
    assert (reply.status, reply.ename) == ("error", "Stopped")
    assert reply.seconds < STOP_S
    assert "\n" not in reply.traceback
    assert kernel.run("cut.get_meta_info('n')['finish_reason'], len(cut.text()) > 20").result == "('abort', True)"
    hello_works(kernel)
    assert kernel.run("import sgl_lab as sgl; sgl.default_lab().check()").status == "ok"


def test_an_interrupt_of_plain_python_in_a_body_works_too(kernel: Kernel) -> None:
    message = kernel.start("%%sgl --view none\nimport time\nprint('in')\ntime.sleep(60)")
    kernel.wait_for("stream", message)
    kernel.interrupt()
    reply = kernel.finish(message)
    assert (reply.status, reply.ename) == ("error", "Stopped")
    assert reply.seconds < STOP_S
    hello_works(kernel)


def test_an_interrupt_while_loading_is_one_message_and_the_next_cell_works(fresh_kernel: Kernel) -> None:
    assert fresh_kernel.run("%load_ext sgl_lab").status == "ok"
    message = fresh_kernel.start(HELLO)
    fresh_kernel.wait_for("execute_input", message)
    fresh_kernel.wait_for("display_data", message)
    fresh_kernel.interrupt()
    reply = fresh_kernel.finish(message)
    assert (reply.status, reply.ename) == ("error", "Stopped"), reply.traceback
    assert "\n" not in reply.traceback
    hello_works(fresh_kernel)


def test_loading_twice_is_harmless_and_unloading_is_clean(fresh_kernel: Kernel) -> None:
    fresh_kernel.run("%load_ext sgl_lab")
    assert fresh_kernel.run("%load_ext sgl_lab").status == "ok"
    hello_works(fresh_kernel)
    assert fresh_kernel.run("%unload_ext sgl_lab").status == "ok"
    assert "not found" in fresh_kernel.run("%sgl status").printed + fresh_kernel.run("%sgl status").traceback
    threads = fresh_kernel.run("import threading; sorted(t.name for t in threading.enumerate() if 'sgl' in t.name)")
    assert threads.result == "[]"
    fresh_kernel.run("%load_ext sgl_lab")
    hello_works(fresh_kernel)


def test_where_the_native_step_is_not_built_one_line_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = build.advice()
    if advice is None:
        pytest.skip("this machine cannot run the native step")
    for made in ("models", "converted"):
        (tmp_path / made).symlink_to(store.cache_dir() / made)
    monkeypatch.setenv("SGL_LAB_CACHE", str(tmp_path))
    running = Kernel()
    try:
        running.run("%load_ext sgl_lab")
        assert running.run(HELLO).printed == f"sgl: {advice}\n"
        assert running.run(HELLO).printed == ""
        assert running.run("%sgl model").printed.startswith("smollm2 on cpu in float32")
    finally:
        running.close()


def test_a_replaced_model_is_parked_and_resumed(fresh_kernel: Kernel, tmp_path: Path) -> None:
    from sgl_lab.engine.compute.models.convert import convert

    other = tmp_path / "other"
    other.symlink_to(convert(store.resolve("smollm2"), "smollm2", store.cache_dir(), lambda done, total, text: None))
    fresh_kernel.run("%load_ext sgl_lab")
    hello_works(fresh_kernel)
    printed = fresh_kernel.run(f"%sgl model {other}").printed
    assert any(line.startswith(f"{other} on cpu") for line in printed.splitlines()), printed
    assert fresh_kernel.client.complete("%sgl model ", reply=True, timeout=60)["content"]["matches"] == ["smollm2"]
    shown = fresh_kernel.run("%sgl model").printed
    assert "parked: smollm2 on cpu in" in shown
    assert "%sgl free" in shown
    fresh_kernel.run("%sgl model smollm2")
    fresh_kernel.run(HELLO.replace("%%sgl", "%%sgl -o again"))
    assert fresh_kernel.run("m = again.get_meta_info('hello'); m['prompt_tokens'] - m['cached_tokens']").result == "1"
    assert "closed 1 parked model: " in fresh_kernel.run("%sgl free").printed
    assert fresh_kernel.run("%sgl free").printed == "no model is parked\n"
    hello_works(fresh_kernel)


def test_loading_the_extension_imports_nothing_heavy(fresh_kernel: Kernel) -> None:
    fresh_kernel.run("%load_ext sgl_lab")
    reply = fresh_kernel.run(
        "import sys; [m for m in ('torch', 'transformers', 'anywidget', 'ipywidgets', 'tokenizers', 'plotly') if m in sys.modules]"
    )
    assert reply.result == "[]"


@pytest.mark.parametrize(
    "command",
    ["status", "stats", "tree", "tree --text", "timeline", "timeline --text", "tokens", "tokens --text", "help", "stop", "model", "free"],
)
def test_every_line_command_answers(kernel: Kernel, command: str) -> None:
    hello_works(kernel)
    reply = kernel.run(f"%sgl {command}")
    assert reply.status == "ok", reply.traceback
    assert reply.printed or reply.shown or reply.result


@pytest.mark.parametrize("command", ["tree foo", "timeline foo", "tokens nothing-of-that-name", 'model "no closing'])
def test_a_line_command_takes_nothing_that_it_does_not_know(kernel: Kernel, command: str) -> None:
    reply = kernel.run(f"%sgl {command}")
    assert (reply.status, reply.ename) == ("error", "UsageError")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cell_that_asks_for_a_gpu_where_none_is_says_so_once_and_runs(fresh_kernel: Kernel) -> None:
    fresh_kernel.run("%load_ext sgl_lab")
    asked = HELLO.replace("%%sgl", "%%sgl --device cuda")
    reply = fresh_kernel.run(asked)
    assert reply.status == "ok", reply.traceback
    assert re.fullmatch(r"sgl: device cuda is not available: torch \S+ .*; the CPU serves instead\n", reply.printed)
    assert fresh_kernel.run(asked).printed == ""
    assert fresh_kernel.run(HELLO.replace("%%sgl", "%%sgl --device cpu")).status == "ok"
    shown = fresh_kernel.run("%sgl model --device cpu").printed
    assert shown.startswith("smollm2 on cpu in")
    assert re.search(r"\d MiB of weights and cache, [\d.]+ of [\d.]+ GiB free on this machine", shown)
    for line in ("%%sgl --device gpu\n1", "%sgl model --device gpu"):
        wrong = fresh_kernel.run(line)
        assert wrong.ename == "UsageError"
        assert wrong.evalue.endswith(": --device cannot be 'gpu' (it takes cpu, cuda, or a numbered GPU such as cuda:1)")


def test_models_are_listed_and_the_machine_is_checked(kernel: Kernel) -> None:
    kernel.run("%sgl model")
    assert re.search(r"^smollm2 +in use +[\d,]+ +in memory", kernel.run("%sgl models --text").printed, re.MULTILINE)
    assert re.search(r"^ok +python ", kernel.run("%sgl doctor").printed, re.MULTILINE)


def test_a_model_path_may_hold_spaces(kernel: Kernel) -> None:
    reply = kernel.run('%sgl model "no such/model.gguf"')
    assert reply.ename == "ModelMissing"
    assert "no such/model.gguf" in reply.evalue


def test_time_and_capture_nest(kernel: Kernel) -> None:
    timed = kernel.run("%%time\n" + HELLO)
    assert timed.status == "ok", timed.traceback
    assert "Wall time" in timed.printed
    assert len(ast.literal_eval(timed.result or "''")) > 3
    captured = kernel.run("%%capture inner\n" + HELLO.replace("--view none", ""))
    assert (captured.status, captured.shown, captured.result) == ("ok", [], None), captured.traceback
    assert kernel.run("len(inner.outputs) > 0").result == "True"


SEEN = HELLO.replace("--view none\n", "-o seen\nprint('said')\n")


@pytest.fixture
def tidy_kernel(kernel: Kernel) -> Kernel:
    """No earlier cell prints here: asyncio reports an interrupted task when it is collected, in any later cell."""
    kernel.run("import gc; gc.collect()")
    return kernel


def test_what_is_captured_is_the_whole_output_and_can_be_shown_again(tidy_kernel: Kernel) -> None:
    kernel = tidy_kernel
    both = kernel.run("%%time\n%%capture inner\n" + SEEN)
    assert (both.status, both.shown, both.result, "Wall time" in both.printed) == ("ok", [], None, True), both.traceback
    assert kernel.run("inner.stdout, inner.outputs[-1].data['text/plain'] == repr(seen['hello'])").result == r"('said\n', True)"
    again = kernel.run("inner.show()")
    assert (again.printed, [set(data) for data in again.shown]) == ("said\n", [{"text/html", "text/plain"}, {"text/plain"}])
    inside = kernel.run("%%capture inner\n%%time\n" + SEEN)
    assert (inside.status, inside.shown, inside.printed) == ("ok", [], "")
    assert kernel.run("'said' in inner.stdout and 'Wall time' in inner.stdout").result == "True"
    broken = kernel.run("%%capture inner\n%%sgl --temprature 1\n1")
    assert (broken.shown, broken.printed) == ([], "")
    assert kernel.run("\"did you mean '--temperature'?\" in inner.stderr").result == "True"
    after = kernel.run(SEEN)
    assert (after.printed, len(after.shown), after.result is None) == ("said\n", 1, False)


@pytest.mark.parametrize("cell", ["%%sgl\n{}", "%%time\n%%sgl --view none\n{}", "%sgl jobs --text\n{}", "%%sgl --bg\n1\n"])
def test_messages_of_the_page_are_answered_while_a_cell_is_captured(kernel: Kernel, cell: str) -> None:
    """A kernel reports each message that it answers to its publisher; the one of `%%capture` does not accept that."""
    asked = "ip = get_ipython(); ip.set_parent(ip.get_parent())"
    reply = kernel.run("%%capture inner\n" + cell.format(asked))
    assert (reply.status, reply.shown, reply.printed) == ("ok", [], ""), reply.traceback
    assert kernel.run("print('after')").printed == "after\n"


@pytest.mark.parametrize(
    ("head", "printed"), [("%%sgl --view none", ""), ("%%time\n%%sgl --view none", "CPU times: .*\nWall time: .*\n"), ("%%sgl --bg", "")]
)
def test_a_silenced_cell_shows_nothing_of_its_own(tidy_kernel: Kernel, head: str, printed: str) -> None:
    kernel = tidy_kernel
    reply = kernel.run(f"{head} -o quiet\nuser('hi')\nassistant(gen('n', max_tokens=3))\ns['n'];  # not shown")
    assert (reply.status, reply.shown, reply.result) == ("ok", [], None), reply.traceback
    assert re.fullmatch(printed, reply.printed)
    kernel.run("import time\nwhile 'quiet' not in globals(): time.sleep(0.01)")
    assert kernel.run("len(quiet['n']) > 0; del quiet").status == "ok"


def test_a_semicolon_silences_a_command_that_has_a_value(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run(f"import os; os.environ['XDG_CONFIG_HOME'] = {str(tmp_path)!r}")
    kernel.run("%%sgl --view none\n1")
    assert kernel.run("%sgl snippet save one").status == "ok"
    assert kernel.run("%sgl snippet run one").result == "1"
    silenced = kernel.run("%sgl snippet run one;")
    assert (silenced.status, silenced.result) == ("ok", None), silenced.traceback
    assert kernel.run("%sgl status;").shown != []
    kernel.run("del os.environ['XDG_CONFIG_HOME']")


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("%%sgl --temperature ", [""]),
        ("%sgl model ", ["smollm2"]),
        ("%%sgl --view=tr", ["tree"]),
        ("%%sgl", ["%%sgl"]),
        ("%%sgl --see", ["--seed"]),
    ],
)
def test_completion_offers_only_what_is_valid_there(kernel: Kernel, text: str, matches: list[str]) -> None:
    assert kernel.client.complete(text, reply=True, timeout=60)["content"]["matches"] == matches


def test_interrupts_at_any_moment_leave_a_consistent_state(kernel: Kernel) -> None:
    cell = (  # longer than any wait below: a kernel that is interrupted right after a cell may lose its reply, ours or not
        '%%sgl --temperature 1.5\nuser("A colour?")\nassistant(gen("a", max_tokens=60, ignore_eos=True))\n'
        "for f in fork(2):\n    f += gen(max_tokens=900, ignore_eos=True)"
    )
    kernel.run("import sgl_lab as sgl, threading, random\nlab = sgl.default_lab()")
    hello_works(kernel)
    census = "sorted(t.name for t in threading.enumerate() if t.name.startswith('sgl')), len(lab.ring._listeners)"
    before = kernel.run(census).result
    spread = random.Random(5)
    n_stopped = 0
    for _ in range(25):
        message = kernel.start(cell)
        kernel.wait_for("execute_input", message)
        time.sleep(spread.uniform(0, 0.6))
        kernel.interrupt()
        reply = kernel.finish(message)
        n_stopped += reply.ename == "Stopped"
        assert reply.ename in ("", "Stopped", "KeyboardInterrupt"), reply.traceback
        for shown in reply.shown:
            assert "application/vnd.jupyter.widget-view+json" not in shown
    assert n_stopped >= 15
    hello_works(kernel)
    assert kernel.run("lab.check(); counts = lab.stats(); counts['requests_running'], counts['requests_waiting']").result == "(0, 0)"
    assert kernel.run(census).result == before
