"""What programs written for the original rely on beside the language: module names, settings, `cache`, `str(state)`."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import pickle
import re
import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

import sgl_lab.lang.surface as sgl
from sgl_lab import utils
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument
from sgl_lab.contracts.port import GenJob, Message, WarmJob
from sgl_lab.lang import chat_template, ir
from sgl_lab.lang.backend.base_backend import BaseBackend
from sgl_lab.srt.constrained import build_regex_from_object

from .language import watchdog  # noqa: F401

gen = sgl.gen

NAMES = {
    "api": "function gen select user assistant system set_default_backend flush_cache get_server_info",
    "backend.base_backend": "BaseBackend",
    "executor": "StreamExecutor",
    "chat_template": "ChatTemplate get_chat_template get_chat_template_by_model_path register_chat_template "
    "register_chat_template_matching_function",
    "choices": "ChoicesDecision ChoicesSamplingMethod greedy_token_selection token_length_normalized unconditional_likelihood_normalized",
    "global_config": "GlobalConfig global_config",
    "interpreter": "ProgramState ProgramStateGroup StreamExecutor",
    "ir": "SglConstantText SglExpr SglExprList SglFunction SglGen SglRoleBegin SglRoleEnd SglSelect SglSeparateReasoning "
    "REGEX_BOOL REGEX_FLOAT REGEX_INT REGEX_STR REGEX_STRING",
}


@pytest.mark.parametrize("module", NAMES)
def test_the_names_that_programs_import_are_where_they_look_for_them(module: str) -> None:
    found = importlib.import_module(f"sgl_lab.lang.{module}")
    for name in NAMES[module].split():
        assert getattr(found, name) is not None
    with pytest.raises(AttributeError):
        _ = found.NoSuchName


def test_expressions_and_programs_are_of_the_kinds_that_are_imported() -> None:
    assert isinstance(gen("a"), ir.SglGen)
    assert isinstance(sgl.select("a", ["b"]), ir.SglSelect)
    assert isinstance("a" + gen(), ir.SglExprList)
    assert isinstance(sgl.function(lambda s: None), ir.SglFunction)
    s = sgl.start(ScriptedBackend())
    s += ir.SglConstantText("text")
    assert s.text() == "text"


def test_expressions_say_what_they_are_made_of() -> None:
    made = "a" + gen("x", max_tokens=3, temperature=0.5, regex="[ab]") + sgl.user("b")
    assert [type(part) for part in made.expr_list] == [ir.SglConstantText, ir.SglGen, ir.SglRoleBegin, ir.SglConstantText, ir.SglRoleEnd]
    text, asked, role, *_ = made.expr_list
    assert (text.value, asked.name, role.role) == ("a", "x", "user")  # type: ignore[attr-defined]  # each has its own
    assert (asked.sampling_params.max_tokens, asked.sampling_params.temperature) == (3, 0.5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("pattern", "whole", "none"),
    [
        (ir.REGEX_INT, ["7", "-12", "+3 \n"], ["", "1.5", "7a"]),
        (ir.REGEX_FLOAT, ["7", "-1.5", ".5 "], ["", "1.", "1e3"]),
        (ir.REGEX_BOOL, ["True", "False"], ["true", ""]),
        (ir.REGEX_STR, ['""', '"Zoë\'s, {x}"'], ['"', '"a"b"', '"a\n"', '"a\t"', '"\\\\"']),
    ],
)
def test_the_patterns_of_plain_values(pattern: str, whole: list[str], none: list[str]) -> None:
    assert all(re.fullmatch(pattern, text) for text in whole)
    assert not any(re.fullmatch(pattern, text) for text in none)
    assert all(isinstance(json.loads(text), str) for text in whole if pattern == ir.REGEX_STR)


# ---------------------------------------------------------------- backends


def test_a_backend_may_be_made_of_the_base() -> None:
    class Echo(ScriptedBackend, BaseBackend): ...

    s = sgl.start(Echo("x"))
    s += "Q" + gen("a")
    assert s["a"] == "x"


def test_the_base_itself_can_be_made_and_says_what_it_lacks() -> None:
    bare = BaseBackend()
    bare.chat_template = chat_template.get_chat_template("llama-2-chat")
    assert bare.get_chat_template().get_prefix_and_suffix("user", []) == ("<s>[INST] ", " [/INST]")
    assert (bare.endpoint, bare.get_model_name(), bare.model_info["model_path"]) == (bare, "BaseBackend", "BaseBackend")
    bare.shutdown()
    bare.flush_cache()
    sgl.set_default_backend(bare)
    try:
        s = sgl.start(bare)
        s += "Q" + gen("a")
        with pytest.raises(BackendUnsupported, match="no model: it does not implement encode"):
            _ = s["a"]
    finally:
        sgl.set_default_backend(None)


def test_a_template_that_was_assigned_is_the_one_that_is_spoken() -> None:
    backend = ScriptedBackend("A")
    backend.chat_template = chat_template.get_chat_template("default")
    s = sgl.start(backend)
    s += sgl.user("Q") + sgl.assistant(gen("a"))
    assert s.text() == "USER:Q\nASSISTANT:A\n"
    backend.chat_template = None
    s = sgl.start(backend)
    s += sgl.user("Q") + sgl.assistant(gen("a"))
    assert s.text().startswith("<|im_start|>user")


@pytest.mark.parametrize("name", ["default", "chatml", "llama-2-chat", "llama-3-instruct", "gemma-it", "vicuna_v1.1"])
def test_prefixes_and_suffixes_spell_what_is_rendered(name: str) -> None:
    template = chat_template.get_chat_template(name)
    turns = [Message("system", "S"), Message("user", "U"), Message("assistant", "A"), Message("user", "V")]
    spelled = ""
    for n, turn in enumerate(turns):
        prefix, suffix = template.get_prefix_and_suffix(turn.role, turns[:n])
        spelled += prefix + turn.content + suffix
    assert spelled == "".join(segment.text for segment in template.render(turns, False))


def test_a_backend_tells_how_many_tokens_were_asked_for_and_got() -> None:
    backend = ScriptedBackend("abc")
    assert (backend.token_usage.prompt_tokens, backend.token_usage.completion_tokens) == (0, 0)
    s = sgl.start(backend)
    s += "Q" + gen("a") + gen("b", n=2)
    s += sgl.select("c", ["x", "y"])
    s.sync()
    asked = sum(len(job.prompt) for job in backend.jobs)
    assert (backend.token_usage.prompt_tokens, backend.token_usage.completion_tokens) == (asked, 9)
    assert ScriptedBackend().token_usage.prompt_tokens == 0, "each has its own count"
    backend.token_usage.reset()
    assert backend.token_usage.prompt_tokens == 0


def test_what_stands_before_a_backend_is_taken_for_it() -> None:
    class Front:
        def __init__(self) -> None:
            self.endpoint = ScriptedBackend("x")

    @sgl.function
    def program(s: Any) -> None:
        s += "Q" + gen("a")

    front = Front()
    assert program.run(backend=front)["a"] == "x"
    sgl.set_default_backend(front)
    try:
        assert program.run()["a"] == "x"
        assert sgl.global_config.default_backend.endpoint is front.endpoint
        sgl.flush_cache(front)
        assert sgl.get_server_info(front)["name"] == "scripted"
    finally:
        sgl.set_default_backend(None)


# ---------------------------------------------------------------- states


def test_a_finish_reason_is_a_word_and_a_mapping() -> None:
    backend = ScriptedBackend(["stop it", "long", "whole", "x"])
    s = sgl.start(backend)
    s += "Q" + gen("a", stop=" it") + gen("b", max_tokens=2) + gen("c") + sgl.select("d", ["y"])
    a, b, c, d = (s.get_meta_info(name)["finish_reason"] for name in "abcd")
    assert (a, b, c, d) == ("stop", "length", "stop", "stop")
    assert [reason["type"] for reason in (a, b, c, d)] == ["stop", "length", "stop", "stop"]
    assert (a["matched"], b["length"], c.get("matched"), c.get("length", 0)) == (" it", 2, None, 0)
    assert dict(a) == {"type": "stop", "matched": " it"} == {**a}
    assert ("type" in a, "matched" in b, "sto" in a, a[:2], f"{a}", repr(a)) == (True, False, True, "st", "stop", "'stop'")
    assert {"stop": 1}[a] == 1
    for twin in (pickle.loads(pickle.dumps(a)), copy.deepcopy(a)):  # noqa: S301  # our own
        assert (twin, twin["matched"], type(twin)) == ("stop", " it", type(a))
    assert json.dumps(a) == '"stop"'
    with pytest.raises(KeyError):
        _ = a["length"]


def test_a_fork_takes_position_offsets_and_says_that_they_move_nothing() -> None:
    s = sgl.start(ScriptedBackend("x"))
    s += "Q"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(s.fork(2, position_ids_offset=None)) == len(s.fork(size=2, position_ids_offset=[0, 0])) == 2
        assert len(s.fork(np_like(3))) == 3
        with s.copy(position_ids_offset=[0]) as t:
            t += "x"
    with pytest.warns(UserWarning, match="position_ids_offset has no effect") as caught:
        s.fork(2, [0, 8])
    assert caught[0].filename == __file__
    for wrong in ([1], [1, 2, 3], 7, "ab", [0.5, 1]):
        with pytest.raises(BadArgument, match="for each of 2 forks"):
            s.fork(2, wrong)  # type: ignore[arg-type]


class np_like:  # a whole number that is no int, as numpy's
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_a_stream_tells_log_probabilities_a_piece_at_a_time() -> None:
    backend = ScriptedBackend("abcd", held=True)

    @sgl.function
    def program(s: Any) -> None:
        s += "Q" + gen("a", return_logprob=True, top_logprobs_num=2)

    async def followed() -> list[tuple[str, Any]]:
        state = program.run(backend=backend, stream=True)
        backend.step()
        pairs = []
        async for pair in state.text_async_iter("a", return_meta_data=True):
            pairs.append(pair)
            backend.step(2)
        whole = state.get_meta_info("a")
        for key in ("output_token_logprobs", "output_top_logprobs"):
            assert [entry for _, meta in pairs for entry in meta[key]] == whole[key]
        assert whole["output_token_logprobs_length"] == len(whole["output_token_logprobs"]) == 4
        return pairs

    pairs = asyncio.run(followed())
    assert "".join(piece for piece, _ in pairs) == "abcd"
    n_streamed = 0
    for piece, meta in pairs:
        n_streamed += len(meta["output_token_logprobs"])
        assert meta["output_token_logprobs_length"] == n_streamed
        assert "".join(text for _, _, text in meta["output_token_logprobs"]) == piece
    assert [meta["finish_reason"] for _, meta in pairs][-1] == "stop"


def test_a_gen_of_no_tokens_has_an_empty_list_and_a_length() -> None:
    s = sgl.start(ScriptedBackend(""))
    s += "Q" + gen("a", return_logprob=True)
    assert (s.get_meta_info("a")["output_token_logprobs"], s.get_meta_info("a")["output_token_logprobs_length"]) == ([], 0)


def test_a_state_shows_its_executor() -> None:
    backend = ScriptedBackend("abc", held=True)

    @sgl.function
    def program(s: Any, topic: str, n: int = 2) -> None:
        s += sgl.user(topic)
        s += sgl.assistant(sgl.separate_reasoning(gen("a"), model_type="qwen3"))
        s["mine"] = 7

    state = program.run(topic="tea", backend=backend, stream=True)
    executor = state.stream_executor
    backend.step()
    next(state.text_iter("a"))
    assert (executor.variables["a"], executor.is_finished, executor.variable_event["a"].is_set()) == ("a", False, False)
    assert executor.text_.endswith("assistant\na")
    assert not executor.variable_event["a"].wait(0.01)
    with pytest.raises(TimeoutError):
        executor.get_meta_info("a", timeout=0.01)
    backend.resume()
    executor.sync()
    assert list(executor.variable_event) == ["a", "a_reasoning_content", "mine"]
    assert dict(executor.variables) == {"a": "abc", "a_reasoning_content": "", "mine": 7}
    assert (executor.text_, executor.text(), executor.messages_) == (state.text(), state.text(), state.messages())
    assert (executor.meta_info["a"], executor.get_meta_info("a", timeout=1)) == (state.get_meta_info("a"), state.get_meta_info("a"))
    assert (executor.arguments, executor.backend, executor.error(), executor.is_finished) == ({"topic": "tea"}, backend, None, True)
    executor.variables["mine"] = 8
    executor.submit("!")
    assert (state["mine"], executor.get_var("mine"), state.text()[-1]) == (8, 8, "!")
    (fork,) = executor.fork(1)
    assert fork.variables["mine"] == 8
    executor.end()
    with pytest.raises(KeyError):
        _ = executor.variables["nothing"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("lang.ir", "SglVideo"),
        ("lang.api", "RuntimeEndpoint"),
        ("lang.api", "Runtime"),
        ("lang.ir", "SglVariable"),
        ("lang.backend.runtime_endpoint", "RuntimeEndpoint"),
        ("lang.backend.openai", "OpenAI"),
        ("lang.backend.anthropic", "Anthropic"),
        ("lang.backend.vertexai", "VertexAI"),
        ("lang.backend.litellm", "LiteLLM"),
    ],
)
def test_a_name_that_a_module_lacks_says_so_to_an_import(module: str, name: str) -> None:
    with pytest.raises(ImportError, match=f"sgl_lab.{module} has no '{name}': .*(not available yet|from sgl_lab|prog.trace)"):
        exec(f"from sgl_lab.{module} import {name}")
    with pytest.raises(ImportError, match="NoSuchName"):
        exec(f"from sgl_lab.{module} import NoSuchName")


def test_a_program_lacks_other_names() -> None:
    program = sgl.function(lambda s: None)
    with pytest.raises(AttributeError, match="no 'runn'"):
        _ = program.runn


def test_a_state_prints_its_text_also_when_it_failed() -> None:
    s = sgl.start(ScriptedBackend("A"))
    s += "Q" + gen("a")
    assert str(s) == f"{s}" == "ProgramState(QA)"
    failed = sgl.start(ScriptedBackend(context=5))
    failed += "Q" + gen("a", max_tokens=1) + "far too long" + gen("b")
    assert str(failed) == "ProgramState(Qofar too long)"


def test_a_function_may_say_which_template_a_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_matchers", [])
    before = chat_template.get_chat_template_by_model_path("my-qwen-chat").name

    @chat_template.register_chat_template_matching_function
    def mine(model: str) -> str | None:
        return "gemma-it" if model.startswith("my-") else None

    assert (before, mine("other")) == ("qwen", None)
    assert chat_template.get_chat_template_by_model_path("my-qwen-chat").name == "gemma-it"
    assert chat_template.get_chat_template_by_model_path("qwen-chat").name == "qwen"


# ---------------------------------------------------------------- settings


def test_settings_mean_something_or_say_that_they_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    config, backend = sgl.global_config, ScriptedBackend("A")

    @sgl.function
    def program(s: Any) -> None:
        s += "Q" + gen("a")

    config.default_backend = backend
    try:
        assert config.default_backend is backend
        program.run()
        assert capsys.readouterr().out == ""
        config.verbosity = 2
        program.run()
        assert capsys.readouterr().out == "QA\n"
    finally:
        config.verbosity = 0
        config.default_backend = None
    config.enable_parallel_encoding = True
    with pytest.warns(UserWarning, match="enable_parallel_encoding cannot be switched off here: "):
        config.enable_parallel_encoding = False
    assert config.enable_parallel_encoding
    for touch in (lambda: config.verbose, lambda: setattr(config, "verbose", 1)):
        with pytest.raises(AttributeError, match="no 'verbose'"):
            touch()


# ---------------------------------------------------------------- cache

FEW_SHOT = "Q: 1 + 1\nA: 2\n"


def f_string(s: Any, question: str) -> None:
    s += FEW_SHOT
    s += f"Q: {question}\nA:" + gen("answer")


def concatenated(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: " + question + "\n" + gen("answer")


def branching(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: "
    s += json.loads(question)["text"]


def reading(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: " + gen("x")
    s += s["x"] + question


def forking(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: "
    s.fork(2)


async def awaiting(s: Any, question: str) -> None:
    s += FEW_SHOT + "Q: "
    await s.get("nothing")


@pytest.mark.parametrize("func", [f_string, concatenated, branching, reading, forking, awaiting])
def test_cache_computes_what_all_runs_begin_with(func: Callable[..., Any]) -> None:
    backend = ScriptedBackend("x")
    program = sgl.function(func)
    assert program.cache(backend) == len(FEW_SHOT + "Q: ")
    assert [type(job) for job in backend.jobs] == [WarmJob]
    if func in (f_string, concatenated, reading):
        state = program.run(question="2 + 2", backend=backend)
        assert state.error() is None
        assert state.get_meta_info("x" if func is reading else "answer")["cached_tokens"] >= len(FEW_SHOT + "Q: ") - 1


def test_bound_and_defaulted_arguments_belong_to_the_prefix_and_turns_do() -> None:
    @sgl.function
    def program(s: Any, style: str, question: str, ending: str = "!") -> None:
        s += sgl.system(f"Be {style}{ending}") + sgl.user(question) + sgl.assistant(gen("a"))

    backend = ScriptedBackend("x")
    n_tokens = program.bind(style="terse").cache(backend)
    (warmed,) = backend.jobs_of(WarmJob)
    assert backend.decode(warmed.prompt) == "<|im_start|>system\nBe terse!<|im_end|>\n<|im_start|>user\n"
    program.run("terse", "What?", backend=backend)
    assert backend.jobs_of(GenJob)[0].prompt[:n_tokens] == warmed.prompt


def test_a_program_that_begins_with_its_argument_has_nothing_to_cache() -> None:
    backend = ScriptedBackend()
    assert sgl.function(lambda s, q: s.append_expression(q + gen("a"))).cache(backend) == 0
    assert backend.jobs == []


NOT_YET = ["ServerArgs", "GenConfig"]


@pytest.mark.parametrize("name", NOT_YET)
def test_a_name_that_is_not_here_yet_says_so(name: str) -> None:
    import sgl_lab

    assert not hasattr(sgl_lab, name)
    with pytest.raises(AttributeError, match=f"'{name}': .* are not available yet"):
        getattr(sgl_lab, name)
    with pytest.raises(ImportError, match=f"'{name}': .* are not available yet"):
        exec(f"from sgl_lab import {name}")


def test_a_misspelt_name_is_answered_with_the_one_that_was_meant() -> None:
    import sgl_lab

    with pytest.raises(AttributeError, match="no 'slect'; did you mean 'select'"):
        _ = sgl_lab.slect


# ---------------------------------------------------------------- helpers


def test_settings_can_be_imported_from_their_module() -> None:
    module = importlib.import_module("sgl_lab.global_config")
    import sgl_lab

    assert module.global_config is sgl.global_config
    sgl_lab.global_config.verbosity = 2
    try:
        assert sgl.global_config.verbosity == 2 == module.verbosity
    finally:
        sgl.global_config.verbosity = 0


def test_lines_of_json_are_read_and_a_bad_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": "é"}\n\n# no line\n[1]\n', encoding="utf-8")
    assert list(utils.read_jsonl(str(path))) == [{"a": "é"}, [1]]
    path.write_text("1\n{\n", encoding="utf-8")
    with pytest.raises(BadArgument, match="line 2"):
        list(utils.read_jsonl(path))


def test_states_are_dumped_as_text(tmp_path: Path) -> None:
    path = tmp_path / "states.txt"
    s = sgl.start(ScriptedBackend("é"))
    s += "Q" + gen("a")
    utils.dump_state_text(str(path), [s, "plain", 3])
    utils.dump_state_text(path, ["more"], mode="a")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("=")] == ["Qé", "plain", "3", "more"]
    assert [line.strip("= ") for line in lines if line.startswith("=") and line.strip("=")] == ["0", "1", "2", "0"]


def test_highlighted_text_is_printed_outside_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    utils.print_highlight("<b>text</b>\nmore")
    utils.print_highlight(3)
    assert capsys.readouterr().out == "<b>text</b>\nmore\n3\n"


@pytest.mark.parametrize("name", ["launch_server_cmd", "wait_for_server", "terminate_process", "http_request"])
def test_what_only_a_server_needs_says_so(name: str) -> None:
    with pytest.raises(ImportError, match=f"'{name}': there is no server.*Runtime"):
        exec(f"from sgl_lab.utils import {name}")


def test_schemas_become_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    assert utils.convert_json_schema_to_str({"type": "integer"}) == '{"type": "integer"}'
    assert json.loads(utils.convert_json_schema_to_str(Item))["required"] == ["n"]
    with pytest.raises(BadArgument):
        utils.convert_json_schema_to_str(3)
    kept = tmp_path / "data.jsonl"
    with pytest.raises(BackendUnsupported, match="nothing is downloaded"):
        utils.download_and_cache_file("http://localhost/data.jsonl", str(kept))
    kept.write_text("1")
    assert utils.download_and_cache_file("http://localhost/data.jsonl", str(kept)) == str(kept)


# ---------------------------------------------------------------- build_regex_from_object


class Kind(StrEnum):
    bow = "bow"
    axe = 'a "great" axe'


class Item(BaseModel):
    n: int
    weight: float | None = None


class Wizard(BaseModel):
    title: str = "Mr"
    name: str = Field(max_length=4)
    kind: Kind
    items: list[Item] = Field(default=[], max_length=2)
    mark: Literal["x", 3] = "x"


class AllLeftOut(BaseModel):
    a: int = 1
    b: bool = True


MADE: list[tuple[Any, list[Any], list[Any]]] = [
    (
        Wizard,
        [
            {"name": "Mei", "kind": "bow"},
            {"title": "Zoë", "name": "", "kind": 'a "great" axe', "items": [{"n": -1}, {"n": 2, "weight": 1.5}], "mark": 3},
            {"name": '\\"\n', "kind": "bow", "items": []},
        ],
        [
            {},
            {"kind": "bow", "name": "Mei"},
            {"name": "Meine", "kind": "bow"},
            {"name": "a", "kind": "sword"},
            {"name": "a", "kind": "bow", "x": 1},
        ],
    ),
    (AllLeftOut, [{}, {"a": 1}, {"b": False}, {"a": 1, "b": True}], [{"b": True, "a": 1}, {"a": "1"}]),
    (list[int], [[], [1], [1, 2, 3]], [["1"], [1.5]]),
    ('{"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 3}', [[None] * 2, [None] * 3], [[None], [None] * 4]),
    ({"type": ["string", "null"]}, ["", None, "a"], [1, True]),
    ({"anyOf": [{"const": 1}, {"enum": ["a", [2]]}]}, [1, "a", [2]], [2, "b"]),
    ({"type": "string", "pattern": "^[a-c]+$"}, ["abc"], ["", "d"]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]}, [[1, True]], [[1], [True, 1]]),
]


@pytest.mark.parametrize(("source", "whole", "none"), MADE)
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_a_regular_expression_is_made_of_a_schema(source: Any, whole: list[Any], none: list[Any], separators: tuple[str, str]) -> None:
    pattern = build_regex_from_object(source)

    def spelled(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=separators)

    assert [value for value in whole if not re.fullmatch(pattern, spelled(value))] == []
    assert [value for value in none if re.fullmatch(pattern, spelled(value))] == []
    sgl.start(ScriptedBackend()).append_expression("Q" + gen("a", regex=pattern))


def test_white_space_is_as_it_was_asked_for() -> None:
    pattern = build_regex_from_object(AllLeftOut, whitespace_pattern=r"[\n ]*")
    assert re.fullmatch(pattern, '{\n  "a": 1,\n  "b": true\n}')
    assert not re.fullmatch(build_regex_from_object(AllLeftOut, ""), '{"a": 1}')


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "integer", "minimum": 3}, "minimum at /minimum"),
        ({"type": "object"}, "an object with properties of any name"),
        ({"type": "array"}, "an array of anything"),
        ({}, "a value of any kind"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}, "contains itself"),
        ({"$ref": "#/$defs/b"}, "does not exist"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "a value of any kind at /properties/a"),
        ("{", "is not JSON"),
    ],
)
def test_what_no_regular_expression_says_is_refused_by_its_path(schema: Any, named: str) -> None:
    with pytest.raises(BadArgument, match=re.escape(named)):
        build_regex_from_object(schema)
