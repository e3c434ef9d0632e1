"""One program, however it is run, says the same tokens: function or coroutine, alone, in a batch, streamed, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import sgl_lab as sgl

gen, user, assistant, system = sgl.gen, sgl.user, sgl.assistant, sgl.system


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    with sgl.Lab(cache_tokens=8192) as lab:
        yield lab.deterministic_backend
        lab.check()


def tip_prompt(topic: str) -> Any:
    return lambda i: user(f"Tip {i + 1} about {topic}, in a few words.") + assistant(gen("tip", max_tokens=6, stop="\n"))


@sgl.function
def tips(s: Any, topic: str) -> Any:
    s += system("You are terse.") + user(f"Name three things to know about {topic}.")
    s += assistant("Here they are: " + gen("lead", max_tokens=5))
    forks = s.fork(3)
    forks += tip_prompt(topic)
    forks.join()
    s += user("So: " + " / ".join(s["tip"])) + assistant(gen("summary", max_tokens=6))
    return [fork.token_ids() for fork in forks], s["tip"], s["summary"]


@sgl.function
async def tips_async(s: Any, topic: str) -> Any:
    s += system("You are terse.") + user(f"Name three things to know about {topic}.")
    s += assistant("Here they are: " + gen("lead", max_tokens=5))
    forks = s.fork(3)
    forks += tip_prompt(topic)
    await forks.join_async()
    s += user("So: " + " / ".join(s["tip"])) + assistant(gen("summary", max_tokens=6))
    await s.sync_async()
    return [fork.token_ids() for fork in forks], s["tip"], s["summary"]


TOOLS = ("calculator", "search engine", "map")


@sgl.function
def tool(s: Any, topic: str) -> Any:
    s += f"To find out about {topic}, I need a " + sgl.select("tool", list(TOOLS)) + ". "
    s += "The expression is" + gen("use", max_tokens=5) if s["tool"] == "calculator" else "The key word is" + gen("use", max_tokens=6)
    return s["tool"], s["use"]


@sgl.function
async def tool_async(s: Any, topic: str) -> Any:
    s += f"To find out about {topic}, I need a " + sgl.select("tool", list(TOOLS)) + ". "
    chosen = await s.get("tool")
    s += "The expression is" + gen("use", max_tokens=5) if chosen == "calculator" else "The key word is" + gen("use", max_tokens=6)
    return chosen, await s.get("use")


@sgl.function
def chat(s: Any, topic: str) -> Any:
    with s.user():
        s += f"Is {topic} good for you?"
    with s.assistant(), s.var_scope("answer"):
        s += "I would say " + gen("first", max_tokens=5)
    with s.copy() as t:
        t += user("Really?") + assistant(sgl.select("sure", ["yes", "no"]))
    s += user("Why?") + assistant(gen("why", max_tokens=6))
    inner = tool.run(topic)
    return s["answer"], s["sure"], s["why"], inner["tool"], inner.token_ids()


@sgl.function
async def chat_async(s: Any, topic: str) -> Any:
    with s.user():
        s += f"Is {topic} good for you?"
    with s.assistant(), s.var_scope("answer"):
        s += "I would say " + gen("first", max_tokens=5)
    async with s.copy() as t:
        t += user("Really?") + assistant(sgl.select("sure", ["yes", "no"]))
    s += user("Why?") + assistant(gen("why", max_tokens=6))
    inner, why = await asyncio.gather(tool_async.run_async(topic), s.get("why"))
    return s["answer"], s["sure"], why, inner["tool"], inner.token_ids()


def batched(program: Any, others: int, **settings: Any) -> Any:
    items = [{"topic": f"{n} cats"} for n in range(others)]
    return program.run_batch([*items, {"topic": "tea"}], **settings)[-1]


def streamed(state: Any) -> Any:
    text = "".join(state.text_iter())
    assert text == state.text()
    return state


async def streamed_async(program: Any, **settings: Any) -> Any:
    state = await program.run_async("tea", stream=True, **settings)
    text = "".join([piece async for piece in state.text_async_iter()])
    assert text == state.text()
    return state


WAYS = {
    "run, waiting for each expression": lambda program, **how: program.run("tea", use_thread=False, **how),
    "stream": lambda program, **how: streamed(program.run("tea", stream=True, **how)),
    "run_batch": lambda program, **how: batched(program, 1, num_threads=2, **how),
    "run_batch, live": lambda program, **how: streamed(batched(program, 1, stream=True, **how)),
    "awaited": lambda program, **how: asyncio.run(program.run_async("tea", **how)),
    "awaited stream": lambda program, **how: asyncio.run(streamed_async(program, **how)),
}


@pytest.mark.parametrize(
    ("plain", "awaiting"), [(tips, tips_async), (tool, tool_async), (chat, chat_async)], ids=["forks", "select", "roles"]
)
def test_a_program_says_the_same_tokens_however_it_is_run(plain: Any, awaiting: Any, backend: Any) -> None:
    how = {"backend": backend, "temperature": 0, "max_new_tokens": 16}
    first = plain.run("tea", **how)
    expected = first.token_ids(), first.ret_value
    assert first.ret_value
    assert len(first.token_ids()) > 20
    states = {(program.func.__name__, name): way(program, **how) for program in (plain, awaiting) for name, way in WAYS.items()}
    states[(awaiting.func.__name__, "run")] = awaiting.run("tea", **how)
    assert {key: (state.token_ids(), state.ret_value) for key, state in states.items()} == dict.fromkeys(states, expected)
