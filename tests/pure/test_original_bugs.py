"""Where the original is known to be wrong, and the tests that say what is done here instead.

`ROWS` are its known bugs. Each but those that come with tracing and images names its tests, and an edit that brings the
original's behaviour back, of which the first test dies: all edits in soak, else one that changes with the source.
"""

from __future__ import annotations

import ast
import random
import zlib
from pathlib import Path
from typing import NamedTuple

from ..reliability.mutants import Mutant, judged, source
from .driving import SOAK

TESTS = Path(__file__).parents[1]
LATER = {8: "what cannot be traced"}


class Row(NamedTuple):
    bug: str
    tests: tuple[str, ...]
    """below tests/pure/; the first dies of the edit"""
    path: str
    """below sgl_lab/lang/"""
    old: str
    new: str


ROWS = {
    1: Row(
        "a backend error is a warning, a bare KeyError at the read, and then a hang",
        (
            "test_lang_streams.py::test_a_failed_gen_raises_the_original_exception_at_the_first_read_with_the_users_line",
            "test_lang_watchdog.py::test_every_operation_ends_after_every_failure",
            "test_lang_watchdog.py::test_every_way_to_run_a_program_ends_after_every_failure",
        ),
        "access.py",
        "            raise self._run.seen(variable.error)",
        "            raise KeyError(name)",
    ),
    2: Row(
        "an error in a forked child vanishes in join",
        (
            "test_lang_streams.py::test_an_error_in_a_child_is_raised_from_join_and_names_the_fork",
            "test_lang_async.py::test_a_read_in_a_coroutine_raises_what_went_wrong",
        ),
        "group.py",
        "                state.sync()",
        "                pass",
    ),
    3: Row(
        'join("concate_and_append") appends nothing and hangs',
        (
            "test_lang_streams.py::test_join_can_append_what_the_children_said_with_their_tokens",
            "test_lang_streams.py::test_joined_chats_go_on_as_one_chat",
        ),
        "stream.py",
        "                self.transcript.replay(entry for child in children for entry in child.own_history)",
        "                pass",
    ),
    4: Row(
        "the hint before a fork is lost",
        ("test_lang_streams.py::test_the_parent_is_drained_and_warmed_before_its_children_start",),
        "streams.py",
        "        if self.transcript.ids and self.run.card.capabilities.warms:\n            Warming(",
        "        if False:\n            Warming(",
    ),
    5: Row(
        "a batch runs the body once more, and shares no short prefix and none behind an f-string",
        (
            "test_lang_batch.py::test_a_batch_runs_each_body_once_and_gives_states_in_order",
            "test_lang_batch.py::test_a_shared_prefix_is_found_from_the_prompts_themselves",
        ),
        "batch.py",
        "            state = begin().run()",
        "            begin().run()\n            state = begin().run()",
    ),
    6: Row(
        "one failing item of a batch loses all results",
        (
            "test_lang_batch.py::test_one_failing_item_costs_only_itself",
            "test_lang_async.py::test_one_failing_item_of_an_async_batch_costs_only_itself",
        ),
        "batch.py",
        "            return state.error() or state\n        except Exception as error:\n            return error",
        "            state.sync()\n            return state\n        finally:\n            pass",
    ),
    7: Row(
        "a program inside another ignores its backend and sampling",
        (
            "test_lang_programs.py::test_a_program_inside_another_inherits_backend_sampling_and_run",
            "test_lang_async.py::test_a_program_inside_another_inherits_backend_sampling_and_run",
        ),
        "beginning.py",
        "    outer = current_run()",
        "    outer = None",
    ),
    9: Row(
        "several samples crash",
        ("test_lang_streams.py::test_several_samples_are_a_list_and_the_program_goes_on_with_the_first",),
        "generation.py",
        "            return items[0] if len(outputs) == 1 else items",
        "            return items[0] + ''",
    ),
    10: Row(
        "the caller's list of stops is changed",
        ("test_lang_sampling.py::test_the_callers_stop_list_is_copied",),
        "sampling.py",
        "        return (value,)\n",
        "        return (value,)\n    value.append('USER:')\n",
    ),
    11: Row(
        's += s.user("hi") appends twice',
        ("test_lang_streams.py::test_role_methods_append_once_however_they_are_used",),
        "expressions.py",
        "        if expr.stream is not stream:",
        "        if True:",
    ),
    12: Row(
        "arguments of a program that are named as settings are swallowed",
        ("test_lang_programs.py::test_the_programs_own_parameters_win",),
        "program.py",
        "for name in SETTINGS - set(self.arg_names) if",
        "for name in SETTINGS if",
    ),
    13: Row(
        "gens without a name overwrite each other; no choices at all are a free gen",
        (
            "test_lang_streams.py::test_unnamed_gens_are_kept_under_their_positions",
            "test_lang_sampling.py::test_a_gen_with_an_illegal_argument_fails_at_the_call",
        ),
        "strand.py",
        "name: Name = n_unnamed if leaf.name is None else leaf.name",
        "name = leaf.name",
    ),
    14: Row(
        "dtype=int with a stop that is a string, or a select with a temperature, fails in a worker",
        (
            "test_lang_structured.py::test_a_number_ends_where_something_else_begins_and_a_stop_beside_it_works",
            "test_lang_sampling.py::test_a_gen_with_an_illegal_argument_fails_at_the_call",
        ),
        "expressions.py",
        "stop_regex=(*params.stop_regex, *self.form.stop_regex)",
        "stop=params.stop + [' ']",
    ),
    15: Row(
        "separate_reasoning loses what the turn began with, and hangs when streamed",
        (
            "test_lang_reasoning.py::test_the_lead_in_is_kept_and_the_model_sees_only_the_answer",
            "test_lang_reasoning.py::test_streamed_it_shows_the_answer_as_it_comes_and_ends",
        ),
        "transcript.py",
        "        self._add(piece)\n",
        "        self._turns[-1:] = [Turn(turn.role) for turn in self._turns[-1:]]\n        self._add(piece)\n",
    ),
    16: Row(
        "a stream ends silently when the body raised",
        (
            "test_lang_batch.py::test_a_stream_raises_what_the_body_raised_and_reads_do_too",
            "test_lang_async.py::test_an_async_stream_raises_what_the_body_raised",
        ),
        "access.py",
        "        if name is None:\n            self._raise()\n",
        "        if name is None:\n            return\n",
    ),
    17: Row(
        "a speculation that failed leaves all values empty",
        ("test_lang_structured.py::test_what_came_ahead_and_does_not_fit_costs_one_call_a_gen_and_no_value",),
        "ahead.py",
        "        return bool(self.text) and (self.ended or first_stop(self.text, params) is not None)",
        "        return True",
    ),
    18: Row(
        "a fork is a thread",
        (
            "test_lang_streams.py::test_a_fork_is_not_a_thread",
            "test_lang_async.py::test_a_batch_of_200_with_64_forks_each_has_no_thread_a_fork",
        ),
        "stream.py",
        "        self._blocked = parent is not None\n",
        "        self._blocked = parent is not None\n"
        "        import threading\n        threading.Thread(target=threading.Event().wait, args=(5,), daemon=True).start()\n",
    ),
}

PLANTED = {n: Mutant(f"row {n}: {row.bug}", f"lang/{row.path}", row.old, row.new, f"pure/{row.tests[0]}") for n, row in ROWS.items()}


def test_every_row_names_tests_that_are_there() -> None:
    assert sorted(ROWS.keys() | LATER.keys()) == list(range(1, 19))
    for row in ROWS.values():
        for test in row.tests:
            file, _, name = test.partition("::")
            tree = ast.parse((TESTS / "pure" / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_every_edit_fits_its_source() -> None:
    assert not [mutant.name for mutant in PLANTED.values() if source(mutant).read_text(encoding="utf-8").count(mutant.old) != 1]


def test_the_tests_die_of_what_the_original_does() -> None:
    planted = list(PLANTED.values())
    if SOAK == 1:
        text = b"".join(path.read_bytes() for path in sorted({source(mutant) for mutant in planted}))
        planted = random.Random(zlib.crc32(text)).sample(planted, 1)
    verdicts = list(judged(planted, 2))
    assert verdicts
    assert [(verdict.mutant.name, verdict.output) for verdict in verdicts if not verdict.is_killed] == []
