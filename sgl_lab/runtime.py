"""A lab under the names with which programs for the original start a model: `Runtime` and `Engine`.

Both run in this process: there is no server, no port and no other process. Knows no IPython.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Self, TypeAlias

from .contracts.errors import BackendUnsupported, BadArgument, UnknownArgument
from .contracts.near import did_you_mean
from .contracts.port import Backend
from .lang.backend.base_backend import BaseBackend
from .lang.chat_template import get_chat_template
from .lang.expressions import Gen, Select
from .lang.state import ProgramState, start
from .lang.surface import gen
from .lang.usage import TokenUsage
from .session import BUILT_IN, Lab

_AS_LAB = {
    "model_path": "model",
    "model": "model",
    "device": "device",
    "dtype": "dtype",
    "max_total_tokens": "cache_tokens",
    "page_size": "page_size",
    "schedule_policy": "schedule",
    "radix_eviction_policy": "evict",
    "random_seed": "seed",
    "enable_deterministic_inference": "deterministic",
}
"""Arguments of the original and the matching ones of `Lab`. Other arguments of `Lab` are accepted
as they are.
"""

_DTYPES = {"auto": None, "half": "bfloat16", "float16": "bfloat16", "bfloat16": "bfloat16", "float": "float32", "float32": "float32"}

_WITHOUT_MEANING = frozenset(
    (
        "allow_auto_truncate",
        "api_key",
        "attention_backend",
        "base_gpu_id",
        "chunked_prefill_size",
        "constrained_json_whitespace_pattern",
        "context_length",
        "cpu_offload_gb",
        "cuda_graph_bs",
        "cuda_graph_max_bs",
        "disable_cuda_graph",
        "disable_cuda_graph_padding",
        "disable_custom_all_reduce",
        "disable_overlap_schedule",
        "download_dir",
        "dp_size",
        "enable_cache_report",
        "enable_metrics",
        "enable_mixed_chunk",
        "enable_p2p_check",
        "enable_torch_compile",
        "grammar_backend",
        "host",
        "kv_cache_dtype",
        "load_format",
        "log_level",
        "log_level_http",
        "log_requests",
        "max_prefill_tokens",
        "max_queued_requests",
        "max_running_requests",
        "mem_fraction_static",
        "nccl_port",
        "nnodes",
        "node_rank",
        "port",
        "pp_size",
        "reasoning_parser",
        "revision",
        "sampling_backend",
        "schedule_conservativeness",
        "served_model_name",
        "show_time_cost",
        "skip_server_warmup",
        "skip_tokenizer_init",
        "stream_interval",
        "stream_output",
        "tensor_parallel_size",
        "tokenizer_mode",
        "tokenizer_path",
        "tokenizer_worker_num",
        "tool_call_parser",
        "torch_compile_max_bs",
        "tp_size",
        "trust_remote_code",
        "watchdog_timeout",
    )
)
"""Arguments for a server and its processes, which a lab does not have."""


def _lab_of(arguments: Mapping[str, object]) -> Lab:
    lab: dict[str, object] = {}
    for name, value in arguments.items():
        if name == "dtype" and isinstance(value, str) and value in _DTYPES:
            value = _DTYPES[value]
        if name not in _WITHOUT_MEANING:
            lab[_AS_LAB.get(name, name)] = value
    if ignored := sorted(name for name in arguments.keys() & _WITHOUT_MEANING if name != "log_level"):
        warnings.warn(f"{', '.join(ignored)}: ignored, because the model runs in this process", stacklevel=3)
    known = inspect.signature(Lab).parameters
    if unknown := [name for name in lab if name not in known]:
        raise UnknownArgument(f"there is no argument {unknown[0]!r}", hint=did_you_mean(unknown[0], {**_AS_LAB, **known}))
    make: Callable[..., Lab] = Lab
    return make(**lab)


Sampling: TypeAlias = Mapping[str, object] | Sequence[Mapping[str, object]] | None
"""sampling parameters of all prompts, or of each"""


class Engine:
    """A model in this process that completes prompts: `Engine(model_path="smollm2").generate("The
    capital of France is")`.

    It accepts the arguments of `Lab`, and those of the original that apply here (half precision is
    bfloat16). `chat_template` is the name of a registered template. `endpoint` is the backend, for
    programs.
    """

    def __init__(self, model_path: str = BUILT_IN, *, chat_template: str | None = None, **arguments: object) -> None:
        template = None if chat_template is None else get_chat_template(chat_template)
        self.lab = _lab_of({"model_path": model_path, **arguments})
        self.endpoint: BaseBackend = self.lab.backend
        self.endpoint.chat_template = template

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} has no {name!r}: the model runs in this process, without a server")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    @property
    def token_usage(self) -> TokenUsage:
        """Prompt and completion tokens since the start."""
        return self.endpoint.token_usage

    @property
    def model_info(self) -> dict[str, object]:
        """What a server answers to /get_model_info."""
        return self.endpoint.model_info

    def get_model_name(self) -> str:
        """The name of the model."""
        return self.endpoint.get_model_name()

    def get_tokenizer(self) -> Backend:
        """An object with `encode(text)` and `decode(ids)`."""
        return self.endpoint

    def cache_prefix(self, prefix: str) -> None:
        """Compute a text and keep it in the cache, until it is evicted."""
        self.endpoint.cache_prefix(prefix)

    def flush_cache(self) -> None:
        """Empty the cache; requests that run keep what they use."""
        self.lab.flush()

    def get_server_info(self) -> dict[str, object]:
        """The model, the settings and the engine's counts."""
        return self.endpoint.get_server_info() | {"stats": self.lab.stats()}

    def encode(self, prompt: object) -> NoReturn:
        """BackendUnsupported: the engine has no embeddings."""
        raise BackendUnsupported("this engine has no embeddings", hint="use generate() for a model that generates")

    def shutdown(self) -> None:
        """Stop the engine and free its memory."""
        self.lab.close()

    # ------------------------------------------------------------ completions

    def generate(
        self,
        prompt: str | Sequence[str],
        sampling_params: Sampling = None,
        *,
        return_logprob: bool | None = None,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        stream: bool = False,
    ) -> Any:
        """Complete a prompt. Returns `{"text", "output_ids", "meta_info"}`, or a list of them for a
        list of prompts or for several samples.

        A stream yields the same repeatedly, with the text so far, and accepts one prompt.
        `sampling_params` uses the original's names (`max_new_tokens`, `temperature`, `stop`,
        `regex`, `json_schema`, ...), once for all prompts or once per prompt. BadArgument for an
        unknown or unsupported parameter.
        """
        logprobs = {"return_logprob": return_logprob, "logprob_start_len": logprob_start_len, "top_logprobs_num": top_logprobs_num}
        states = self._begin(prompt, sampling_params, logprobs)
        if stream:
            return _followed(_only(states))
        outputs = [output for state in states for output in _outputs(state)]
        return outputs[0] if isinstance(prompt, str) and len(outputs) == 1 else outputs

    async def async_generate(
        self,
        prompt: str | Sequence[str],
        sampling_params: Sampling = None,
        *,
        return_logprob: bool | None = None,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        stream: bool = False,
    ) -> Any:
        """Like `generate`, to be awaited. A stream is for `async for`."""
        logprobs = {"return_logprob": return_logprob, "logprob_start_len": logprob_start_len, "top_logprobs_num": top_logprobs_num}
        states = self._begin(prompt, sampling_params, logprobs)
        if stream:
            return _followed_async(_only(states))
        for state in states:
            await state.get(_NAME)
        outputs = [output for state in states for output in _outputs(state)]
        return outputs[0] if isinstance(prompt, str) and len(outputs) == 1 else outputs

    def _begin(self, prompt: str | Sequence[str], sampling: Sampling, logprobs: Mapping[str, object]) -> list[ProgramState]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts or not all(isinstance(one, str) for one in prompts):
            raise BadArgument(f"a prompt is a text or a list of texts, not {prompt!r:.60}")
        given = [sampling or {}] * len(prompts) if sampling is None or isinstance(sampling, Mapping) else list(sampling)
        if len(given) != len(prompts):
            raise BadArgument(f"{len(given)} sampling_params for {len(prompts)} prompts", hint="give one, or one per prompt")
        states = []
        make: Callable[..., Gen | Select] = gen
        for one, params in zip(prompts, map(_as_gen, given), strict=True):
            state = start(self.endpoint, self.lab.emit)
            state += one + make(_NAME, **params, **logprobs)
            states.append(state)
        return states


