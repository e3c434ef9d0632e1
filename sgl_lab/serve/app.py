"""The ASGI application: the guard, the body, the slot, the request, the answer; the same for every path.

An API is a function that reads a body (`Read`) and says what it asks; everything here is common to
all. A handler runs on the door's loop; what may take long (encoding, constraints, a snapshot of the
tree) runs on the pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..contracts.json_values import Json
from . import guard
from .clients import Clients
from .errors import Failure, Refused, failure_of
from .fields import Fields, parse
from .limits import Limits, Slots
from .parsed import Answer, Model, ParsedRequest, dumps
from .running import RunningRequest, Wakes

Read = Callable[[Model, Fields], ParsedRequest]
P = ParamSpec("P")
T = TypeVar("T")

PING_S = 10.0
"""seconds of silence in a stream after which a comment is sent, so that no proxy or client closes
the connection as dead"""
PING = b": still working\n\n"
POOL = 4
"""threads that encode prompts and compile constraints"""
JSON = (b"content-type", b"application/json")
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


class DoorState:
    """What all paths share. Made on the loop."""

    def __init__(self, model: Model, clients: Clients, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.model = model
        self.clients = clients
        self.slots = Slots(limits)
        self.wakes = Wakes(self.loop)
        self.pool = ThreadPoolExecutor(POOL, thread_name_prefix="sgl_lab door")
        self.requests: dict[RunningRequest, str | None] = {}
        """in flight, and the name that their client gave them"""
        self.n_answered = 0
        self.is_closing = False

    async def aside(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call it on a thread of the pool."""
        return await self.loop.run_in_executor(self.pool, partial(function, *arguments, **named))

    def refuse(self) -> None:
        """From now on requests are refused, and those in flight end."""
        self.is_closing = True
        self.abort(None)

    def abort(self, rid: str | None) -> int:
        """Cancel the requests of that name; all of clients with None. How many there were."""
        found = [running for running, name in self.requests.items() if rid is None or name == rid]
        for running in found:
            running.cancel()
        return len(found)

    def close(self) -> None:
        self.abort(None)
        self.pool.shutdown(wait=False, cancel_futures=True)


async def body_of(receive: Receive, headers: Mapping[str, str], slots: Slots) -> bytes:
    """The body. Refused if it is too large or too slow. It counts as held until `release_bytes`."""
    limits = slots.limits
    stated = headers.get("content-length", "0")
    if stated.isdigit() and int(stated) > limits.body_bytes:
        raise _too_large(limits)
    parts: list[bytes] = []
    n = 0
    try:
        async with asyncio.timeout(limits.body_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionAbortedError
                part = message.get("body", b"")
                slots.take_bytes(len(part))
                n += len(part)
                parts.append(part)
                if n > limits.body_bytes:
                    raise _too_large(limits)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        slots.release_bytes(n)
        raise Refused(408, f"the body did not arrive within {limits.body_s:g} s", headers={"Connection": "close"}) from None
    except BaseException:
        slots.release_bytes(n)
        raise


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the body is larger than {limits.body_bytes:,} bytes", headers={"Connection": "close"})


async def answer(send: Send, status: int, data: object, headers: Mapping[str, str] | None = None) -> None:
    """A JSON answer; text where `data` is bytes."""
    content = data if isinstance(data, bytes) else dumps(data).encode()
    kind = (b"content-type", b"text/plain; charset=utf-8") if isinstance(data, bytes) else JSON
    given = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [kind, length, *given]})
    await send({"type": "http.response.body", "body": content})


Begun = tuple[ParsedRequest, RunningRequest, Exception | None]
"""with the error of its start"""
Spell = Callable[[Failure], Mapping[str, object]]


class Guarded:
    """Lets in what `guard.check` lets in, and answers errors of all paths."""

    def __init__(self, app: ASGIApp, token: str, origins: frozenset[str]) -> None:
        self._app = app
        self._token = token
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _named(send, scope)
        try:
            guard.check(scope["path"], headers_of(scope), self._token, self._origins)
            await self._app(scope, receive, send)
        except (ConnectionError, asyncio.CancelledError):
            return  # the client is gone, or the door closes: no client waits for an answer
        except Exception as error:
            failure = failure_of(error)
            spell: Spell = Failure.anthropic if scope["path"].startswith("/v1/messages") else Failure.openai
            await answer(send, failure.status, spell(failure), failure.headers)


def _named(send: Send, scope: Scope) -> Send:
    """Every answer names this door, so that a client behind a router can tell which worker it had."""
    host, port = scope.get("server") or ("", None)

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-served-by", f"{host}:{port}".encode("latin-1"))]
        await send(message)

    return named


