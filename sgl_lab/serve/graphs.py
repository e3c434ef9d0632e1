"""A saved graph with its arguments: its executor runs here, its results and counts go back.

Each request is a run of its own, with the graph's strands as lanes. It ends when its client leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from ..contracts.errors import BadArgument, ProgramError, Stopped
from ..contracts.json_values import Json
from ..contracts.summary import Counts
from ..lang.beginning import SETTINGS
from ..lang.graph.compiled import Compiled
from ..lang.graph.dataflow import graph_of
from ..lang.sampling import GenDefaults
from ..lang.sampling import given as given_params
from ..lang.shown import counts_of
from ..lang.state import ProgramState, start
from . import guard
from .app import DoorState, answer, body_of, gone_client, headers_of, user_of
from .errors import Refused
from .fields import Fields, parse

if TYPE_CHECKING:
    from ..session import Lab

MAX_ROWS = 64
"""sets of arguments of one request"""
MAX_NODES = 20_000
SAMPLING = SETTINGS - {"backend", "stream", "use_thread", "return_text_in_logprobs"}


class GraphPath:
    """POST /v1/graph: `graph`, `arguments` (an object, or a list of them), and how to run them."""

    def __init__(self, lab: Lab, state: DoorState) -> None:
        self._lab = lab
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise Refused(405, f"{scope['path']} takes POST, not {scope['method']}", headers={"Allow": "POST"})
        state, headers = self._state, headers_of(scope)
        if state.is_closing:
            raise Refused(503, "the door is closing")
        body = await body_of(receive, headers, state.slots)
        held = 0
        try:
            given = parse(body)
            client = guard.client_name(headers, user_of(given))
            asked = await state.aside(Asked, Fields(given))
            state.slots.take(client, len(asked.rows))
            held = len(asked.rows)
            await answer(send, 200, await self._run(asked, client, receive))
            state.n_answered += 1
        finally:
            state.slots.release_bytes(len(body))
            if held:
                state.slots.release(client, held)

    async def _run(self, asked: Asked, client: str, receive: Receive) -> Mapping[str, object]:
        """On a thread of its own. Cancelled when the client is gone, or the door closes."""
        begun: list[ProgramState] = []
        done = asyncio.create_task(asyncio.to_thread(asked.run, self._lab, client, begun.append))
        gone = asyncio.create_task(gone_client(receive))
        try:
            while not done.done():
                await asyncio.wait((done, gone), timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() or self._state.is_closing:
                    for state in begun:
                        state.cancel()
                    await asyncio.wait((done,), timeout=0.5)
            return done.result()
        finally:
            gone.cancel()


class Asked:
    """A request, read and checked."""

    def __init__(self, fields: Fields) -> None:
        graph = graph_of(fields.any("graph"))
        if len(graph.nodes) > MAX_NODES:
            raise BadArgument(f"the graph has {len(graph.nodes):,} nodes, a request at most {MAX_NODES:,}")
        given = fields.any("arguments")
        self.rows = [{} if given is None else given] if not isinstance(given, list) else given
        if not 1 <= len(self.rows) <= MAX_ROWS:
            raise BadArgument(f"arguments has {len(self.rows)} items, a request from 1 to {MAX_ROWS}")
        self._sampling = _sampling(fields.any("sampling_params"))
        optimise, order = fields.text("optimise") or "safe", fields.text("by") or "auto"
        fields.ignore("user", "model")
        fields.done()
        self._by = order
        try:
            self._compiled = Compiled(graph, optimise)
            self._compiled.rows(self.rows)
        except (TypeError, ProgramError) as error:
            raise BadArgument(str(error)) from None

    def run(self, lab: Lab, client: str, begun: Callable[[ProgramState], object]) -> Mapping[str, object]:
        """Blocks until all is done. An error of one item is in its place."""
        name = self._compiled.graph.name
        with lab.record(f"{client}: {name}", is_guest=True) as record:
            outer = start(lab.backend, lab.emit, record.run, label=name)
            begun(outer)
            with outer.running():
                found = self._compiled.run_batch(self.rows, return_exceptions=True, by=self._by, **self._sampling)  # type: ignore[arg-type]  # checked there
        each = list(found)
        if stopped := next((one for one in each if isinstance(one, Stopped)), None):
            raise stopped
        total = sum((counts_of(one._run) for one in each if isinstance(one, ProgramState)), Counts())
        return {"object": "graph.run", "name": name, "results": list(map(_result, each)), "usage": _usage(total)}


COUNTS = ("prompt_tokens", "cached_tokens", "computed_tokens", "completion_tokens")


def _sampling(given: Json) -> dict[str, object]:
    found = Fields({} if given is None else given, "sampling_params.")
    values = {name: value for name in sorted(SAMPLING) if (value := found.any(name)) is not None}
    found.done()
    replace(GenDefaults(), **given_params(values))  # checks them
    return dict(values)


def _result(each: object) -> dict[str, object]:
    if not isinstance(each, ProgramState):
        return {"error": str(each)}
    strand = each._stream
    with strand.run.lock:
        variables = {str(name): variable.value if variable.error is None else None for name, variable in strand.variables.items()}
        counts = counts_of(strand.run)
    return {"text": each.text(), "variables": _plain(variables), "returned": _plain(each.ret_value), "usage": _usage(counts)}


def _usage(counts: Counts) -> dict[str, int]:
    return dict(zip(COUNTS, (counts.prompt, counts.cached, counts.computed, counts.generated), strict=True))


def _plain(value: object) -> object:
    """JSON of it; the text of a state."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case ProgramState():
            return value.text()
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict():
            return {str(name): _plain(each) for name, each in value.items()}
    return repr(value)

