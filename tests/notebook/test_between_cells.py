"""What continues between cells in a real kernel: background cells, the dashboard, settings,
snippets, cache commands.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sgl_lab.trace import read_jsonl

from .conftest import Kernel
from .test_cells import HELLO, hello_works

BODY = 'user("Say hello.")\nassistant(gen("hello", max_tokens={n}, ignore_eos=True))\n'
LONG = "%%sgl --bg -o long\nprint('from the job')\n" + BODY.format(n=4000)
WIDGET = "application/vnd.jupyter.widget-view+json"


def settle(kernel: Kernel, code: str, expected: str, seconds: float = 30) -> None:
    """Ask until the answer is `expected`."""
    end = time.monotonic() + seconds
    while (answer := kernel.run(code).result) != expected:
        assert time.monotonic() < end, answer


def drawn_anew(kernel: Kernel, place: str | None, pattern: str, seconds: float = 30) -> dict[str, str]:
    """The next content of that output that holds `pattern`, whichever cell runs when it comes."""
    end = time.monotonic() + seconds
    while True:
        message = kernel.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
        if message["msg_type"] == "update_display_data" and message["content"]["transient"]["display_id"] == place:
            data: dict[str, str] = message["content"]["data"]
            if pattern in data["text/plain"]:
                return data


@pytest.fixture(scope="module", autouse=True)
def model(kernel: Kernel) -> None:
    hello_works(kernel)


def test_a_background_cell_returns_at_once_and_leaves_its_handle(kernel: Kernel, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    held = f"import os, time\nprint('inside')\nwhile not os.path.exists({str(go_on)!r}):\n    time.sleep(0.01)\n"
    reply = kernel.run("%%sgl job << --bg -o later --temperature 0\n" + held + BODY.format(n=60) + 's["hello"]')
    assert (reply.status, reply.printed, reply.result) == ("ok", "", None), reply.traceback
    go_on.touch()
    assert set(reply.shown[0]) == {"text/html", "text/plain"}
    assert "data-sgl-place" in reply.shown[0]["text/html"]
    answer = ast.literal_eval(kernel.run("job.result(60)").result or "''")
    assert len(answer) > 20
    assert kernel.run("later['hello'] == job.state['hello'] == await job, job.status, job.n_tokens, job.printed").result == (
        "(True, 'done', 60, 'inside\\n')"
    )
    again = kernel.run("job")
    assert again.result is None
    assert answer.split()[0] in again.shown[0]["text/plain"]
    assert "data-sgl-place" not in again.shown[0]["text/html"]
    assert "Printed:\ninside" in again.shown[0]["text/plain"]


def test_a_job_whose_model_is_there_already_does_not_load(kernel: Kernel, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    held = f"import os, time\nwhile not os.path.exists({str(go_on)!r}):\n    time.sleep(0.01)\n"
    shown = kernel.run("%%sgl ready << --bg --view none --temperature 0\n" + held + BODY.format(n=2)).shown[0]
    assert "running" in shown["text/plain"]
    assert "loading" not in shown["text/html"]
    go_on.touch()
    assert kernel.run("ready.wait(60), ready.status").result == "(True, 'done')"


def test_the_cell_that_started_it_shows_its_output_at_its_end(kernel: Kernel) -> None:
    message = kernel.start("%%sgl --bg --temperature 0\n" + BODY.format(n=12))
    shown = kernel.wait_for("display_data", message)["content"]
    waiting = kernel.start("import time\ntime.sleep(3)")
    update = kernel.wait_for("update_display_data", message)["content"]
    kernel.finish(waiting)
    assert update["transient"] == shown["transient"]
    assert update["metadata"]["sgl_lab"]["counts"]["generated"] == 12
    assert WIDGET not in update["data"]


def test_nothing_that_a_job_prints_or_shows_reaches_another_cell(kernel: Kernel) -> None:
    kernel.run(
        "%%sgl noisy << --bg --view none\nimport sys, time\nfrom IPython.display import display, HTML\n"
        "for n in range(60):\n    print('leak', n); display(HTML('<b>leak</b>')); n < 40 or print('leak', file=sys.stderr)\n"
        "    time.sleep(0.02)"
    )
    reply = kernel.run("%%capture caught\nimport time\ntime.sleep(0.4)")
    mine = kernel.run("for n in range(5):\n    print('mine')\n    time.sleep(0.1)")
    assert mine.printed == "mine\n" * 5
    assert (reply.printed, mine.shown, kernel.run("caught.stdout").result) == ("", [], "''")
    assert kernel.run("noisy.result(30); noisy.printed.count('leak') >= 80").result == "True"


PROGRAM = """import sgl_lab as sgl
@sgl.function
def tell(s, topic):
    s += topic
    raise ValueError("mine")