class Posted:
    """A path whose requests run jobs in the engine."""

    def __init__(self, state: DoorState, label: str, read: Read, spell: Spell = Failure.openai) -> None:
        self._state = state
        self._label = label
        self._read = read
        self._spell = spell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise Refused(405, f"{scope['path']} takes POST, not {scope['method']}", headers={"Allow": "POST"})
        state, slots = self._state, self._state.slots
        if state.is_closing:
            raise Refused(503, "the door is closing")
        headers = headers_of(scope)
        body = await body_of(receive, headers, slots)
        n = len(body)
        client, held = "", 0
        running: RunningRequest | None = None
        gone = asyncio.create_task(gone_client(receive))
        try:
            given = parse(body)
            client = guard.client_name(headers, user_of(given))
            slots.take(client, 1)
            held = 1
            parsed, running, error = await self._begun(given, client)
            del given, body
            state.requests[running] = parsed.rid
            gone.add_done_callback(lambda task: None if task.cancelled() or running is None else running.cancel())
            if parsed.n_sequences > 1:
                slots.check(parsed.n_sequences)
                slots.take(client, parsed.n_sequences - 1)
                running.is_started = True
                await state.aside(self._start, running, client)
            elif error is not None:
                raise error
            if state.is_closing:
                running.cancel()
            slots.release_bytes(n)
            n = 0
            if parsed.streams:
                await self._stream(running, parsed, client, send)
            else:
                await running.wait()
                await answer(send, 200, parsed.reply.whole(_answers(running, parsed, client)))
            state.n_answered += 1
        finally:
            gone.cancel()
            slots.release_bytes(n)
            if running is None or not running.is_started:
                slots.release(client, held)
                self._forget(running)
            elif running.is_over:
                self._forget(running)
            else:
                running.cancel()

    async def _begun(self, given: dict[str, Json], client: str) -> Begun:
        """The request; begun already if it is one sequence, which has its slot: so it takes one way
        to a thread of the pool."""
        begun = asyncio.ensure_future(self._state.aside(self._begin, given, client))
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(_cancel)
            raise

    def _begin(self, given: dict[str, Json], client: str) -> Begun:
        parsed, state = self._parse(given), self._state
        n = parsed.n_sequences
        running = RunningRequest(
            state.model.backend, state.wakes, parsed.jobs, streams=parsed.streams, over=lambda: self._over(running, client, n)
        )
        error = None
        if n == 1:
            running.is_started = True
            try:
                self._start(running, client)
            except Exception as failed:
                error = failed
        return parsed, running, error

    def _parse(self, given: dict[str, Json]) -> ParsedRequest:
        fields = Fields(given)
        model = self._state.model
        model.check_name(fields.text("model"))
        fields.ignore("user")
        parsed = self._read(model, fields)
        fields.done()
        return parsed

    def _start(self, running: RunningRequest, client: str) -> None:
        running.start(lambda: self._state.clients.of(client), self._label)

    def _over(self, running: RunningRequest, client: str, held: int) -> None:
        self._state.slots.release(client, held)
        self._forget(running)

    def _forget(self, running: RunningRequest | None) -> None:
        if running is not None:
            self._state.requests.pop(running, None)

    async def _stream(self, running: RunningRequest, parsed: ParsedRequest, client: str, send: Send) -> None:
        """Server-sent events. An error before the first of them is an answer of its own; later, the
        last event."""
        reply, stall_s, is_open = parsed.reply, self._state.slots.limits.stall_s, False

        async def write(data: bytes) -> None:
            nonlocal is_open
            if not is_open:
                is_open = True
                await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
                data = reply.opening() + data
            if data:
                async with asyncio.timeout(stall_s):
                    await send({"type": "http.response.body", "body": data, "more_body": True})

        try:
            async for pieces in running.pieces(PING_S):
                await write(b"".join(map(reply.piece, pieces)) if pieces else PING)
            await write(reply.closing(_answers(running, parsed, client)))
        except TimeoutError:
            running.cancel()
            raise ConnectionAbortedError("the client does not read") from None
        except Exception as error:
            if not is_open:
                raise
            failure = failure_of(error)
            is_anthropic = self._spell is Failure.anthropic
            head = "event: error\n" if is_anthropic else ""
            await write(f"{head}data: {dumps(self._spell(failure))}\n\n".encode())
        await send({"type": "http.response.body", "body": b""})


def _cancel(begun: asyncio.Future[Begun]) -> None:
    """Of a request that was begun after its answer was given up."""
    if not begun.cancelled() and begun.exception() is None:
        begun.result()[1].cancel()


def _answers(running: RunningRequest, parsed: ParsedRequest, client: str) -> Sequence[Answer]:
    answers = running.result()
    if parsed.keep is not None:
        parsed.keep(client, answers)
    return answers


def user_of(given: dict[str, Json]) -> object:
    """The end user that a request names, as OpenAI's and as Anthropic's do."""
    metadata = given.get("metadata")
    return given.get("user") or (metadata.get("user_id") if isinstance(metadata, dict) else None)


async def gone_client(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
