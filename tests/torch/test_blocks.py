"""Embedded blocks are computed: embeddings that are given take the place of those of tokens."""

from __future__ import annotations

import ctypes
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sgl_lab as sgl
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument
from sgl_lab.contracts.events import PrefixMatched
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput, WarmJob
from sgl_lab.contracts.spans import Block, Content
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.executors import GPU, NATIVE, check_block
from sgl_lab.engine.compute.models.load import LoadedModel
from sgl_lab.engine.compute.runners.choose import make_runner
from sgl_lab.engine.compute.runners.native import NativeRunner
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.tools.fake import ByteTokenizer
from sgl_lab.lang.expressions import Embedded, Text
from sgl_lab.lang.state import start

from ..pure.driving import Fold, Listener
from .tiny import VOCAB, Sequences, load_tiny, scores, tokens, write_tiny

N = 9
DIGEST = "c0ffee0123456789"


class Tokens(ByteTokenizer):
    """As many as the tiny model has."""

    n_vocab = VOCAB
    eos_ids = frozenset({VOCAB - 1})
    special_ids = frozenset({VOCAB - 1})


def block_of(loaded: LoadedModel, ids: list[int], digest: str = DIGEST) -> Block:
    """A block whose embeddings are those of tokens."""
    rows: torch.Tensor = loaded.model.embedding[ids].float()  # type: ignore[union-attr]
    return Block(Content(digest, len(ids)), memoryview(rows.numpy()))


def rows_with(stand: Sequences, request: int, ids: tuple[int, ...], blocks: tuple[Block, ...], **wanted: Any) -> Any:
    return replace(stand.row(request, ids, **wanted), blocks=blocks)


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("chunks", [(30,), (1,) * 30, (12, 5, 13), (10, 9, 11)])
def test_a_block_with_the_embeddings_of_tokens_computes_what_they_compute(
    tiny: LoadedModel, page_size: int, chunks: tuple[int, ...]
) -> None:
    """Whatever the pages are, and wherever the block is cut."""
    ids = tokens(30)
    block = block_of(tiny, ids[10 : 10 + N])
    prompt = (*ids[:10], *block.ids, *ids[10 + N :])
    stand = Sequences(tiny, page_size)
    wanted, found, at = scores(stand.run(stand.row(1, ids, n_targets=30))[0]), [], 0
    for n in chunks:
        found.append(scores(stand.run(rows_with(stand, 2, prompt[at : at + n], (block,), n_targets=n))[0]))
        at += n
    torch.testing.assert_close(torch.cat(found), wanted, rtol=0, atol=2e-5)


def test_blocks_of_several_rows_and_plain_rows_go_through_one_step(tiny: LoadedModel) -> None:
    ids, others = tokens(20), tokens(20, seed=2)
    first, second = block_of(tiny, ids[3:8]), block_of(tiny, others[1:9], "d0d0cafe98765432")
    stand = Sequences(tiny, 4)
    plain = [scores(output) for output in stand.run(stand.row(1, ids, n_targets=20), stand.row(2, others, n_targets=20))]
    mixed = stand.run(
        rows_with(stand, 3, (*ids[:3], *first.ids, *ids[8:]), (second, first), n_targets=20),
        stand.row(4, others, n_targets=20),
        rows_with(stand, 5, (others[0], *second.ids, *others[9:]), (second,), n_targets=20),
    )
    for output, wanted in zip(mixed, (plain[0], plain[1], plain[1]), strict=True):
        torch.testing.assert_close(scores(output), wanted, rtol=0, atol=2e-5)


def test_given_embeddings_are_not_scaled_again(tiny: LoadedModel) -> None:
    """Where a model scales its embeddings, what is given stands after the scale, as a vision tower's projection does."""
    model = copy(tiny.model)
    assert isinstance(model, Decoder)
    model.spec = replace(model.spec, embedding_scale=3.0)
    ids = tokens(12)
    block = Block(Content(DIGEST, 5), memoryview((model.embedding[ids[4:9]] * 3).numpy()))
    stand = Sequences(tiny, 1, runner=TorchRunner(model, 512))
    wanted = scores(stand.run(stand.row(1, ids, n_targets=12))[0])
    found = scores(stand.run(rows_with(stand, 2, (*ids[:4], *block.ids, *ids[9:]), (block,), n_targets=12))[0])
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


