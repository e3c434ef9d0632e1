"""Embedded blocks: their ids, the cache and the scheduler over them, programs that hold them, records and views of these."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, ProgramError
from sgl_lab.contracts.events import CellFinished, CellStarted, PrefixMatched, StreamExtended
from sgl_lab.contracts.ids import RequestId, RunId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, ModelCard, ScoreJob, WarmJob
from sgl_lab.contracts.spans import (
    MAX_POSITIONS,
    OBJECT,
    Block,
    Content,
    block_position,
    blocks_in,
    first_id,
    has_blocks,
    is_inside,
    shown_at,
    spelled,
)
from sgl_lab.engine.plan import Plan, Row, RowOutput
from sgl_lab.engine.serving.cache.pool import PagePool
from sgl_lab.engine.serving.cache.tree import RadixTree
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.tools.fake import ByteTokenizer, HashRunner
from sgl_lab.lang.expressions import Embedded
from sgl_lab.trace import Record, Ring, read_jsonl, write_jsonl
from sgl_lab.trace.record import RecordUnreadable
from sgl_lab.viz.draw import inspection as draw_inspection
from sgl_lab.viz.draw import still, text
from sgl_lab.viz.draw.streams import without_pictures
from sgl_lab.viz.replay import Abridged, frames
from sgl_lab.viz.views import views_of
from sgl_lab.viz.views.inspection import inspections
from sgl_lab.viz.views.pictures import MOST, Pictures

from .driving import Bench, Listener, bench, expect_idle
from .language import streams_of, watchdog  # noqa: F401

CAT, DOG = (Block(Content(digest * 4, 9)) for digest in ("c0ffee0123456789", "d0d0cafe98765432"))
BEFORE, AFTER = tuple(b"What is on "), tuple(b" here?")
GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
CHIP = "[▣ image 9 positions]"


# ---------------------------------------------------------------- ids


def test_an_id_says_which_content_and_which_position() -> None:
    assert [block_position(token) for token in CAT.ids] == [(CAT.content, offset) for offset in range(9)]
    assert max(CAT.ids) < -1
    assert min(CAT.ids) > -(2**53)
    assert not {*CAT.ids} & {*DOG.ids}
    assert Block(Content(CAT.content.digest, 9)).ids == CAT.ids
    assert [is_inside(token) for token in (7, *CAT.ids[:3])] == [False, False, True, True]
    assert (block_position(5), block_position(CAT.ids[-1] - 1), block_position(-1)) == (None, None, None)
    assert shown_at(CAT.ids[0]) == CHIP
    assert shown_at(CAT.ids[1]) == ""
    assert CAT.content.title == "c0ffee"


def test_contents_whose_digests_begin_alike_never_share_an_id() -> None:
    rng = random.Random(7)
    contents = [Content("abad1dea" + rng.randbytes(12).hex(), 4) for _ in range(20)]
    contents += [Content(contents[0].digest, 5), Content(contents[0].digest, 4, "audio")]
    ids = [token for content in contents for token in Block(content).ids]
    assert len({*ids}) == len(ids) == 20 * 4 + 5 + 4
    assert [block_position(first_id(content)) for content in contents] == [(content, 0) for content in contents]


def test_the_last_number_is_followed_by_the_first() -> None:
    firsts = [first_id(Content("ffffffff" + f"{n:08x}", 1)) for n in range(3)]
    assert all(-(1 << 53) < first <= -MAX_POSITIONS for first in firsts)
    assert len({*firsts}) == 3


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (("C0FFEE0123456789", 9), "a digest cannot be"),
        (("c0ffee", 9), "a digest cannot be"),
        (("c0ffee0123456789", 0), "cannot have 0 positions"),
        (("c0ffee0123456789", MAX_POSITIONS + 1), "cannot have 1048577 positions"),
        (("c0ffee0123456789", True), "cannot have True positions"),
        (("c0ffee0123456789", 9, "<b>"), "a kind of block cannot be"),
    ],
)
def test_a_content_that_cannot_be_is_refused(fields: tuple[Any, ...], says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        Content(*fields)


def test_blocks_are_found_among_tokens_and_spelled_as_one() -> None:
    rng = random.Random(1)
    for _ in range(200):
        parts: list[tuple[int, ...]] = []
        for _ in range(rng.randrange(6)):
            part = rng.choice((CAT.ids, DOG.ids, CAT.ids[2:7], tuple(b"ab"), tuple(b"x")))
            parts.append(part)
        tokens = tuple(token for part in parts for token in part)
        found = [(tokens[start:end], place.content.digest) for start, end, place in blocks_in(tokens)]
        assert found == [(part, block_position(part[0]).content.digest) for part in parts if part[0] < 0]  # type: ignore[union-attr]
        assert has_blocks(tokens) == bool(found)
        names = {CAT.ids: CHIP, DOG.ids: CHIP, CAT.ids[2:7]: "[▣ image 5 of 9 positions]"}
        units = [unit for part in parts for unit in ([names[part]] if part[0] < 0 else map(chr, part))]
        for n in (0, 1, 3, 100):
            assert spelled(tokens, chr, n) == "".join(units[:n]), (tokens, n)
    with pytest.raises(ValueError, match="the id of no block"):
        list(blocks_in((1, -5)))


# ---------------------------------------------------------------- the cache


def held(tree: RadixTree, *tokens: int) -> int:
    return tree.peek((), tokens).n_tokens


@pytest.mark.parametrize("page_size", [1, 4])
def test_the_cache_tells_blocks_apart_by_their_digests_alone(page_size: int) -> None:
    tree = RadixTree(PagePool(200, page_size))
    cat, dog = (*BEFORE, 0, *CAT.ids, *AFTER), (*BEFORE, 0, *DOG.ids, *AFTER)
    tree.insert((), cat, tree.pool.take(len(cat) // page_size, RequestId(1)), RequestId(1))
    again = Block(Content(CAT.content.digest, 9)).ids
    assert held(tree, *BEFORE, 0, *again, *AFTER) == len(cat) // page_size * page_size
    assert held(tree, *dog) == 12, "what stands before the block is shared, and none of the block"
    tree.insert((), dog, tree.pool.take(len(dog) // page_size, RequestId(1)), RequestId(1))
    assert {len(node.tokens) for node in tree.nodes()} == {0, 12, len(cat) // page_size * page_size - 12}
    assert tree.evict(1) == (len(cat) - 12) // page_size, "positions of a block are evicted as tokens are"


# ---------------------------------------------------------------- the engine


class Watched(HashRunner):
    """Keeps the rows that it computed."""

    def __init__(self, n_pages: int = 1024, page_size: int = 1) -> None:
        super().__init__(n_pages, page_size)
        self.rows: list[Row] = []

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        self.rows += plan.rows
        return super().run(plan)


def ask(b: Bench, *prompt: int, params: SamplingParams = GREEDY, blocks: Sequence[Block] = (CAT, DOG), **job: Any) -> Listener:
    listener = Listener()
    b.engine.add(b.engine.gen(GenJob(prompt, params, blocks=tuple(blocks), **job), listener))
    return listener


def hits(b: Bench) -> list[int]:
    return [event.n_hit for event in b.fold.of(PrefixMatched)]


def test_a_block_is_computed_once_and_found_again_by_its_digest() -> None:
    b = bench()
    prompts = [(*BEFORE, *block.ids, *AFTER) for block in (CAT, CAT, DOG, CAT)]
    answers = []
    for prompt in prompts:
        answers.append(ask(b, *prompt))
        b.drain()
    n = len(prompts[0])
    assert hits(b) == [0, n - 1, len(BEFORE), n - 1]
    outputs = [answer.output.ids for answer in answers]
    assert outputs == [tuple(b.model.reply(prompt, GREEDY, 0, 8)) for prompt in prompts]
    assert outputs[0] == outputs[1] == outputs[3] != outputs[2]
    assert answers[1].output.usage.prompt_tokens == n
    assert answers[1].output.usage.cached_tokens == n - 1
    expect_idle(b)


@pytest.mark.parametrize(("page_size", "step_tokens"), [(1, 4), (4, 8), (16, 16)])
def test_a_block_is_split_over_steps_and_pages_as_text_is(page_size: int, step_tokens: int) -> None:
    runner = Watched(256, page_size)
    b = bench(runner, n_pages=256, page_size=page_size, step_tokens=step_tokens, max_rows=2)
    listener = ask(b, *BEFORE, *CAT.ids, *AFTER)
    b.drain()
    assert listener.output.ids == tuple(b.model.reply((*BEFORE, *CAT.ids, *AFTER), GREEDY, 0, 8))
    assert [len(row.tokens) for row in runner.rows if row.sample is None]
    assert all(row.blocks for row in runner.rows)
    expect_idle(b)


def test_samples_choices_and_what_goes_on_after_a_block_share_it() -> None:
    b = bench()
    prompt = (*BEFORE, *CAT.ids)
    warm = Listener()
    b.engine.add(b.engine.warm(WarmJob(prompt, blocks=(CAT,)), warm))
    b.drain()
    forks = [ask(b, *prompt, *end) for end in (b" a", b" b")]
    score = Listener()
    b.engine.add(b.engine.score(ScoreJob(prompt, ((65, 66), (67,)), blocks=(CAT,)), score))
    samples = ask(b, *prompt, 32, params=replace(GREEDY, n=3))
    b.drain()
    assert all(n >= len(prompt) - 1 for n in hits(b)[1:])
    assert [fork.output.ids for fork in forks] == [tuple(b.model.reply((*prompt, *end), GREEDY, 0, 8)) for end in (b" a", b" b")]
    assert len(samples.answer) == 3
    assert score.answer


def test_a_pinned_block_is_computed_again_with_its_embeddings() -> None:
    runner = Watched()
    b = bench(runner)
    pin = Listener()
    b.engine.add(b.engine.pin(WarmJob((*BEFORE, *CAT.ids), blocks=(CAT,)), pin))
    b.drain()
    runner.rows.clear()
    b.engine.recover(RuntimeError("lost"))
    b.drain()
    assert [row.blocks for row in runner.rows] == [(CAT,)]
    assert b.engine.stats()["pages_pinned"] == len(BEFORE) + 9


def test_penalties_count_text_and_no_position_of_a_block() -> None:
    runner = Watched()
    b = bench(runner)
    ask(b, *BEFORE, *CAT.ids, *AFTER, params=replace(GREEDY, repetition_penalty=1.5))
    b.drain()
    counted = [row.sample.prompt for row in runner.rows if row.sample is not None]
    assert len(counted) == 8
    assert {*counted} == {(*BEFORE, *AFTER)}


def test_logprobs_of_a_prompt_leave_a_block_out() -> None:
    b = bench()
    listener = ask(b, *BEFORE, *CAT.ids, *AFTER, params=replace(GREEDY, prompt_logprobs_from=0))
    b.drain()
    scored = listener.output.prompt_logprobs
    assert tuple(entry.token for entry in scored) == (*BEFORE, *CAT.ids, *AFTER)
    assert [entry.logprob is None for entry in scored] == [True] + [False] * (len(BEFORE) - 1) + [True] * 9 + [False] * len(AFTER)


@pytest.mark.parametrize("source", ["tree", "ngram"])
def test_no_draft_says_positions_of_a_block(source: str) -> None:
    """What followed these tokens before was a block, in the tree or in the prompt itself."""
    runner = Watched()
    b = bench(runner, draft_tokens=16)
    if source == "tree":
        warm = Listener()
        b.engine.add(b.engine.warm(WarmJob((*BEFORE, 33, *CAT.ids), blocks=(CAT,)), warm))
        b.drain()
        prompt: tuple[int, ...] = (*BEFORE, 33)
    else:
        prompt = (*BEFORE, *CAT.ids, 32, *BEFORE)
    listener = ask(b, *prompt)
    b.drain()
    assert listener.output.ids == tuple(b.model.reply(prompt, GREEDY, 0, 8))
    drafted = [token for row in runner.rows for token in row.drafts]
    assert not has_blocks(drafted)


def test_a_text_after_a_block_is_drafted_from_what_followed_it_before() -> None:
    b = bench(draft_tokens=16)
    for _ in range(2):
        listener = ask(b, *BEFORE, *CAT.ids, *AFTER)
        b.drain()
    assert listener.output.usage.accepted_tokens >= 6
    assert listener.output.usage.model_steps == 1


class Plain:
    """A runner that knows of no blocks."""

    is_exact = True

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        raise AssertionError("nothing is run here")

    def copy_page(self, source: int, target: int) -> None: ...

    def close(self) -> None: ...


def test_jobs_with_blocks_that_cannot_be_are_refused_at_once() -> None:
    engine = bench().engine
    whole = (*BEFORE, *CAT.ids)

    def gen(*prompt: int, blocks: tuple[Block, ...] = (CAT,), **job: Any) -> object:
        return engine.gen(GenJob(prompt, GREEDY, blocks=blocks, **job), Listener())

    with pytest.raises(BadArgument, match="positions of a block that the job does not bring"):
        gen(*whole, blocks=(DOG,))
    with pytest.raises(BadArgument, match="positions of a block that the job does not bring"):
        gen(*BEFORE, -5)
    with pytest.raises(BadArgument, match="outside the vocabulary"):
        gen(*whole, 999)
    with pytest.raises(BadArgument, match="the end of the prompt has a token outside the vocabulary"):
        gen(*whole, 32, heal=2)
    with pytest.raises(BadArgument, match="the end of the prompt has a token outside the vocabulary"):
        gen(*whole, begun=1)
    with pytest.raises(BadArgument, match="choice 1 has a token outside the vocabulary"):
        engine.score(ScoreJob(BEFORE, ((1,), CAT.ids), blocks=(CAT,)), Listener())
    plain = bench(Plain()).engine
    with pytest.raises(BackendUnsupported, match="embedded blocks"):
        plain.warm(WarmJob(whole, blocks=(CAT,)), Listener())
    assert plain.warm(WarmJob(BEFORE, blocks=(CAT,)), Listener()), "blocks that the prompt does not have are no matter"


# ---------------------------------------------------------------- programs


def test_a_program_s_block_stands_between_its_texts_and_reaches_the_backend() -> None:
    backend = ScriptedBackend(["a cat", "grey"])
    s = sgl.start(backend)
    s += "What is on " + Embedded(CAT)
    s += " here? "
    s += sgl.gen("what") + " Its colour? " + sgl.gen("colour")
    assert (s["what"], s["colour"]) == ("a cat", "grey")
    assert s.text() == f"What is on {OBJECT} here? a cat Its colour? grey"
    toy = backend.tokenizer
    first, second = backend.jobs_of(GenJob)
    assert first.prompt == (*BEFORE, *CAT.ids, *toy.encode(" here? "))
    assert second.prompt == (*first.prompt, *toy.sampled("a cat"), *toy.encode(" Its colour? "))
    assert first.blocks == second.blocks == s.blocks() == (CAT,)
    assert s.prompt("what") == f"What is on {OBJECT} here? ", "the ids spell the text"
    assert s.get_meta_info("colour")["cached_tokens"] == len(first.prompt) + 4


def test_a_prompt_may_begin_with_a_block() -> None:
    backend = ScriptedBackend("ok", bos=True)
    s = sgl.start(backend)
    s += Embedded(CAT) + Embedded(DOG) + sgl.gen("a")
    assert s.text() == f"{OBJECT}{OBJECT}ok"
    (job,) = backend.jobs_of(GenJob)
    assert job.prompt == (*backend.tokenizer.encode("<s>", markup=True), *CAT.ids, *DOG.ids)


def test_a_chat_template_places_a_block_and_later_turns_keep_it() -> None:
    events: list[Any] = []
    backend = ScriptedBackend(["a cat", "a dog", "both"])
    s = sgl.start(backend, events.append)
    s += sgl.system("Look.")
    s += sgl.user("first: " + Embedded(CAT) + " what?")
    s += sgl.assistant(sgl.gen("a"))
    s += sgl.user(Embedded(DOG) + "and this?")
    s += sgl.assistant(sgl.gen("b"))
    s += sgl.user("Which do you see?")
    s += sgl.assistant(sgl.gen("c"))
    assert (s["a"], s["b"], s["c"]) == ("a cat", "a dog", "both")
    prompts = [job.prompt for job in backend.jobs_of(GenJob)]
    assert prompts[1][: len(prompts[0])] == prompts[0]
    assert prompts[2][: len(prompts[1])] == prompts[1]
    found = [(start, place.content) for start, _, place in blocks_in(prompts[2])]
    assert [content for _, content in found] == [CAT.content, DOG.content]
    assert backend.decode(prompts[2]).count(OBJECT) == 2
    assert all(s.get_meta_info(name)["rewritten_tokens"] == 0 for name in "abc")
    assert [message["content"] for message in s.messages()][1] == f"first: {OBJECT} what?"
    (stream,) = streams_of(events).values()
    assert tuple(stream) == s.token_ids()
    placed = [event for event in events if isinstance(event, StreamExtended) and event.kind == "block"]
    assert [(event.tokens, event.role) for event in placed] == [(CAT.ids, "user"), (DOG.ids, "user")]


def test_a_template_that_leaves_a_block_out_is_an_error_and_no_other_block_takes_its_place() -> None:
    """Two turns of the same text, of which this template shows the last alone."""

    class LastOnly(ScriptedBackend):
        def render_chat(self, messages: Any, *, add_generation_prompt: bool) -> Any:
            users = [message for message in messages if message.role == "user"]
            return super().render_chat(users[-1:], add_generation_prompt=add_generation_prompt)

    backend = LastOnly(["one", "two"])
    s = sgl.start(backend)
    for name, block in (("a", CAT), ("b", DOG)):
        s += sgl.user(Embedded(block) + "what?")
        s += sgl.assistant(sgl.gen(name))
    assert s["a"] == "one"
    with pytest.raises(ProgramError, match="the chat template leaves out an embedded block"):
        s["b"]


def test_forks_share_a_block_and_a_join_brings_it_along() -> None:
    backend = ScriptedBackend("ok")
    s = sgl.start(backend)
    s += "see " + Embedded(CAT)
    forks = s.fork(2)
    forks[0] += " one " + sgl.gen("a")
    forks[1] += Embedded(DOG) + " two " + sgl.gen("a")
    assert [fork["a"] for fork in forks] == ["ok", "ok"]
    (warm,) = backend.jobs_of(WarmJob)
    assert warm.prompt == (*b"see ", *CAT.ids)
    assert warm.blocks == (CAT,)
    assert [fork.get_meta_info("a")["cached_tokens"] for fork in forks] == [len(warm.prompt)] * 2
    forks.join("concate_and_append")
    s += sgl.select("b", ["x", "y"])
    assert s["b"] == "x"
    (score,) = backend.jobs_of(ScoreJob)
    assert [place.content for _, _, place in blocks_in(score.prompt)] == [CAT.content, DOG.content]
    assert {block.content for block in score.blocks} == {CAT.content, DOG.content}


# ---------------------------------------------------------------- records and views


class Stand:
    """A hash model behind the port, and the record of one run of a program on it."""

    def __init__(self) -> None:
        self.ring = Ring()
        config, runner = EngineConfig(n_pages=2048), HashRunner(2048, 1)
        engine = Engine(config, runner, ByteTokenizer(), context=2048, namespace=("m",), emit=self.ring.emit)
        self.resident = Resident(engine, lambda: self.ring.cursor)
        card = ModelCard("hash", ("m",), 2048, ByteTokenizer.n_vocab, "none", "none", replace(TOKEN_LEVEL, chat_template=True))
        self.backend = LocalBackend(self.resident, ByteTokenizer(), card, self.ring.emit)

    def record(self, content: Any) -> Record:
        made = Record(RunId(1))
        stop = self.ring.listen(made.append)
        made.begin(self.resident.snapshot())
        self.ring.emit(CellStarted(made.run, "look", ""))
        state = sgl.start(self.backend, self.ring.emit, made.run)
        state += sgl.user(content)
        state += sgl.assistant(sgl.gen("a", max_tokens=3, temperature=0, ignore_eos=True))
        state["a"]
        state.sync()
        self.ring.emit(CellFinished(made.run, "ok", ""))
        stop()
        made.end(lambda token: ByteTokenizer().decode((token,)))
        return made


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.resident.check()
    stand.resident.close()


@pytest.fixture
def record(stand: Stand) -> Record:
    return stand.record("What is on " + Embedded(CAT) + " here?")


def views(record: Record) -> Any:
    found = views_of(record.scope, record.spell)
    found.tree.load(record.snapshot)
    for entry in record.entries:
        for view in (found.tokens, found.tree, found.lanes, found.metrics):
            view.fold(entry)
    return found


def test_a_record_with_a_block_comes_back_as_it_was(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_jsonl(record, path)
    header = json.loads(path.read_text().splitlines()[0])
    assert header["format"] == "sgl_lab.record/2"
    assert header["blocks"] == {str(CAT.ids[0]): [CAT.content.digest, 9, "image"]}
    back = read_jsonl(path)
    assert (back.entries, back.snapshot, back.vocab) == (record.entries, record.snapshot, record.vocab)
    assert min(back.vocab) >= 0
    assert back.spell(CAT.ids[0]) == CHIP
    assert back.spell(CAT.ids[4]) == ""


def test_a_record_without_blocks_has_the_form_that_it_always_had(stand: Stand, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_jsonl(stand.record("What?"), path)
    header = json.loads(path.read_text().splitlines()[0])
    assert header["format"] == "sgl_lab.record/1"
    assert "blocks" not in header
    assert read_jsonl(path).spell(65) == "A" or read_jsonl(path).entries


def moved(path: Path, first: int) -> None:
    """The file of a process in which the block had another number."""
    lines = path.read_text()
    for offset in range(9):
        lines = lines.replace(str(CAT.ids[offset]), str(first - offset))
    path.write_text(lines)


def test_a_record_of_a_process_with_other_numbers_reads_the_same(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_jsonl(record, path)
    moved(path, DOG.ids[0])  # here that number is of another content
    assert str(DOG.ids[0]) in path.read_text()
    assert read_jsonl(path).entries == record.entries


def test_an_id_of_no_block_in_a_file_is_refused(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_jsonl(record, path)
    whole = path.read_text()
    for old, new, says in (
        (f'"{CAT.ids[0]}":', f'"{DOG.ids[0]}":', "is the id of no block of this file"),
        (f'"{CAT.content.digest}",9', f'"{CAT.content.digest}",8', "is the id of no block of this file"),
        (f'"{CAT.content.digest}",9', f'"{CAT.content.digest}",-1', "cannot have -1 positions"),
        (f'["{CAT.content.digest}",9,"image"]', "7", "line 1"),
        (f'["{CAT.content.digest}",9,"image"]', '["<script>",9,"image"]', "a digest cannot be"),
    ):
        assert whole.count(old) == 1
        path.write_text(whole.replace(old, new))
        with pytest.raises(RecordUnreadable, match=says):
            read_jsonl(path)


PIXEL = "data:image/png;base64," + "iVBORw0KGgo" * 4
SEEN = Block(Content("beefcafe01234567" * 2, 9, "image", PIXEL))


def test_a_picture_is_in_tokens_tree_still_recording_and_file_and_none_of_them_grows_without_a_limit(stand: Stand, tmp_path: Path) -> None:
    record = stand.record("What is on " + Embedded(SEEN) + " here?")
    found = views(record)
    tokens, tree = found.tokens.full(), found.tree.full()
    assert [tok[6] for op in tokens["ops"] for tok in op["toks"] if tok[5] == SEEN.ids[0]] == [{"block": "beefca", "picture": PIXEL}]
    assert [row["picture"] for row in tree["texts"] if "picture" in row] == [PIXEL]
    assert still.tokens(tokens).source.count(f'<img src="{PIXEL}"') == still.tree(tree).source.count(f'<img src="{PIXEL}"') == 1
    assert PIXEL not in still.tokens(without_pictures(tokens)).source
    write_jsonl(record, tmp_path / "run.jsonl")
    assert read_jsonl(tmp_path / "run.jsonl").contents[SEEN.ids[0]].picture == PIXEL
    levels = [json.dumps([*Abridged(level).message({"tokens": tokens, "tree": tree}).values()]) for level in (0, 2)]
    assert [text.count(PIXEL) for text in levels] == [2, 0]
    shown, large = Pictures(), [Content(f"{i:032x}", 1, "image", PIXEL + "A" * 4_000) for i in range(30)]
    assert sum(map(len, map(shown.of, large))) <= MOST < 12 * 4_000
    assert [bool(shown.of(each)) for each in large] == [True] * 10 + [False] * 20


def test_every_view_shows_a_block_as_one_chip(record: Record) -> None:
    found = views(record)
    tokens, tree = found.tokens.full(), found.tree.full()
    (toks,) = (op["toks"] for op in tokens["ops"])
    assert [tok[0] for tok in toks if tok[5] < 0] == [CHIP] + [""] * 8
    assert [tok[6] for tok in toks if tok[5] < 0] == [{"block": "c0ffee"}] + [None] * 8
    assert {tok[1] for tok in toks if tok[5] < 0} == {"computed"}
    (node,) = (row for row in tree["nodes"] if row["title"])
    assert CHIP in node["label"]
    assert node["title"] == "c0ffee"
    assert node["n"] > 9
    assert "What is on [▣ image 9 positions] here?" in text.transcript(tokens)
    assert text.tree(tree).count(CHIP) == 1
    page = still.tokens(tokens).source
    assert page.count(CHIP) == 1
    assert 'title="c0ffee"' in page
    assert OBJECT not in page
    shown = still.tree(tree).source
    assert 'title="c0ffee"' in shown
    assert "▣" in shown
    (one,) = inspections(record.entries)
    lines = draw_inspection.prompt_lines(one, record.spell)
    assert [(line.text, line.name) for line in lines if line.id < 0] == [(CHIP, "c0ffee")]
    assert len(lines) == len(one.prompt) - 8
    assert CHIP.replace(" ", "␣") in draw_inspection.html(one, record.spell).source


def test_a_timeline_counts_the_positions_of_a_block(record: Record) -> None:
    (one,) = inspections(record.entries)
    bars = views(record).lanes.full()["bars"]
    assert sum(bar["n"] for bar in bars if bar["kind"] == "prefill") == len(one.prompt)


def test_a_long_block_folds_no_turn_away(stand: Stand) -> None:
    big = Block(Content("b16" * 8, 900))
    page = still.tokens(views(stand.record("see " + Embedded(big))).tokens.full()).source
    assert "[▣ image 900 positions]" in page
    assert "<details" not in page


def test_the_part_of_a_block_in_a_node_says_so(stand: Stand) -> None:
    """Two prompts part inside what stands in one node: not inside the block, but a page border may lie there."""
    view = views(stand.record(Embedded(CAT) + "x")).tree
    assert view._text(CAT.ids[3:7]) == "[▣ image 4 of 9 positions]"


def test_a_recording_tells_the_chip_once_and_little_else(record: Record) -> None:
    moments = list(Abridged(0).frames(frames(record, record.spell)))
    toks = [tok for _, message in moments for op in (message.get("tokens") or {"ops": []})["ops"] for tok in op["toks"] if tok[5] < 0]
    assert {tok[5] for tok in toks if not tok[0]} == {-1}
    assert {tok[0] for tok in toks if tok[0]} == {CHIP}
