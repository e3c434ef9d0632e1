"""SGLang's own paths: /generate and what belongs to it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from ..contracts.errors import BadArgument
from ..contracts.json_values import Json
from ..contracts.params import SamplingParams
from ..contracts.port import GenJob, GenOutput, TokenLogprob
from ..lang.finish import FinishReason
from . import sampling
from .fields import Fields, are_texts, is_ids
from .images import IMAGE
from .parsed import DONE, Answer, Model, ParsedRequest, Piece, frame

ABSENT = (
    *("video_data", "audio_data", "input_embeds", "session_params", "lora_path", "lora_id", "custom_logit_processor"),
    *("token_ids_logprob", "return_hidden_states", "return_bytes", "return_entropy", "bootstrap_host", "bootstrap_port", "bootstrap_room"),
)
HARMLESS = (
    "log_metrics",
    "no_logs",
    "priority",
    "modalities",
    "conversation_id",
    "data_parallel_rank",
    "background",
    "extra_key",
    "custom_labels",
)

WHOLE = {"ids_are_whole": True}
"""in the meta info: each frame of a stream has all output_ids so far, without those that a stop cut off"""
Row = tuple[float | None, int, str | None]
"""logprob, token, its text"""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LogprobOptions:
    """Of the logprobs of one prompt."""

    returns: bool
    start: int
    """first position of the prompt that is reported; beyond it for none"""
    top: int
    with_text: bool


def read(model: Model, fields: Fields) -> ParsedRequest:
    prompts, is_batch = _prompts(model, fields)
    n = len(prompts)
    given = _each(fields.any("sampling_params") or {}, n, dict, "sampling_params")
    returns = _each(fields.any("return_logprob") or False, n, bool, "return_logprob")
    starts = _each(-1 if (value := fields.any("logprob_start_len")) is None else value, n, int, "logprob_start_len")
    tops = _each(fields.any("top_logprobs_num") or 0, n, int, "top_logprobs_num")
    with_text = fields.flag("return_text_in_logprobs")
    streams, rid = fields.flag("stream"), fields.any("rid")
    for name in ABSENT:
        fields.only(name, False, [], "")
    fields.ignore(*HARMLESS)
    jobs, options = [], []
    for number, prompt in enumerate(prompts):
        blocks = model.images.blocks(prompt)
        params = _params(Fields(given[number], "sampling_params."))
        start = starts[number]
        if start < 0:
            # a request without new tokens asks for its prompt, as clients of earlier servers expect
            start = 0 if params.max_tokens == 0 else len(prompt) - 1
        option = LogprobOptions(returns[number], start, tops[number], with_text)
        if option.returns:
            if start >= len(prompt) and params.max_tokens:
                raise BadArgument(f"logprob_start_len must be less than the prompt's {len(prompt)} tokens, not {start}")
            params = replace(params, logprobs=True, top_logprobs=option.top, prompt_logprobs_from=min(start, len(prompt)))
        if params.max_tokens == 0 and not option.returns:
            params = replace(params, prompt_logprobs_from=len(prompt) - 1)  # so that the prompt is computed, and cached
        jobs.append(GenJob(prompt, params, blocks=blocks))
        options.append(option)
    if streams and n > 1 and any(job.params.n > 1 for job in jobs):
        raise BadArgument("a stream of several prompts has one sample of each", hint="leave out n, or send a request for each prompt")
    reply = GenerateReply(model, jobs, options, is_batch, _rids(rid, n))
    return ParsedRequest(tuple(jobs), reply, streams, rid if isinstance(rid, str) else None)


def _prompts(model: Model, fields: Fields) -> tuple[list[tuple[int, ...]], bool]:
    """With images in their places: `<image>` in a text, or its token."""
    given, is_batch = _texts_or_ids(fields)
    data = fields.any("image_data")
    if data in (None, [], ""):
        return [model.encode_text(one) if isinstance(one, str) else one for one in given], is_batch
    if is_batch and not (isinstance(data, list) and len(data) == len(given)):
        raise BadArgument(f"image_data must be a list with the images of each of the {len(given)} prompts")
    several = data if is_batch and isinstance(data, list) else [data]
    return [_with_images(model, one, images) for one, images in zip(given, several, strict=True)], is_batch


def _texts_or_ids(fields: Fields) -> tuple[Sequence[str | tuple[int, ...]], bool]:
    text, ids = fields.any("text"), fields.any("input_ids")
    if (text is None) == (ids is None):
        raise BadArgument("a request has either text or input_ids", hint='such as {"text": "The capital of France is"}')
    if isinstance(text, str):
        return [text], False
    if text is not None:
        if not text or not are_texts(text):
            raise BadArgument(f"text must be a string or a list of strings, not {text!r:.60}")
        return text, True
    if is_ids(ids):
        return [tuple(ids)], False
    if isinstance(ids, list) and ids:
        found = [tuple(one) for one in ids if is_ids(one)]
        if len(found) == len(ids):
            return found, True
    raise BadArgument(f"input_ids must be a list of token ids, or a list of such lists, not {ids!r:.60}")


def _with_images(model: Model, prompt: str | tuple[int, ...], given: Json) -> tuple[int, ...]:
    images = [one for one in (given if isinstance(given, list) else [given]) if one not in (None, "")]
    mark = model.image_token
    n = prompt.count(IMAGE) if isinstance(prompt, str) else prompt.count(mark) if mark is not None else 0
    if n != len(images):
        message = f"image_data has {len(images)} images, and the prompt has {n} places for them"
        raise BadArgument(message, hint=f"write {IMAGE} where each of them is")
    if isinstance(prompt, str):
        parts = prompt.split(IMAGE)
        marks = [model.images.mark(one, f"image_data[{i}]") for i, one in enumerate(images)]
        return model.encode_text("".join(part + mark for part, mark in zip(parts, [*marks, ""], strict=True)))
    rest = iter([model.images.see(one, f"image_data[{i}]") for i, one in enumerate(images)])
    return tuple(id for token in prompt for id in (next(rest).ids if token == mark else (token,)))


def _each(value: Json, n: int, kind: type[T], name: str) -> list[T]:
    """One value for each prompt, from one for all or a list."""
    values = value if isinstance(value, list) else [value] * n
    if len(values) != n:
        raise BadArgument(f"{len(values)} {name} for {n} prompts", hint="give one, or one for each prompt")
    found = []
    for one in values:
        if not isinstance(one, kind) or (kind is int and isinstance(one, bool)):
            raise BadArgument(f"{name} cannot be {one!r:.60}")
        found.append(one)
    return found


def _rids(given: Json, n: int) -> list[str]:
    names = given if isinstance(given, list) else [given] * n
    return [name if isinstance(name, str) and name else secrets.token_hex(16) for name in names]


def _params(fields: Fields) -> SamplingParams:
    most, seed = fields.whole("max_new_tokens"), fields.whole("sampling_seed")
    least = fields.whole("min_new_tokens")
    fields.only("spaces_between_special_tokens", True)
    fields.only("no_stop_trim", False)
    fields.only("structural_tag")
    fields.ignore("custom_params", "stream_interval")
    given = {"max_tokens": 128 if most is None else most}
    if seed is not None:
        given["seed"] = seed
    if least is not None:
        given["min_tokens"] = min(least, given["max_tokens"])
    params = sampling.read(fields, None, **given)
    fields.done()
    return params


class GenerateReply:
    def __init__(
        self, model: Model, jobs: Sequence[GenJob], options: Sequence[LogprobOptions], is_batch: bool, rids: Sequence[str]
    ) -> None:
        self._model = model
        self._jobs = jobs
        self._options = options
        self._is_batch = is_batch
        self._rids = rids
        self._so_far: dict[tuple[int, int], tuple[list[str], list[int]]] = {}

    def whole(self, answers: Sequence[Answer]) -> object:
        outputs = [self._output(number, output) for number, answer in enumerate(answers) for output in cast(tuple[GenOutput, ...], answer)]
        return outputs if self._is_batch or len(outputs) > 1 else outputs[0]

    def _output(self, number: int, output: GenOutput) -> dict[str, object]:
        usage, option = output.usage, self._options[number]
        reason = FinishReason.of(output.finish_reason, usage.completion_tokens, output.matched_stop)
        meta: dict[str, object] = {
            "id": self._rids[number],
            "finish_reason": dict(reason.details),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "computed_tokens": usage.computed_tokens,
            "e2e_latency": usage.total_s,
            "queue_time": usage.queue_s,
            **WHOLE,
        }
        if option.returns:
            output_rows = self._logprobs_of(output.logprobs, option)
            # as SGLang tells it: the first position of the prompt has no logprob
            of_prompt = [one if i else replace(one, logprob=None, top=()) for i, one in enumerate(output.prompt_logprobs)]
            prompt_rows = self._logprobs_of(of_prompt, option)
            meta |= {"input_token_logprobs": prompt_rows[0], "output_token_logprobs": output_rows[0]}
            meta["output_token_logprobs_length"] = len(output_rows[0])
            if option.top:
                meta |= {"input_top_logprobs": prompt_rows[1], "output_top_logprobs": output_rows[1]}
        return {"text": output.text, "output_ids": list(output.ids), "meta_info": meta}

    def _logprobs_of(self, entries: Sequence[TokenLogprob], option: LogprobOptions) -> tuple[list[Row], list[list[Row] | None]]:
        def spelled(token: int, logprob: float | None) -> Row:
            return logprob, token, self._model.spell(token) if option.with_text else None

        tokens = [spelled(entry.token, entry.logprob) for entry in entries]
        return tokens, [[spelled(token, logprob) for token, logprob in entry.top] or None for entry in entries]

    # ------------------------------------------------------------ a stream

    def opening(self) -> bytes:
        return b""

    def piece(self, piece: Piece) -> bytes:
        texts, ids = self._so_far.setdefault((piece.job, piece.sample), ([], []))
        texts.append(piece.text)
        ids += piece.ids
        meta = {
            "id": self._rids[piece.job],
            "finish_reason": None,
            "prompt_tokens": len(self._jobs[piece.job].prompt),
            "completion_tokens": len(ids),
            "cached_tokens": piece.n_cached,
            **WHOLE,
        }
        return frame({"text": "".join(texts), "output_ids": ids, "meta_info": meta} | self._place(piece.job, piece.sample))

    def closing(self, answers: Sequence[Answer]) -> bytes:
        frames = [
            frame(self._output(number, output) | self._place(number, index))
            for number, answer in enumerate(answers)
            for index, output in enumerate(cast(tuple[GenOutput, ...], answer))
        ]
        return b"".join((*frames, DONE))

    def _place(self, number: int, index: int) -> dict[str, int]:
        if self._is_batch:
            return {"index": number}
        return {"index": index} if self._jobs[number].params.n > 1 else {}


def model_info(model: Model) -> dict[str, object]:
    return {
        "model_path": model.card.name,
        "tokenizer_path": model.card.name,
        "is_generation": True,
        "preferred_sampling_params": None,
        "weight_version": "default",
        "has_image_understanding": model.images.sees,
        "image_positions": model.card.image_positions,
        "has_audio_understanding": False,
        "model_type": None,
        "max_context_length": model.card.context,
        "dtype": model.card.dtype,
        "device": model.card.device,
    }