class Stand:
    """An engine over the tiny model."""

    def __init__(self, loaded: LoadedModel, page_size: int = 1, **config: int) -> None:
        chosen = EngineConfig(**({"n_pages": 256 // page_size, "page_size": page_size} | config))
        self.fold = Fold()
        runner = TorchRunner(loaded.model, chosen.n_pages, page_size)  # type: ignore[arg-type]
        self.engine = Engine(chosen, runner, Tokens(), context=256, namespace=("tiny",), emit=self.fold)

    def gen(self, prompt: tuple[int, ...], *blocks: Block, exact: bool = False) -> GenOutput:
        listener = Listener()
        params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, logprobs=True)
        self.engine.add(self.engine.gen(GenJob(prompt, params, blocks=blocks), listener, exact=exact))
        return self.drained(listener)

    def drained(self, listener: Listener) -> GenOutput:
        while self.engine.step():
            pass
        self.engine.check()
        return listener.output

    @property
    def hits(self) -> list[int]:
        return [event.n_hit for event in self.fold.of(PrefixMatched)]


def sampled(output: GenOutput) -> list[tuple[int, float]]:
    return [(entry.token, entry.logprob or 0.0) for entry in output.logprobs]


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_block_is_found_again_by_its_digest_and_no_other_is_taken_for_it(tiny: LoadedModel, page_size: int) -> None:
    ids = tokens(24)
    block, other = block_of(tiny, ids[8 : 8 + N]), block_of(tiny, tokens(N, seed=5), "d0d0cafe98765432")
    prompts = [(*ids[:8], *one.ids, *ids[8 + N :]) for one in (block, other)]
    stand = Stand(tiny, page_size)
    first, again, wrong = (stand.gen(prompts[i], block, other) for i in (0, 0, 1))
    assert stand.hits == [0, 23, 8]
    assert first.ids == again.ids == stand.gen(tuple(ids)).ids
    assert stand.hits[3] == 8, "the tokens are not the block, although they compute the same"
    fresh = Stand(tiny, page_size).gen(prompts[1], other)
    assert wrong.ids == fresh.ids
    assert [logprob for _, logprob in sampled(wrong)] == pytest.approx([logprob for _, logprob in sampled(fresh)], abs=2e-5)
    assert sampled(wrong) != sampled(first)


def test_forks_after_a_block_share_it(tiny: LoadedModel) -> None:
    ids = tokens(20)
    block = block_of(tiny, ids[8 : 8 + N])
    stand = Stand(tiny)
    warm = Listener()
    stem = (*ids[:8], *block.ids)
    stand.engine.add(stand.engine.warm(WarmJob(stem, blocks=(block,)), warm))
    while stand.engine.step():
        pass
    for end in ((3, 4), (5,)):
        forked = stand.gen((*stem, *end), block)
        assert stand.hits[-1] == len(stem)
        assert forked.ids == Stand(tiny).gen((*ids[: 8 + N], *end)).ids


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_block_is_exact_where_tokens_are(tiny: LoadedModel, page_size: int) -> None:
    """The same bits whole, in chunks, and from the cache; and those of the tokens whose embeddings it has."""
    ids = tokens(24)
    block = block_of(tiny, ids[8 : 8 + N])
    prompt = (*ids[:8], *block.ids, *ids[8 + N :])
    whole, pieces = Stand(tiny, page_size), Stand(tiny, page_size, step_tokens=5, max_rows=4)
    wanted = sampled(whole.gen(tuple(ids), exact=True))
    assert [sampled(stand.gen(prompt, block, exact=True)) for stand in (whole, whole, pieces)] == [wanted] * 3


def test_embeddings_that_do_not_fit_are_refused(tiny: LoadedModel) -> None:
    stand = Stand(tiny)
    content = Content(DIGEST, 4)
    hidden = tiny.model.spec.hidden
    for rows, says in (
        (None, "are missing"),
        (np.zeros((4, hidden + 1), np.float32), "shape"),
        (np.zeros((3, hidden), np.float32), "shape"),
        (np.zeros((4, hidden), np.float64), "type 'd'"),
        (np.zeros((hidden, 4), np.float32).T, "shape"),
    ):
        block = Block(content, None if rows is None else memoryview(rows))
        with pytest.raises(BadArgument, match=says):
            stand.gen((1, 2, *block.ids), block)


def test_read_only_embeddings_are_read(tiny: LoadedModel) -> None:
    ids = tokens(12)
    block = block_of(tiny, ids[2:7])
    frozen = Block(block.content, memoryview(bytes(block.embeddings or b"")).cast("f", (5, tiny.model.spec.hidden)))
    assert Stand(tiny).gen((*ids[:2], *frozen.ids, *ids[7:]), frozen).ids == Stand(tiny).gen(tuple(ids)).ids


@pytest.mark.parametrize(("executor", "name"), [(NATIVE, "the native step"), (GPU, "the GPU step")])
def test_what_computes_no_blocks_says_so_by_name(tiny: LoadedModel, executor: Any, name: str) -> None:
    with pytest.raises(BackendUnsupported, match=f"{name} does not compute embedded blocks, such as this image") as refused:
        check_block(block_of(tiny, [1, 2]), tiny.model.spec, executor)
    assert refused.value.hint


def test_a_program_on_a_lab_says_after_a_block_what_it_says_after_its_tokens(tiny_folder: Path) -> None:
    """With a fork, a pin, a record, and the text of what stands there."""
    with sgl.Lab(str(tiny_folder), dtype="float32", device="cpu", cache_tokens=512) as lab:
        ids = lab.backend.encode("there")
        loaded = load_tiny(tiny_folder)
        block = block_of(loaded, list(ids))

        def sampled(content: object) -> tuple[str, str]:
            s = start(lab.backend, lab.emit)
            s += "see " + content  # type: ignore[operator]
            (fork,) = s.fork(1)
            for state in (fork, s):
                state += " now!" + sgl.gen("a", max_tokens=5, temperature=0, ignore_eos=True)
            lab.pin(s)
            assert s.prompt("a") == s.text()[: -len(s["a"])]
            return fork["a"], s["a"]

        with lab.record("look") as record:
            answers = sampled(Embedded(block))
        assert answers == sampled(Text("there"))
        assert [record.spell(token) for token in block.ids] == [f"[▣ image {len(ids)} positions]"] + [""] * (len(ids) - 1)
        lab.check()


def test_the_native_step_refuses_a_block(tmp_path: Path, library: ctypes.CDLL) -> None:
    runner = make_runner(load_tiny(write_tiny(tmp_path / "tiny", head_dim=32), "int8").model, library, 16)
    assert isinstance(runner, NativeRunner)
    with pytest.raises(BackendUnsupported, match="the native step does not compute embedded blocks"):
        runner.check_block(Block(Content(DIGEST, 4)))
    runner.close()
