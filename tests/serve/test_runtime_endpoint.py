"""RuntimeEndpoint against a real server of SGLang's API: the door of a lab."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import sgl_lab as sgl
from sgl_lab.backends.remote import spending
from sgl_lab.backends.sglang import RuntimeEndpoint
from sgl_lab.contracts.capabilities import Prices
from sgl_lab.contracts.errors import (
    AuthenticationFailed,
    BackendUnsupported,
    BudgetExceeded,
    ConnectionFailed,
    ModelMissing,
    PromptTooLong,
    Stopped,
)
from sgl_lab.contracts.port import Usage, WarmJob
from sgl_lab.elsewhere import lab_over
from sgl_lab.serve import Door
from sgl_lab.viz.draw.why import text
from sgl_lab.viz.explain.why import why
from sgl_lab.viz.views import views_of

from .calls import is_idle, until


@pytest.fixture(scope="module")
def endpoint(door: Door) -> Iterator[RuntimeEndpoint]:
    endpoint = RuntimeEndpoint(door.url, api_key=door.token)
    yield endpoint
    lab_over(endpoint).close()  # its records are no runs of other tests' sessions


@sgl.function
def surface(s: sgl.ProgramState) -> None:
    s += "The capital of France is" + sgl.gen("city", max_tokens=4, temperature=0, stop="\n")
    s += " Is it? " + sgl.select("sure", ["yes", "no", "perhaps"])
    s += "\nThe year is " + sgl.gen("year", regex=r"(19|20)\d\d", max_tokens=8)
    s += "\nIt is " + sgl.gen("several", n=2, max_tokens=3, return_logprob=True, top_logprobs_num=2)
    forks = s.fork(2)
    for index, fork in enumerate(forks):
        fork += f"\nNo. {index}:" + sgl.gen("each", max_tokens=3, temperature=0)
    forks.join()


def test_the_whole_surface_gives_what_the_engine_itself_gives(door: Door, endpoint: RuntimeEndpoint) -> None:
    there = surface.run(backend=endpoint)
    here = surface.run(backend=door.lab.backend)
    assert there["city"] == here["city"]
    assert there["sure"] == here["sure"]
    assert there["year"].isdigit()
    there_scores, here_scores = (s.get_meta_info("sure")["normalized_prompt_logprobs"] for s in (there, here))
    assert there_scores == pytest.approx(here_scores, abs=1e-2)
    assert len(there["several"]) == 2
    (logprob, token, spelled), *_ = there.get_meta_info("several")[0]["output_token_logprobs"]
    assert logprob <= 0
    assert endpoint.decode((token,)) == spelled
    assert there.token_ids()[:5] == here.token_ids()[:5]
    served = endpoint.served()
    assert len(served) == 3, "the program and its two forks"
    assert {worker for counts in served.values() for worker in counts} == {door.url.removeprefix("http://")}


def test_each_call_is_in_the_accounts_and_costs_what_the_user_says(door: Door, endpoint: RuntimeEndpoint) -> None:
    with spending(None) as account:
        surface.run(backend=endpoint)
    (counted,) = account.by_model.values()
    assert (counted.calls, counted.n_unknown, counted.cost) == (7, 7, 0.0), "four answers, the prompt of the forks, and theirs"
    priced = RuntimeEndpoint(door.url, api_key=door.token, prices=Prices(1e6, 2e6), concurrency=2)
    state = sgl.start(priced)
    with spending(None) as account:
        state += "The capital of France is" + sgl.gen("city", max_tokens=4, temperature=0, ignore_eos=True)
        n_prompt = state.get_meta_info("city")["prompt_tokens"]
    assert state.get_meta_info("city")["cost"] == account.spent == n_prompt + 2 * 4
    with spending(n_prompt + 7) as account:
        state = sgl.start(priced)
        state += "The capital of France is" + sgl.gen("city", max_tokens=4, temperature=0)
        with pytest.raises(BudgetExceeded, match="may cost"):
            state["city"]
    assert endpoint.limits is priced.limits
    assert RuntimeEndpoint(door.url, api_key=door.token).limits.concurrency == 2, "what another backend asked for is left"
    endpoint.limits.set(64, None)


def test_sessions_of_a_server_without_them_are_refused_with_the_reason(endpoint: RuntimeEndpoint) -> None:
    with pytest.raises(BackendUnsupported, match="has no sessions"):
        endpoint.open_session()
    with pytest.raises(BackendUnsupported, match="has no sessions"):
        endpoint.close_session("s")


def test_text_streams_and_a_stop_closes_the_request_on_the_server(door: Door, endpoint: RuntimeEndpoint) -> None:
    @sgl.function
    def long(s: sgl.ProgramState) -> None:
        s += "Once upon a time" + sgl.gen("tale", max_tokens=200, ignore_eos=True)

    lab = lab_over(endpoint, "sglang")
    state = long.run(backend=endpoint, stream=True)
    assert next(state.text_iter("tale"))
    assert lab.stop() == 1
    with pytest.raises(Stopped):
        state.sync()
    assert state["tale"], "what had come is kept"
    assert until(lambda: is_idle(door)), "a cancelled request ends on the server, too"


def test_the_tree_is_inferred_and_views_work_on_it(endpoint: RuntimeEndpoint) -> None:
    @sgl.function
    def asked(s: sgl.ProgramState, question: str) -> None:
        s += (
            "A list of the seas of the world, from the largest to the smallest, with remarks. "
            + question
            + sgl.gen("a", max_tokens=3, temperature=0)
        )

    lab = lab_over(endpoint, "sglang")
    lab.flush()
    with lab.record("first") as first:
        asked.run("Which is first?", backend=endpoint)
    with lab.record("second") as second:
        asked.run("And the last?", backend=endpoint)
    snapshot = lab.snapshot()
    assert snapshot.rules is not None
    assert snapshot.rules.origin == "inferred"
    views = views_of(second.scope, lab.spell)
    views.tree.load(second.snapshot)
    for entry in second.entries:
        for view in views:
            view.fold(entry)
    assert {node.node: node for node in snapshot.nodes} == dict(views.tree.nodes)
    found = why(second, [first])
    assert found.n_cached >= 15
    assert "inferred from the counts of the SGLang server" in text(found, lab.spell)
    assert lab.stats()["cached_prompt_tokens"] >= 15
    strip = views.metrics.full()
    assert (strip["cached"], strip["cached"] + strip["computed"], strip["generated"]) == (found.n_cached, found.n_prompt, 3)
    kinds = [bar["kind"] for bar in views.lanes.full()["bars"] if bar["kind"] in ("sent", "found", "prefill", "decode")]
    assert sorted(kinds) == ["decode", "found", "sent"]
    assert lab.stats()["unpriced"] == lab.stats()["answered"], "what it costs is not known"


def test_a_warmed_prefix_is_found_cached(endpoint: RuntimeEndpoint) -> None:
    endpoint.flush_cache()
    endpoint.cache_prefix("Seven lakes, eight rivers and nine seas were on the old map.")
    done = threading.Event()

    class Listener:
        usage = Usage()

        def on_done(self, usage: Usage) -> None:
            self.usage = usage
            done.set()

        def on_error(self, error: Exception) -> None:
            done.set()

    listener = Listener()
    ids = endpoint.encode("Seven lakes, eight rivers and nine seas were on the old map.")
    endpoint.warm(WarmJob(ids), listener)
    assert done.wait(30)
    assert listener.usage.cached_tokens >= len(ids) - 2


def test_bad_servers_and_keys_cost_one_line(door: Door) -> None:
    with pytest.raises(AuthenticationFailed):
        RuntimeEndpoint(door.url, api_key="not-the-token-of-it")
    with pytest.raises(ConnectionFailed, match="cannot be reached"):
        RuntimeEndpoint("http://127.0.0.1:9", tokenizer="smollm2", retries=0)
    with pytest.raises(BackendUnsupported, match="no SGLang server"):
        RuntimeEndpoint(door.url + "/v1", api_key=door.token)
    with pytest.raises(ModelMissing, match="tokenizer="):
        RuntimeEndpoint(door.url, api_key=door.token, tokenizer="/no/such/folder")


def test_a_prompt_beyond_the_context_is_refused_before_it_is_sent(endpoint: RuntimeEndpoint) -> None:
    state = sgl.start(endpoint)
    state += "x " * endpoint.describe().context + sgl.gen("a")
    with pytest.raises(PromptTooLong, match="context"):
        state["a"]