"""


@pytest.mark.parametrize(
    ("code", "ename"),
    [
        ("tell.run(topik=1)", "UnknownArgument"),
        ("tell.run('tea', temperature='hot')", "BadArgument"),
        ("tell.run('tea', backend=3)", "BadArgument"),
        ("tell.run_batch([{'topik': 1}])", "UnknownArgument"),
        ("tell.run_batch([('tea',), ('milk',)])", "ValueError"),
        ("sgl.gen('x', stop=3)", "BadArgument"),
        ("sgl.gen('x', stopp=3)", "UnknownArgument"),
        ("sgl.Lab(cache_tokens=-1)", "BadArgument"),
        ("sgl.Lab('nowhere')", "ModelMissing"),
        ("sgl.nothing", "AttributeError"),
        ("greeting['nothing']", "UnknownVariable"),
        ("@sgl.function\ndef nothing(): pass", "BadArgument"),
    ],
)
def test_an_error_that_comes_out_of_us_in_an_ordinary_cell_shows_the_users_lines_alone(kernel: Kernel, code: str, ename: str) -> None:
    kernel.run(PROGRAM + "greeting = sgl.function(lambda s: None).run()")
    reply = kernel.run(code)
    assert (reply.status, reply.ename) == ("error", ename)
    assert f"----> 1 {code.splitlines()[0]}" in reply.traceback
    assert ("def tell" in reply.traceback) == (ename == "ValueError")
    assert not re.search("sgl_lab/|site-packages|skipping hidden", reply.traceback), reply.traceback


def test_verbose_shows_every_frame_and_errors_of_others_are_left_alone(kernel: Kernel) -> None:
    kernel.run("import sgl_lab as sgl\n%xmode Verbose")
    reply = kernel.run("sgl.gen('x', stop=3)")
    kernel.run("%xmode Context")
    assert "sgl_lab/lang" in reply.traceback
    assert "json/decoder" in kernel.run("import json; json.loads('{')").traceback


def test_an_error_is_kept_and_shown_with_the_users_own_line(kernel: Kernel) -> None:
    kernel.run('%%sgl broken << --bg\nuser("hi")\nx = 1 / 0')
    reply = kernel.run("broken.result(30)")
    assert (reply.status, reply.ename) == ("error", "ZeroDivisionError")
    assert "----> 3 x = 1 / 0" in reply.traceback
    assert "sgl_lab/" not in reply.traceback
    shown = kernel.run("broken").shown[0]["text/plain"]
    assert re.search("In.*: error, .*ZeroDivisionError: division by zero", shown)  # nothing ran: there is no picture of it
    assert "line 3: x = 1 / 0" in shown
    assert kernel.run("repr(broken).endswith('line 3: x = 1 / 0')").result == "True"
    assert kernel.run("%%sgl --bg\nx = = 1").ename == "SyntaxError"


def test_a_job_that_awaits_what_was_cancelled_ends_with_an_error(kernel: Kernel) -> None:
    body = "import asyncio\nt = asyncio.create_task(asyncio.sleep(9))\nawait asyncio.sleep(0)\nt.cancel()\nkept = 1\nawait t"
    kernel.run(f"%%sgl --bg --view none\n{body}")
    assert kernel.run("job = _; job.wait(30), job.status, kept").result == "(True, 'error', 1)"
    assert kernel.run("job.result()").ename == "ProgramError"
    assert "line 7: await t" in str(kernel.run("print(job)").printed)


def test_an_interrupt_leaves_jobs_alone_and_stop_does_not(kernel: Kernel) -> None:
    kernel.run(LONG)
    kernel.run("long_job = Out[max(Out)]")
    settle(kernel, "long_job.n_tokens > 3", "True")
    message = kernel.start("%%sgl --view none\nimport time\nprint('in')\ntime.sleep(60)")
    kernel.wait_for("stream", message)
    kernel.interrupt()
    assert kernel.finish(message).ename == "Stopped"
    assert kernel.run("long_job.status").result == "'running'"
    listed = kernel.run("%sgl jobs --text").printed
    assert "running" in listed
    with_timeout = kernel.run("long_job.result(0.05)")
    assert with_timeout.ename == "TimeoutError"
    assert "1 job" in kernel.run("%sgl stop").printed
    settle(kernel, "long_job.status", "'stopped'")
    assert kernel.run("len(long.text()) > 20, long.get_meta_info('hello')['finish_reason']").result == "(True, 'abort')"
    assert kernel.run("long_job.result()").ename == "Stopped"


def test_what_the_user_assigned_meanwhile_wins_and_one_job_can_be_stopped(kernel: Kernel) -> None:
    kernel.run(LONG.replace("-o long", "-o taken"))
    kernel.run("job, taken = Out[max(Out)], 'mine'")
    settle(kernel, "job.n_tokens > 0", "True")
    assert kernel.run(f"%sgl jobs stop {kernel.run('job.number').result}").printed.endswith("is being stopped\n")
    settle(kernel, "job.status", "'stopped'")
    assert kernel.run("taken, 'hello' in job.state.text().lower()").result == "('mine', True)"
    assert "no job is running" in kernel.run("%sgl jobs stop all").printed
    assert kernel.run("%sgl jobs stop 99").ename == "UsageError"


def test_the_dashboard_is_html_in_its_cell_and_outlives_others_flush_and_model_switch(kernel: Kernel) -> None:
    opened = kernel.run("%sgl dashboard")
    assert set(opened.shown[-1]) == {"text/html", "text/plain"}
    assert "data-sgl-place" in opened.shown[-1]["text/html"]
    kernel.run("import json; from IPython import get_ipython; widget = get_ipython()._sgl_lab.session.dashboard._panel._widget")
    kernel.run("kept = lambda: json.loads(widget.snapshot)")
    kernel.run(
        "import threading, sgl_lab as sgl\n@sgl.function\ndef ask(s, n):\n"
        "    s += sgl.user(f'Hi {n}') + sgl.assistant(sgl.gen('a', max_tokens=8))\n"
        "threads = [threading.Thread(target=lambda n=n: ask.run(n=n).sync()) for n in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads];"
    )
    kernel.run("%sgl cache flush")
    settle(kernel, "kept()['metrics']['generated'] == sgl.default_lab().stats()['generated_tokens']", "True")
    assert kernel.run("len([lane for lane in kept()['lanes']['lanes'] if lane['label'].endswith('· a')]) >= 4").result == "True"
    settle(kernel, "[node['state'] for node in kept()['tree']['nodes']]", "['root']")
    assert "program" in kernel.run("%sgl dashboard --text").printed
    off = kernel.run("%sgl dashboard off")
    assert "data-sgl-place" not in off.shown[-1]["text/html"]
    assert kernel.run("%sgl dashboard off").ename == "UsageError"


def test_ipython_starts_with_the_default_where_its_config_file_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "profile_default").mkdir()
    config = tmp_path / "profile_default" / "ipython_config.py"
    config.write_text("c = get_config()\nc.SGL.temperature = -1\nc.SGL.seed = 5\nc.InteractiveShellApp.extensions = ['sgl_lab']\n")
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", "%sgl config --text"]
    ran = subprocess.run(command, env={**os.environ, "IPYTHONDIR": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True)
    message, *listed = ran.stdout.splitlines()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert message == f"sgl: {config}: c.SGL.temperature cannot be '-1' (it takes a number, 0 or more); it is ignored"
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in listed}
    assert (rows["temperature"], rows["seed"]) == (["1.0", "default"], ["5", "%config SGL.seed"])


def test_settings_apply_to_cells_without_options(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run("%config SGL.max_tokens = 5\n%config SGL.view = 'none'")
    reply = kernel.run('%%sgl -o short\nuser("Count.")\nassistant(gen("n", ignore_eos=True))')
    assert (reply.status, reply.shown) == ("ok", []), reply.traceback
    assert kernel.run("short.get_meta_info('n')['completion_tokens']").result == "5"
    listed = kernel.run("%sgl config --text").printed
    assert "%config SGL.max_tokens" in listed
    assert "SGL.max_tokens cannot be 'many'" in kernel.run("%config SGL.max_tokens = 'many'").printed
    kernel.run("%config SGL.max_tokens = None\n%config SGL.view = None")
    (tmp_path / "pyproject.toml").write_text("[tool.sgl_lab]\ntemprature = 1\n")
    kernel.run(f"import os; before = os.getcwd(); os.chdir({str(tmp_path)!r})")
    refused = kernel.run(HELLO)
    assert (refused.ename, "did you mean 'temperature'?" in refused.evalue) == ("UsageError", True)
    kernel.run("os.chdir(before)")
    hello_works(kernel)


def test_snippets_are_plain_files_that_run_where_they_are_named(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run(f"import os; os.environ['XDG_CONFIG_HOME'] = {str(tmp_path)!r}")
    cell = "%%sgl --view none\nword = 'kept'\nword * 2"
    kernel.run(cell)
    kernel.run("1 + 1")
    assert kernel.run("%sgl snippet save two").status == "ok"
    assert (tmp_path / "sgl_lab" / "snippets" / "two.sgl").read_text() == cell
    assert kernel.run("%sgl snippet save two").ename == "UsageError"
    assert kernel.run("%sgl snippet").printed == "two\n"
    assert kernel.run("%sgl snippet show two").printed == cell + "\n"
    assert kernel.run("%sgl snippet run two").result == "'keptkept'"
    (tmp_path / "sgl_lab" / "snippets" / "bad.sgl").write_bytes(b"\xff\xfe")
    for wrong in ("run bad", "run to", "save ../x", "rn two", "show"):
        assert kernel.run(f"%sgl snippet {wrong}").ename == "UsageError"
    assert kernel.run("%sgl snippet rm two").printed == "removed two\n"
    kernel.run(named := "%%sgl -o mail --view none\n1")
    kernel.run("%%time\n%%sgl --view none\n2")
    assert "the cell of the run mail, In[" in kernel.run("%sgl snippet save mail").printed
    assert "the last %%sgl cell, In[" in kernel.run("%sgl snippet save last").printed
    kept = [(tmp_path / "sgl_lab" / "snippets" / f"{name}.sgl").read_text() for name in ("mail", "last")]
    assert kept == [named, "%%sgl --view none\n2"]


def test_a_prefix_is_pinned_by_the_name_of_its_variable(kernel: Kernel) -> None:
    kernel.run('%%sgl -o trip --temperature 0 --view none\nuser("Name a city.")\nassistant(gen("city", max_tokens=4))')
    assert "pinned trip" in kernel.run("%sgl cache pin trip").printed
    kernel.run("%sgl cache flush")
    kept = "s = sgl_lab.default_lab().stats(); s['pages_pinned'] > 10, s['pages_pinned'] == s['pages_total'] - s['pages_free']"
    assert kernel.run("import sgl_lab\n" + kept).result == "(True, True)"
    assert "by 1 pin: trip" in kernel.run("%sgl cache stats").shown[0]["text/plain"]
    assert kernel.run("%sgl cache unpin trp").ename == "UsageError"
    assert kernel.run("%sgl cache unpin").printed == "unpinned trip\n"
    assert "flushed" in kernel.run("%sgl cache flush").printed


def test_a_run_is_saved_beside_running_and_never_over_somebody_elses_file(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    assert kernel.run(HELLO.replace("%%sgl", f"%%sgl --save {path}")).status == "ok"
    assert read_jsonl(path).source.startswith("%%sgl --save")
    assert kernel.run(f'%%sgl --save {path} --view none\nuser("x")\n1/0').ename == "ZeroDivisionError"
    assert read_jsonl(path).ended.status == "error"
    path.write_text("mine")
    assert kernel.run(HELLO.replace("%%sgl", f"%%sgl --save {path}")).ename == "BadArgument"
    assert path.read_text() == "mine"
    for place, reason in ((tmp_path / "no" / "run.jsonl", "there is not a folder"), (path / "run.jsonl", "is not a folder")):
        refused = kernel.run(HELLO.replace("%%sgl", f"%%sgl --save {place} --force"))
        assert (refused.ename, refused.shown) == ("SglError", []), "said before anything runs"
        assert reason in refused.evalue
        assert refused.traceback == f"SglError: {refused.evalue}"


CONTROLS = (
    "%%sgl -o moved --interact n=[2,5] word=['tea','rain'] temperature=0..1:0.5 --max-tokens 6\n"
    'user(f"One {word} word.")\nassistant(gen("a", max_tokens=n, ignore_eos=True))\nprint("said", n)\nlen(word) * n'
)


def test_a_cell_with_controls_runs_again_when_one_is_moved_and_keeps_its_last_result(kernel: Kernel) -> None:
    reply = kernel.run(CONTROLS)
    assert (reply.status, reply.printed, reply.result) == ("ok", "", None), reply.traceback
    assert "Value:\n6" in reply.shown[0]["text/plain"]
    assert "data-sgl-place" in reply.shown[0]["text/html"]
    kernel.run("from IPython import get_ipython; moving = get_ipython()._sgl_lab.session._interacts[-1]")
    move = "moving._panel._on_message(None, {{'kind': 'set', 'values': {}}}, [])"
    for values in ("{'n': 1}", "{'n': 99, 'word': True, 'x': 0}", "{'n': 1, 'word': 1, 'temperature': 2}"):
        kernel.run(move.format(values))
    settle(kernel, "moved.get_meta_info('a')['completion_tokens'], 'rain' in moved.text()", "(5, True)")
    update = drawn_anew(kernel, reply.ids[0], "Value:\n20")
    assert "said 5" in update["text/plain"]
    assert "n=5, word=&#39;rain&#39;, temperature=1.0" in update["text/html"]
    assert len({job for job in kernel.run("%sgl jobs --text").printed.splitlines() if "n=" in job and "running" in job}) == 0


def test_a_new_value_cancels_the_run_before(kernel: Kernel) -> None:
    kernel.run("%%sgl --interact n=[2,4000]\nuser('x')\nassistant(gen('a', max_tokens=n, ignore_eos=True))")
    kernel.run("moving = get_ipython()._sgl_lab.session._interacts[-1]")
    kernel.run("moving._panel._on_message(None, {'kind': 'set', 'values': {'n': 1}}, []); slow = moving._job")
    settle(kernel, "slow.n_tokens > 3", "True")
    kernel.run("moving._panel._on_message(None, {'kind': 'set', 'values': {'n': 0}}, [])")
    settle(kernel, "slow.status, moving._job.status", "('stopped', 'done')")
    assert kernel.run("%%sgl --interact gen=1..2\n1").ename == "UsageError"
    assert kernel.run("%%sgl --interact n=0..2\n1 / n").ename == "ZeroDivisionError"


def test_time_and_capture_nest_around_a_background_cell(kernel: Kernel) -> None:
    reply = kernel.run("%%capture inner\n%%sgl captured << --bg\nprint('leak')\n" + BODY.format(n=8))
    assert (reply.status, reply.printed, reply.shown) == ("ok", "", []), reply.traceback
    assert kernel.run("captured.result(30); captured.printed").result == "'leak\\n'"
    assert "Wall time" in kernel.run("%%time\n%%sgl --bg --view none\n1;").printed


def test_unloading_ends_jobs_and_the_dashboard(fresh_kernel: Kernel) -> None:
    fresh_kernel.run("%load_ext sgl_lab")
    hello_works(fresh_kernel)
    fresh_kernel.run("%sgl dashboard")
    fresh_kernel.run(LONG)
    assert fresh_kernel.run("%unload_ext sgl_lab").status == "ok"
    left = "import threading, sys; sorted(t.name for t in threading.enumerate() if 'sgl' in t.name), type(sys.stdout).__name__"
    assert fresh_kernel.run(left).result == "([], 'OutStream')"
    fresh_kernel.run("%load_ext sgl_lab")
    hello_works(fresh_kernel)