_NAME = "text"
_RENAMED = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
_HARMLESS = {"skip_special_tokens": True, "spaces_between_special_tokens": True, "repetition_penalty": 1.0, "no_stop_trim": False}
"""Parameters of the original that a gen does not have, with the one value that is accepted because
it changes nothing.
"""


def _as_gen(params: Mapping[str, object]) -> dict[str, object]:
    """The sampling parameters of a request as arguments of a gen."""
    found: dict[str, object] = {}
    for name, value in params.items():
        if name in _HARMLESS:
            if value is not None and value != _HARMLESS[name]:
                raise BackendUnsupported(f"sampling_params: {name}={value!r} is not supported here", hint=f"leave out {name}")
        else:
            found[_RENAMED.get(name, name)] = value
    known = inspect.signature(gen).parameters
    if unknown := [name for name in found if name not in known]:
        raise UnknownArgument(f"sampling_params: there is no {unknown[0]!r}", hint=did_you_mean(unknown[0], {**_RENAMED, **known}))
    return found


def _only(states: list[ProgramState]) -> ProgramState:
    if len(states) != 1:
        raise BadArgument(f"a stream follows one prompt, not {len(states)}", hint="call generate(..., stream=True) once per prompt")
    return states[0]


def _outputs(state: ProgramState) -> list[dict[str, Any]]:
    """One output per sample."""
    texts, metas = state[_NAME], state.get_meta_info(_NAME)
    if isinstance(texts, str):
        texts, metas = [texts], [metas]
    ids = state._stream.variables[_NAME].ids
    return [{"text": text, "output_ids": list(its_ids), "meta_info": meta} for text, its_ids, meta in zip(texts, ids, metas, strict=True)]


