"""Bugs that engines of this kind have had, planted one by one: each must pass a smoke test and be killed by a named test.

    python -m tests.reliability.mutants [NAME ...]

prints for each bug the test that killed it and what that test printed. A bug that survives, or that the
smoke test finds already, is an error (exit status 1).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120

SMOKE = """
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.tools.fake import ByteTokenizer, HashModel, HashRunner

class Listener:
    outputs = ()
    def on_progress(self, index, text, ids): pass
    def on_done(self, outputs): self.outputs = outputs
    def on_error(self, error): raise error

engine, listener = Engine(EngineConfig(n_pages=64), HashRunner(64, 1), ByteTokenizer(), context=64), Listener()
params = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
engine.add(engine.gen(GenJob((1, 2, 3), params), listener))
n_steps = sum(1 for _ in iter(engine.step, False))
assert n_steps == 3
assert list(listener.outputs[0].ids) == HashModel().reply((1, 2, 3), params, 0, 3)
"""
SMOKE_FAILED = 99
RUN = f"""
import sys, traceback
try:
    exec(compile({SMOKE!r}, "smoke", "exec"))
except BaseException:
    traceback.print_exc()
    sys.exit({SMOKE_FAILED})
import pytest
sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=short", "--no-header", *sys.argv[1:]]))
"""


@dataclass(frozen=True)
class Mutant:
    name: str
    path: str
    """below sgl_lab/"""
    old: str
    """occurs exactly once"""
    new: str
    killer: str
    """of tests/pure/, tests/reliability/ or tests/torch/, as pytest names it"""


TREE, POOL, SCHEDULER = "engine/serving/cache/tree.py", "engine/serving/cache/pool.py", "engine/serving/scheduling/scheduler.py"
CACHE_RANDOM = "pure/test_cache.py::test_random_operations_agree_with_the_model"
EXACT_REQUESTS = "pure/test_engine_exact.py::test_what_was_computed_otherwise_never_serves_an_exact_request_nor_the_other_way_round"
SEAMS = "pure/test_seams.py::test_the_tokens_that_a_gen_goes_on_from_spell_the_text"
EXACT_CHUNKS = "torch/test_exact.py::test_chunks_and_pages_change_no_bit"
ENGINE_RANDOM = "pure/test_engine.py::test_a_random_workload_with_evictions_folds_to_the_tree_and_says_the_right_tokens"
DRAFTED_MASKS = "pure/test_grammar.py::test_masks_after_a_draft_are_those_of_the_text_with_it"

MUTANTS = (
    # ------------------------------------------------------------ the tree
    Mutant(
        "a split is not announced",
        TREE,
        "        self._emit(NodeSplit(node.id, upper.id, n_upper))\n",
        "",
        "pure/test_cache.py::test_a_prefix_shared_by_two_sequences_becomes_one_node",
    ),
    Mutant(
        "a lock is lost in a split",
        TREE,
        "upper.refs, upper.hits, upper.born = node.refs,",
        "upper.refs, upper.hits, upper.born = 0,",
        "pure/test_cache.py::test_a_split_keeps_leases_on_the_lower_node_and_counts_them_on_the_upper",
    ),
    Mutant(
        "a split makes the upper part look just used",
        TREE,
        "node.pages[: n_upper // size], node.last_used)",
        "node.pages[: n_upper // size], self.clock)",
        CACHE_RANDOM,
    ),
    Mutant(
        "a split forgets that a change of locks is still to be emitted",
        TREE,
        "            self._reported[upper.id] = (upper, self._reported[node.id][1])\n",
        "            pass\n",
        CACHE_RANDOM,
    ),
    Mutant(
        "a locked leaf is evicted",
        TREE,
        "return node.refs == 0 and not node.children and",
        "return not node.children and",
        "pure/test_cache.py::test_a_locked_prefix_is_never_evicted",
    ),
    Mutant(
        "a node is evicted from above its children",
        TREE,
        "return node.refs == 0 and not node.children and",
        "return node.refs == 0 and",
        CACHE_RANDOM,
    ),
    Mutant(
        "a leaf that was used since it was offered is evicted by its old date",
        TREE,
        "if not self._is_idle_leaf(node) or key != self.policy.key(node):",
        "if not self._is_idle_leaf(node):",
        "pure/test_cache.py::test_the_least_recently_used_leaf_goes_first_and_its_parent_after_it",
    ),
    Mutant(
        "a parent without children is never offered for eviction",
        TREE,
        "        self._offer(parent)\n",
        "",
        "pure/test_cache.py::test_the_least_recently_used_leaf_goes_first_and_its_parent_after_it",
    ),
    Mutant(
        "a released leaf is never offered for eviction",
        TREE,
        "                self.n_idle_pages += len(node.pages)\n                self._offer(node)\n",
        "                self.n_idle_pages += len(node.pages)\n",
        CACHE_RANDOM,
    ),
    Mutant(
        "an eviction is not announced",
        TREE,
        "        self.version += 1\n        self._emit(NodeEvicted(node.id, len(node.tokens)))\n        self._offer(parent)",
        "        self.version += 1\n        self._offer(parent)",
        CACHE_RANDOM,
    ),
    Mutant(
        "locks of an evicted node are still emitted",
        TREE,
        "        self._reported.pop(node.id, None)\n        self.n_nodes -= 1\n",
        "        self.n_nodes -= 1\n",
        CACHE_RANDOM,
    ),
    Mutant(
        "a match ends inside a page",
        TREE,
        "n_in = common_length(rest, child.tokens) // size * size",
        "n_in = common_length(rest, child.tokens)",
        "pure/test_cache.py::test_a_match_ends_at_a_page_border",
    ),
    Mutant(
        "a matching prefix is found one token short",
        TREE,
        "    return low\n",
        "    return max(0, low - 1)\n",
        "pure/test_cache.py::test_common_length_equals_a_plain_loop",
    ),
    Mutant(
        "looking counts as using",
        TREE,
        "(node, n_in), 0\n        while",
        "(node, n_in), 0\n        node.last_used = self.clock = self.clock + 1\n        while",
        "pure/test_cache.py::test_peek_changes_nothing_and_says_nothing",
    ),
    Mutant(
        "a hit does not make its path young",
        TREE,
        "                step.last_used = self.clock\n",
        "                pass\n",
        "pure/test_cache.py::test_the_least_recently_used_leaf_goes_first_and_its_parent_after_it",
    ),
    Mutant(
        "namespaces share one tree",
        TREE,
        "        else:\n            node, n_in, n_tokens = self._walk(self._root(namespace), tokens)\n",
        "        else:\n"
        "            node, n_in, n_tokens = self._walk(next(iter(self.roots.values()), None) or self._root(namespace), tokens)\n",
        "pure/test_cache.py::test_namespaces_never_meet",
    ),
    Mutant(
        "pages of what was in the tree already are kept twice",
        TREE,
        "        self.pool.release(pages[n_leased:n_here], owner)\n",
        "",
        "pure/test_cache.py::test_pages_of_what_was_there_already_are_freed",
    ),
    Mutant(
        "leased pages still count as evictable",
        TREE,
        "                self.n_idle_pages -= len(step.pages)\n",
        "                pass\n",
        CACHE_RANDOM,
    ),
    Mutant(
        "a lease that is given back twice counts twice",
        TREE,
        "        if not lease.is_open:\n            return\n",
        "",
        "pure/test_cache.py::test_releasing_twice_changes_nothing",
    ),
    Mutant(
        "flushing a wrong tree keeps its locks",
        TREE,
        "            root.refs = 0\n",
        "",
        "pure/test_engine.py::test_wrong_books_flush_the_cache_and_the_answers_stay_right",
    ),
    Mutant(
        "a page that is freed twice is free twice",
        POOL,
        "            if self.owners[page] == owner:\n                self.owners[page] = None\n",
        "            if True:\n                self.owners[page] = None\n",
        "pure/test_cache.py::test_releasing_twice_changes_nothing",
    ),
    Mutant(
        "an unpinned prefix stays locked",
        "engine/serving/cache/pins.py",
        "            self._tree.release(pin.lease)\n",
        "            pass\n",
        "pure/test_engine_pins.py::test_a_pinned_prefix_is_never_evicted_and_then_it_is",
    ),
    Mutant(
        "pinned pages count as room for requests",
        "engine/serving/intake.py",
        "if need <= n_pages - n_pinned:",
        "if need <= n_pages:",
        "pure/test_engine_pins.py::test_a_request_beside_pins_is_refused_unless_it_begins_with_them",
    ),
    # ------------------------------------------------------------ the scheduler
    Mutant(
        "a lease leaks between match and allocation",
        SCHEDULER,
        "            if self.running:\n                return False\n",
        "            self._tree.acquire(request.namespace, tokens[: match.n_tokens])\n"
        "            if self.running:\n                return False\n",
        ENGINE_RANDOM,
    ),
    Mutant(
        "an aborted request keeps its lock",
        SCHEDULER,
        "            self._tree.release(request.lease)\n            request.lease = None\n        self._pool",
        "            request.lease = None\n        self._pool",
        "pure/test_engine.py::test_what_was_computed_before_a_cancel_is_found_again",
    ),
    Mutant(
        "an aborted request keeps its pages",
        SCHEDULER,
        "        self._pool.release(request.pages, request.id)\n",
        "",
        "pure/test_engine.py::test_what_was_computed_before_a_cancel_is_found_again",
    ),
    Mutant(
        "pages freed by an abort are freed again from under the tree",
        SCHEDULER,
        "        self._pool.release(request.pages, request.id)\n",
        "        for page in request.pages:\n            self._pool.release([page], self._pool.owners[page] or request.id)\n",
        "pure/test_engine.py::test_what_was_computed_before_a_cancel_is_found_again",
    ),
    Mutant(
        "a token without KV is kept in the tree",
        SCHEDULER,
        "            kept = request.span(0, request.n_kv)\n",
        "            kept = request.span(0, request.n_tokens)\n",
        "pure/test_engine.py::test_the_next_turn_finds_the_generated_tokens",
    ),
    Mutant(
        "a partly shared page is not copied",
        SCHEDULER,
        "            self._copy_page(lease.pages[start // size], request.pages[start // size])\n",
        "            pass\n",
        "pure/test_engine.py::test_the_same_prompt_again_computes_one_token",
    ),
    Mutant(
        "a match that is about to be leased counts as room",
        SCHEDULER,
        "if n_own + match.n_idle_pages + self._reserve() >",
        "if n_own + self._reserve() >",
        ENGINE_RANDOM,
    ),
    Mutant(
        "the oldest gives way",
        SCHEDULER,
        "youngest = self._going()[-1]",
        "youngest = self._going()[0]",
        "pure/test_scheduler.py::test_the_youngest_gives_way",
    ),
    Mutant(
        "a preempted request goes to the end of the queue",
        SCHEDULER,
        "            insort(self.waiting, request, key=_arrival)\n",
        "            self.waiting.append(request)\n",
        "pure/test_scheduler.py::test_a_preempted_request_stays_before_those_that_came_later",
    ),
    Mutant(
        "hot prefixes starve a cold request",
        SCHEDULER,
        "overdue = [request for request in window if request.n_passed >= most]",
        "overdue: list[Request] = []\n        most = 1 << 30",
        "pure/test_scheduler.py::test_a_cold_request_is_admitted_within_32_passes_of_a_hot_flood",
    ),
    Mutant(
        "small requests starve a large one",
        SCHEDULER,
        "                break  # a request that only waits for pages is not overtaken\n",
        "                continue\n",
        "reliability/test_headroom.py::test_a_large_request_is_not_starved_by_small_ones",
    ),
    Mutant(
        "a common prefix is computed by everybody at once",
        SCHEDULER,
        "        if not prefilling:\n            return False\n",
        "        return False\n",
        "pure/test_scheduler.py::test_of_waiting_requests_with_a_common_prefix_one_goes_first",
    ),
    Mutant(
        "a step computes more than its budget",
        SCHEDULER,
        "                work.append((request, n))\n                budget -= n\n        admitted =",
        "                work.append((request, n))\n        admitted =",
        "pure/test_scheduler.py::test_no_step_computes_more_tokens_or_rows_than_the_config_allows",
    ),
    Mutant(
        "a repeated prompt is taken whole from the tree and nothing is left to sample from",
        "engine/serving/scheduling/request.py",
        'self.n_tokens - (self.kind == "gen")',
        "self.n_tokens",
        "pure/test_engine.py::test_the_same_prompt_again_computes_one_token",
    ),
    Mutant(
        "what is computed again after a preemption counts as computed twice",
        "engine/serving/scheduling/request.py",
        "        n_new = max(0, end - max(start, self.n_counted))\n",
        "        n_new = end - start\n",
        "pure/test_scheduler.py::test_a_preempted_request_says_what_it_would_have_said",
    ),
    Mutant(
        "after a preemption other random numbers are drawn",
        SCHEDULER,
        "position = len(request.generated)\n",
        "position = len(request.generated) + request.n_preemptions\n",
        "pure/test_scheduler.py::test_a_preempted_request_says_what_it_would_have_said",
    ),
    # ------------------------------------------------------------ drafts, and steps that compute while the results of others are delivered
    Mutant(
        "drafts that did not come true count as computed prompt",
        SCHEDULER,
        "        n = len(row.tokens) - n_rejected\n",
        "        n = len(row.tokens)\n",
        "pure/test_drafts.py::test_rejected_draft_tokens_are_not_in_the_tree",
    ),
    Mutant(
        "what follows a wrong draft is drawn all the same",
        "engine/plan.py",
        "        if found.token != draft:\n            break\n",
        "",
        "pure/test_drafts.py::test_the_draft_is_what_was_drawn_with_the_same_seed",
    ),
    Mutant(
        "all draws of a row use the first one's randomness",
        "engine/plan.py",
        "            position=self.position + n,\n",
        "",
        "pure/test_drafts.py::test_the_draft_is_what_was_drawn_with_the_same_seed",
    ),
    Mutant(
        "drafts go beyond the most that was asked for",
        SCHEDULER,
        "        n_most = min(n_most, request.limit - len(request.generated) - 1)\n",
        "",
        "pure/test_drafts.py::test_a_draft_ends_where_the_text_must",
    ),
    Mutant(
        "drafts are not of the step's budget",
        SCHEDULER,
        "            budget -= len(drafts)\n",
        "",
        "pure/test_drafts.py::test_drafts_stay_inside_the_step",
    ),
    Mutant(
        "the digest of a block is no part of the key",
        "contracts/spans.py",
        "        while (known := _contents.setdefault(number, content)) != content:\n",
        "        known = _contents.setdefault(number := content.n, content)\n        while False:\n",
        "pure/test_spans.py::test_the_cache_tells_blocks_apart_by_their_digests_alone",
    ),
    Mutant(
        "a number is given out without a look at the digest",
        "contracts/spans.py",
        "        while (known := _contents.setdefault(number, content)) != content:\n",
        "        known = _contents.setdefault(number, content)\n        while False:\n",
        "pure/test_spans.py::test_contents_whose_digests_begin_alike_never_share_an_id",
    ),
    Mutant(
        "positions of a block are drafted",
        "engine/serving/scheduling/drafts.py",
        "        continuation = drawable(continuation)\n",
        "",
        "pure/test_spans.py::test_no_draft_says_positions_of_a_block",
    ),
    Mutant(
        "the embeddings of a block are those of its end",
        "engine/compute/runners/batch.py",
        "np.asarray(by_number[number])[offsets[mine]]",
        "np.asarray(by_number[number])[-1 - offsets[mine]]",
        "torch/test_blocks.py::test_a_block_with_the_embeddings_of_tokens_computes_what_they_compute",
    ),
    Mutant(
        "a flush keeps what drafts are taken from",
        "engine/serving/engine.py",
        "        self._drafts.forget()\n",
        "",
        "pure/test_drafts.py::test_a_flush_forgets_what_was_said",
    ),
    Mutant(
        "accepted drafts become part of the prompt's node",
        SCHEDULER,
        "min(request.n_kv, request.n_prefill)",
        "request.n_kv",
        "pure/test_drafts.py::test_drafts_leave_no_trace_in_the_tree",
    ),
    Mutant(
        "the branch that was used first is drafted",
        TREE,
        "            node = max(fitting,",
        "            node = min(fitting,",
        "pure/test_drafts.py::test_the_continuation_follows_the_branch_used_last",
    ),
    Mutant(
        "a step under way gives tokens to who was cancelled",
        "engine/serving/open_groups.py",
        "            if request.phase is not Phase.RUNNING or request.is_processed:\n",
        "            if request.is_processed:\n",
        "pure/test_drafts.py::test_random_jobs_say_the_same_with_and_without_drafts_however_a_runner_computes",
    ),
    Mutant(
        "a step follows one whose token its mask would have to know",
        SCHEDULER,
        " or request.matcher is not None",
        "",
        "pure/test_overlap.py::test_a_draw_that_must_know_the_token_before_it_waits_for_it",
    ),
    Mutant(
        "a text that ends with the step under way is computed once more",
        SCHEDULER,
        "len(request.generated) + 1 < request.limit]",
        "len(request.generated) < request.limit]",
        "pure/test_overlap.py::test_a_text_goes_on_without_waiting_for_what_was_drawn",
    ),
    Mutant(
        "what was started upon a step that failed is taken in",
        "engine/serving/in_flight.py",
        "            self._drop_overlapped()\n",
        "",
        "reliability/test_faults.py::test_a_fault_fails_its_own_request_and_nothing_else",
    ),
    Mutant(
        "who is let in ahead computes what a step under way computes",
        SCHEDULER,
        " or self._is_held(request, tokens, 1)",
        "",
        "pure/test_drafts.py::test_a_request_admitted_early_waits_for_the_prefix_in_computation",
    ),
    Mutant(
        "a warm is let in ahead, and nobody sees that it is whole",
        SCHEDULER,
        'if is_ahead and (request.kind != "gen" or',
        "if is_ahead and (False or",
        "pure/test_drafts.py::test_who_is_found_whole_while_a_step_computes_is_answered",
    ),
    Mutant(
        "pages of wrong drafts stay with their request",
        SCHEDULER,
        "        if row.n_drafts and len(request.pages) > n_wanted:\n",
        "        if False:\n",
        "pure/test_drafts.py::test_pages_of_wrong_drafts_are_given_back_at_once",
    ),
    Mutant(
        "a text that cannot be had is everybody's fault",
        "engine/serving/open_groups.py",
        "            except BaseException as error:\n                self.fail(group, request, as_failure(error))\n",
        "            except ArithmeticError as error:\n                self.fail(group, request, as_failure(error))\n",
        "pure/test_engine.py::test_a_token_whose_text_cannot_be_had_fails_its_request_alone",
    ),
    Mutant(
        "what follows the end of a text is drafted",
        "engine/serving/scheduling/drafts.py",
        "if token in self.ends)",
        "if False)",
        "pure/test_drafts.py::test_nothing_is_drafted_beyond_the_end_of_a_text",
    ),
    # ------------------------------------------------------------ engine, groups, text
    Mutant(
        "the n samples of a prompt are all the same",
        "engine/serving/gen_group.py",
        "    if index == 0:\n",
        "    if index >= 0:\n",
        "pure/test_engine.py::test_n_samples_come_from_one_prefill_and_differ",
    ),
    Mutant(
        "the siblings of a failed branch are still served",
        "engine/serving/open_groups.py",
        "            if request.phase is not Phase.RUNNING or request.is_processed:\n",
        "            if request.phase is Phase.WAITING or request.is_processed:\n",
        "pure/test_engine.py::test_one_failing_branch_fails_its_whole_group_once",
    ),
    Mutant(
        "a cancel ends one sample of a group alone",
        "engine/serving/open_groups.py",
        "        for request in group.requests:\n            if request.is_processed",
        "        for request in group.requests[:1]:\n            if request.is_processed",
        "pure/test_engine.py::test_cancelled_jobs_answer_once",
    ),
    Mutant(
        "changes of locks are never emitted",
        "engine/serving/engine.py",
        "        self._tree.report_locks()\n        metrics.lap",
        "        metrics.lap",
        "pure/test_engine.py::test_the_next_turn_finds_the_generated_tokens",
    ),
    Mutant(
        "one row out of memory takes all others with it",
        "engine/serving/in_flight.py",
        "outputs += self._runner.run(Plan(plan.step, (row,)))",
        "outputs += self._runner.run(plan)",
        "pure/test_engine.py::test_a_failing_row_fails_alone_and_typed",
    ),
    Mutant(
        "a stop string across two tokens is missed",
        "engine/text/stream.py",
        "self._decoded[max(0, n_before - self._longest + 1) :]",
        "self._decoded[n_before:]",
        "pure/test_engine_text.py::test_a_stop_across_token_borders_is_cut_with_the_tokens_it_touches",
    ),
    Mutant(
        "the beginning of a stop string is shown before it is known to be one",
        "engine/text/stream.py",
        "max((begun.n for begun in self._begun), default=0)",
        "0",
        "pure/test_engine_text.py::test_what_may_begin_a_stop_is_held_back_until_it_is_known",
    ),
    Mutant(
        "a token whose character is not whole yet counts as shown",
        "engine/text/stream.py",
        "        if not self._decoder.getstate()[0]:\n            self._borders",
        "        if True:\n            self._borders",
        "pure/test_engine_text.py::test_a_character_cut_into_tokens_appears_when_it_is_whole",
    ),
    Mutant(
        "of a token that a stop cut nothing is left",
        "engine/serving/gen_sample.py",
        "        if not text.kept:\n",
        "        if True:\n",
        SEAMS,
    ),
    Mutant(
        "a prompt's end is drawn anew without its bytes in mind",
        "engine/text/seam.py",
        "                mask[:], n_allowed = self._spellings.mask(left.rest, left.inside)\n",
        "                mask[:], n_allowed = array('I', [0xFFFFFFFF]) * len(mask), 1\n",
        SEAMS,
    ),
    Mutant(
        "what a token says of the prompt is text of the answer too",
        "engine/serving/gen_sample.py",
        "            data = data[len(self._lead) :]\n",
        "            pass\n",
        SEAMS,
    ),
    # ------------------------------------------------------------ constraints
    Mutant(
        "masks are one position late",
        "grammar/matcher.py",
        "        for n, mask in enumerate(self._masks[: len(draft) + 1]):\n",
        "        for n, mask in enumerate([*self._masks[1 : len(draft) + 1], self._masks[0]]):\n",
        DRAFTED_MASKS,
    ),
    Mutant(
        "a forced run goes beyond the most that was asked for",
        "engine/serving/gen_sample.py",
        '        return "length" if len(request.generated) == request.limit else None\n\n    def _heals',
        '        return "length" if len(request.generated) == request.limit and draw is not None else None\n\n    def _heals',
        "pure/test_engine_constraints.py::test_a_forced_run_ends_where_the_text_must",
    ),
    Mutant(
        "working out what may follow a draft takes the draft as emitted",
        "grammar/matcher.py",
        "self._ll_matcher.deep_copy() if draft else self._ll_matcher",
        "self._ll_matcher",
        DRAFTED_MASKS,
    ),
    Mutant(
        "samples of a prompt share one matcher",
        "engine/serving/gen_group.py",
        "matchers = [None if constraint is None else grammars.start(constraint, limit, begun=terms.begun) for _ in ids]",
        "matchers = [None if constraint is None else grammars.start(constraint, limit, begun=terms.begun)] * len(ids)",
        "pure/test_engine_constraints.py::test_samples_of_one_prompt_each_follow_the_constraint",
    ),
    Mutant(
        "a mask that cannot be worked out fails the step",
        "engine/serving/processing.py",
        "        except BaseException as error:\n            self.error = as_failure(error)\n        self.is_done = True\n",
        "        except ArithmeticError as error:\n            self.error = as_failure(error)\n        self.is_done = True\n",
        "pure/test_engine_constraints.py::test_a_constraint_without_a_way_on_fails_its_request_alone",
    ),
    Mutant(
        "forced tokens with which a text ends count as computed",
        "engine/serving/gen_sample.py",
        "n_read - 1 if reason is None else min(n_read, n_sure) - 1",
        "n_read - 1",
        "pure/test_engine_constraints.py::test_a_constrained_text_that_comes_again_takes_few_steps_and_is_the_same_to_the_bit",
    ),
    Mutant(
        "no pages are made ready for what is forced",
        SCHEDULER,
        "        n_missing = self._config.pages_for(request.n_tokens) - len(request.pages)\n",
        "        n_missing = self._config.pages_for(request.n_kv + 1) - len(request.pages)\n",
        "pure/test_engine_constraints.py::test_forced_tokens_take_no_step_of_their_own_and_change_no_text",
    ),
    Mutant(
        "a cached prompt hides the logprobs that are asked for",
        "engine/serving/scheduling/request.py",
        'min(self.targets, default=self.n_tokens - (self.kind == "gen"))',
        'self.n_tokens - 1 if self.kind == "gen" else min(self.targets, default=self.n_tokens)',
        "pure/test_engine_constraints.py::test_logprobs_of_the_prompt_are_computed_from_the_position_asked_for",
    ),
    Mutant(
        "a text that a stop cut counts as whole if it was so before",
        "engine/serving/gen_sample.py",
        "        if self.text.matched is None and not self.text.n_begun:\n",
        "        if self.text is not None:\n",
        "pure/test_engine_constraints.py::test_a_text_that_a_stop_ended_is_complete_if_what_is_left_is",
    ),
    Mutant(
        "a text is completed one token too late",
        "engine/serving/gen_sample.py",
        "self.terms.limit - n + is_inside) - 1)",
        "self.terms.limit - n + is_inside))",
        "pure/test_engine_constraints.py::test_a_text_is_whole_before_its_tokens_run_out",
    ),
    Mutant(
        "a completion path is kept though the text has left it",
        "grammar/matcher.py",
        "elif len(path) > most or not self._completions.finishes(self._ll_matcher, (token, *path)):",
        "elif len(path) > most:",
        "pure/test_engine_constraints.py::test_a_text_is_whole_before_its_tokens_run_out",
    ),
    Mutant(
        "what takes the place of a draw counts as forced",
        "engine/serving/gen_sample.py",
        "logprob=None, top=(), n_allowed=1)",
        "logprob=None, top=(), n_allowed=1, forced=True)",
        "pure/test_engine_constraints.py::test_tokens_of_the_forced_ending_are_marked_as_forced",
    ),
    Mutant(
        "a whole text goes on into what does not fit",
        "engine/serving/gen_sample.py",
        "matcher.completion or (min(self.terms.vocabulary.eos_ids),)",
        "matcher.completion or (token.token,)",
        "pure/test_engine_constraints.py::test_a_text_that_is_whole_ends_before_a_token_that_leads_too_far",
    ),
    # ------------------------------------------------------------ exactness
    Mutant(
        "what was computed fast serves an exact request",
        "engine/serving/engine.py",
        "namespace if runner.is_exact else (*namespace, EXACT)",
        "namespace",
        EXACT_REQUESTS,
    ),
    Mutant(
        "an exact request is computed as the others are",
        SCHEDULER,
        "len(drafts), n_top, is_exact,",
        "len(drafts), n_top, False,",
        EXACT_REQUESTS,
    ),
    Mutant(
        "an exact token attends to what comes after it in its tile",
        "engine/compute/runners/exact.py",
        "k[:, :, read], v[:, :, read]",
        "k, v",
        EXACT_CHUNKS,
    ),
    Mutant(
        "a token reads one that has left its window",
        "engine/compute/runners/batch.py",
        "keys > queries - window",
        "keys >= queries - window",
        "torch/test_families.py::test_what_left_the_window_is_not_read",
    ),
    Mutant(
        "a row that goes on in the next tile starts anew",
        "engine/compute/runners/exact.py",
        "start = row.start + done",
        "start = row.start",
        EXACT_CHUNKS,
    ),
    Mutant(
        "tiles are taken where their rows come out differently",
        "engine/compute/runners/exact.py",
        "TILE if is_uniform(self._model, TILE) else 1",
        "TILE",
        "torch/test_exact.py::test_where_the_rows_of_a_tile_differ_tokens_go_one_by_one",
    ),
    Mutant(
        "two tokens that are equally likely count as a flip",
        "engine/tools/drift.py",
        "if other.get(reference.token, -math.inf) < other",
        "if other.get(reference.token, -math.inf) <= other",
        "torch/test_drift.py::test_a_deterministic_lab_has_none",
    ),
)


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    is_killed: bool
    output: str
    """by the test that killed it, or how it got away"""
    seconds: float


def source(mutant: Mutant, root: Path = ROOT) -> Path:
    return root / "sgl_lab" / mutant.path


def judge(mutant: Mutant) -> Verdict:
    """Plant the bug in a copy of the package, try the smoke test, then the test that is to kill it."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sgl_lab-mutant-") as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "static")
        shutil.copytree(ROOT / "sgl_lab", copy / "sgl_lab", ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "tests").mkdir()
        for file in ("__init__.py", "conftest.py"):
            shutil.copy(ROOT / "tests" / file, copy / "tests")
        for room in ("pure", "reliability", "torch"):
            shutil.copytree(ROOT / "tests" / room, copy / "tests" / room, ignore=ignored)
        (copy / "benchmarks").mkdir()
        shutil.copy(ROOT / "benchmarks" / "schemas.json", copy / "benchmarks")
        path = source(mutant, copy)
        path.write_text(path.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "SGL_LAB_SOAK": "1"}
        command = [sys.executable, "-c", RUN, f"tests/{mutant.killer}"]
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
            )
        except subprocess.TimeoutExpired:
            return Verdict(mutant, False, f"no answer in {TIMEOUT_S} s", time.perf_counter() - started)
    seconds = time.perf_counter() - started
    if done.returncode == 1:
        complaints = [line[1:].strip() for line in done.stdout.splitlines() if line.startswith("E ")]
        return Verdict(mutant, True, complaints[0] if complaints else "", seconds)
    how = {0: "survived", SMOKE_FAILED: "did not pass the smoke test"}.get(done.returncode, f"pytest ended with {done.returncode}")
    return Verdict(mutant, False, how, seconds)


def judged(mutants: Sequence[Mutant], at_once: int) -> Iterator[Verdict]:
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(judge, mutants)


def main(names: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    alive = 0
    for verdict in judged(chosen, os.cpu_count() or 1):
        alive += not verdict.is_killed
        mutant = verdict.mutant
        print(f"{'killed' if verdict.is_killed else 'ALIVE '}  {mutant.path:<18} {mutant.name}")
        print(f"        {mutant.killer.partition('::')[2]}: {verdict.output[:140]}  ({verdict.seconds:.1f} s)", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} planted bugs passed the smoke test and were killed")
    return 1 if alive or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
