"""The paths of the door that are no jobs: what it is, its counts, its cache, tokens."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypedDict

from starlette.types import Receive, Scope, Send

from ..contracts.errors import BadArgument
from ..contracts.json_values import Json
from ..contracts.params import SamplingParams
from ..contracts.port import GenJob
from . import anthropic, messages, native
from .app import DoorState, answer, body_of, headers_of
from .errors import Refused
from .fields import Fields, are_texts, is_ids, parse
from .running import RunningRequest

if TYPE_CHECKING:
    from ..session import Lab

Describe = Callable[[Fields], Awaitable[object]]
CREATED = int(time.time())


class Counts(TypedDict):
    held: int
    """sequences in flight"""
    clients: dict[str, int]
    """the same by client"""
    answered: int
    refused: int


class InfoPath:
    """A path that answers at once. `describe` gets the body, empty for a GET."""

    def __init__(self, state: DoorState, methods: tuple[str, ...], describe: Describe) -> None:
        self._state = state
        self._methods = methods
        self._describe = describe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method not in self._methods:
            allowed = {"Allow": ", ".join(self._methods)}
            raise Refused(405, f"{scope['path']} takes {' or '.join(self._methods)}, not {method}", headers=allowed)
        fields = Fields({})
        if method == "POST":
            body = await body_of(receive, headers_of(scope), self._state.slots)
            self._state.slots.release_bytes(len(body))
            fields = Fields(parse(body) if body.strip() else {})
        found = await self._describe(fields)
        await answer(send, 200, found)


class Paths:
    def __init__(self, lab: Lab, state: DoorState, info: Mapping[str, object]) -> None:
        self._lab = lab
        self._state = state
        self._info = info
        """of the door, for /server_info"""

    async def health(self, fields: Fields) -> bytes:
        self._lab.backend.poll()
        return b""

    async def health_generate(self, fields: Fields) -> bytes:
        """One token through the engine."""
        state = self._state
        prompt = state.model.encode_text("a")
        over = state.loop.create_future()
        job = GenJob(prompt, SamplingParams(max_tokens=1, temperature=0))
        running = RunningRequest(state.model.backend, state.wakes, (job,), streams=False, over=lambda: over.set_result(None))
        await state.aside(running.start, lambda: state.clients.of("health"), "health")
        await running.wait()
        running.result()
        return b""

    async def models(self, fields: Fields) -> object:
        model = self._state.model
        one = {"id": model.name, "object": "model", "created": CREATED, "owned_by": "sgl_lab", "root": model.name, "parent": None}
        one |= {"architecture": {"input_modalities": ["text", *["image"] * model.images.sees]}}
        return {"object": "list", "data": [one | {"max_model_len": model.card.context}]}

    async def model_info(self, fields: Fields) -> object:
        return native.model_info(self._state.model)

    async def server_info(self, fields: Fields) -> object:
        stats = await self._state.aside(self._lab.stats)
        state = {"stats": stats, "memory_usage": {"token_capacity": stats["pages_total"] * self._lab.page_size}}
        return native.model_info(self._state.model) | {
            "served_model_name": self._state.model.name,
            "page_size": self._lab.page_size,
            "status": "ready",
            "version": "sgl_lab",
            "internal_states": [state],
            "door": self.counts(),
            **self._info,
        }

    def counts(self) -> Counts:
        slots = self._state.slots
        return {"held": slots.n_held, "clients": dict(slots.held), "answered": self._state.n_answered, "refused": slots.n_refused}

    async def metrics(self, fields: Fields) -> bytes:
        counts = self.counts()
        own = "".join(
            f"# TYPE sgl_lab_door_{name} {kind}\nsgl_lab_door_{name} {count}\n"
            for count, name, kind in (
                (counts["held"], "held", "gauge"),
                (counts["answered"], "answered_total", "counter"),
                (counts["refused"], "refused_total", "counter"),
            )
        )
        text = await self._state.aside(self._lab.prometheus)
        return (text + own).encode()

    async def flush(self, fields: Fields) -> bytes:
        await self._state.aside(self._lab.flush)
        return b"Cache flushed.\n"

    async def abort(self, fields: Fields) -> object:
        rid = fields.text("rid")
        if not fields.flag("abort_all") and not rid:
            raise BadArgument("abort_request needs rid, or abort_all")
        return {"aborted": self._state.abort(rid or None)}

    async def tokenize(self, fields: Fields) -> object:
        fields.ignore("model", "add_special_tokens", "return_token_strs", "add_generation_prompt")
        tokens = await self._state.aside(self._tokens, fields)
        return {"tokens": tokens, "count": len(tokens), "max_model_len": self._state.model.card.context}

    def _tokens(self, fields: Fields) -> list[int] | list[list[int]]:
        model = self._state.model
        if turns := fields.items("messages"):
            return list(model.encode_chat(messages.read(turns, model.card.tool_style)))
        prompt = fields.any("prompt")
        if isinstance(prompt, str):
            return list(model.encode_text(prompt))
        if are_texts(prompt):
            return [list(model.encode_text(one)) for one in prompt]
        raise BadArgument("prompt must be a string or a list of strings")

    async def count_tokens(self, fields: Fields) -> object:
        model = self._state.model
        model.check_name(fields.text("model"))
        return await self._state.aside(anthropic.count, model, fields)

    async def detokenize(self, fields: Fields) -> object:
        fields.ignore("model", "skip_special_tokens")
        return {"text": await self._state.aside(self._texts, fields.any("tokens"))}

    def _texts(self, tokens: Json) -> str | list[str]:
        if isinstance(tokens, list) and all(isinstance(one, list) for one in tokens) and tokens:
            return [self._text(one) for one in tokens]
        return self._text(tokens)

    def _text(self, tokens: Json) -> str:
        n_vocab = self._state.model.card.vocab
        if tokens == []:
            return ""
        if not is_ids(tokens) or not all(0 <= one < n_vocab for one in tokens):
            raise BadArgument(f"tokens must be a list of token ids below {n_vocab}, or a list of such lists")
        return self._state.model.backend.decode(tokens)