def _followed(state: ProgramState) -> Iterator[dict[str, Any]]:
    text = ""
    for piece in state.text_iter(_NAME):
        text += piece
        yield {"text": text, "meta_info": {"finish_reason": None}}
    yield _outputs(state)[0]


async def _followed_async(state: ProgramState) -> AsyncIterator[dict[str, Any]]:
    text = ""
    async for piece, meta in state.text_async_iter(_NAME, return_meta_data=True):
        text += piece
        yield {"text": text, "meta_info": meta}


class Runtime(Engine):
    """`sgl.Runtime(model_path="smollm2")`: a model in this process, for `sgl.set_default_backend`
    and `backend=`.

    As in the original, `generate` returns JSON text and `async_generate` streams. `endpoint` is the
    backend.
    """

    def generate(self, prompt: str | Sequence[str], sampling_params: Sampling = None, **logprobs: Any) -> str:
        outputs = super().generate(prompt, sampling_params, **logprobs)
        for output in outputs if isinstance(outputs, list) else [outputs]:
            output["meta_info"]["finish_reason"] = dict(output["meta_info"]["finish_reason"])
        return json.dumps(outputs)

    async def async_generate(self, prompt: str, sampling_params: Sampling = None, **logprobs: Any) -> AsyncIterator[str]:  # type: ignore[override]  # as the original's
        """The text in pieces."""
        (state,) = self._begin(prompt, sampling_params, logprobs)
        async for piece in state.text_async_iter(_NAME):
            yield piece

    add_request = async_generate
