"""One execution of a program: its state, and the ways to run its body.

A body is a function, or a coroutine function with a loop. Either can run to its end here, or be
started in the background. In that case the run keeps an exception of the body, and reads raise it.

The body runs on the cell's own thread and waits in slices of 50 ms, so print, pdb, tracebacks and
Ctrl-C stay normal. Only the bodies of a batch, of `stream=True` and of background cells need a
thread pool. "Am I in the body?" is asked of the context, never of the thread.

A coroutine that waits has neither a thread nor a timer: a change of a run wakes the loops that wait
for it (`loop`). `run` drives a coroutine on a loop of its own on the calling thread, also where one
runs already (a notebook's), which stands still meanwhile. So a cell that awaits prints, reads and
is interrupted like any other. An async batch is one thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .global_config import global_config
from .interrupts import INTERRUPTS
from .loop import drive
from .state import ProgramState


class Execution:
    def __init__(self, state: ProgramState, body: Callable[[], Any], is_async: bool) -> None:
        self.state = state
        self._run = state._run
        self._body = body
        self._is_async = is_async

    def run(self) -> ProgramState:
        """Run the body to its end, on this thread."""
        __tracebackhide__ = True  # a notebook shows only the user's frames
        state = self.state
        with INTERRUPTS.watched():
            try:
                with state.running():
                    self._execute()
                    state.wait()
            except KeyboardInterrupt:  # `running` has cancelled the program: none of it continues
                state.wait()
                raise
        return self._finished()

    async def run_async(self) -> ProgramState:
        """Run the body to its end; a function on a thread of its own. If the task is cancelled, so
        is the run.
        """
        __tracebackhide__ = True
        state = self.state
        if self._is_async:
            with state.running():
                state.ret_value = await self._awaited()
                await state.wait_async()
            return self._finished()
        self.begin()
        try:
            await state.wait_async()
        except asyncio.CancelledError:
            state.cancel("the task was cancelled")
            raise
        if self._run.body_error is not None:
            raise self._run.body_error
        return self._finished()

    def begin(self) -> ProgramState:
        """Start the body on a thread of its own. If that fails, or an interrupt arrives meanwhile,
        none of it continues.
        """
        if self._run.traced:  # a trace has one order
            contextvars.copy_context().run(self._alone)
            return self.state
        try:
            with INTERRUPTS.watched():
                self._run.expect_body()
                context = contextvars.copy_context()
                threading.Thread(target=context.run, args=(self._alone,), name="sgl-program", daemon=True).start()
        except BaseException:
            self.state.cancel()
            raise
        return self.state

    def begin_async(self) -> ProgramState:
        """Start the body as a task of the current loop; a function on a thread of its own."""
        if not self._is_async:
            return self.begin()
        loop = asyncio.get_running_loop()
        self._run.expect_body(loop)
        self._run.body_task = loop.create_task(self._alone_async())
        return self.state

    def _finished(self) -> ProgramState:
        if global_config.verbosity >= 2:
            print(self.state.text())
        return self.state

    def _execute(self) -> None:
        __tracebackhide__ = True
        self.state.ret_value = drive(self._awaited(), self._run.check) if self._is_async else self._body()

    async def _awaited(self) -> object:
        __tracebackhide__ = True
        with self._run.awaited():
            return await self._body()

    def _alone(self) -> None:
        with suppress(Exception), self.state.running():
            self._execute()

    async def _alone_async(self) -> None:
        with suppress(Exception), self.state.running():
            self.state.ret_value = await self._awaited()
