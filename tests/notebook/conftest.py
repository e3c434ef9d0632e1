"""A real kernel: the messages of a cell, as a front end receives them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Reply:
    """All that one cell sent."""

    status: str = ""
    ename: str = ""
    evalue: str = ""
    traceback: str = ""
    printed: str = ""
    result: str | None = None
    shown: list[dict[str, Any]] = field(default_factory=list)
    """data of each display in the end, updates applied, in order"""
    metadata: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    ids: list[str | None] = field(default_factory=list)


class Kernel:
    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel()

    def start(self, code: str) -> str:
        return self.client.execute(code, allow_stdin=False)

    def finish(self, message: str, timeout: float = 120) -> Reply:
        """Collect until the cell is done."""
        reply, end, begun = Reply(), time.monotonic() + timeout, time.monotonic()
        while True:
            answer = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
            if answer["parent_header"].get("msg_id") != message:
                continue
            kind, content = answer["msg_type"], answer["content"]
            if kind == "stream":
                reply.printed += content["text"]
            elif kind == "execute_result":
                reply.result = content["data"]["text/plain"]
            elif kind == "display_data":
                reply.shown.append(content["data"])
                reply.metadata.append(content["metadata"])
                reply.ids.append(content.get("transient", {}).get("display_id"))
            elif kind == "update_display_data":
                place = content["transient"]["display_id"]
                if place not in reply.ids:  # it was shown before this began to listen
                    reply.shown.append({})
                    reply.metadata.append({})
                    reply.ids.append(place)
                reply.shown[reply.ids.index(place)] = content["data"]
                reply.metadata[reply.ids.index(place)] = content["metadata"]
            elif kind == "error":
                reply.ename, reply.evalue = content["ename"], content["evalue"]
                reply.traceback = ANSI.sub("", "\n".join(content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                break
        while True:
            shell = self.client.get_shell_msg(timeout=max(0.1, end - time.monotonic()))
            if shell["parent_header"].get("msg_id") == message:
                reply.status = shell["content"]["status"]
                reply.ename = reply.ename or shell["content"].get("ename", "")
                reply.evalue = reply.evalue or shell["content"].get("evalue", "")
                reply.seconds = time.monotonic() - begun
                return reply

    def run(self, code: str, timeout: float = 120) -> Reply:
        return self.finish(self.start(code), timeout)

    def wait_for(self, kind: str, message: str, pattern: str = "", timeout: float = 60) -> dict[str, Any]:
        """Read until the cell sends a message of this kind that contains `pattern`. `finish` does
        not see the messages read here.
        """
        end = time.monotonic() + timeout
        while True:
            answer = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
            ours = answer["parent_header"].get("msg_id") == message and answer["msg_type"] == kind
            body = b"".join(map(bytes, answer["buffers"])).decode()  # of a widget's message
            if ours and re.search(pattern, json.dumps(answer["content"]) + body):
                return answer

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """One kernel for a module, the extension loaded."""
    running = Kernel()
    assert running.run("%load_ext sgl_lab").status == "ok"
    yield running
    running.close()


@pytest.fixture
def fresh_kernel() -> Iterator[Kernel]:
    running = Kernel()
    yield running
    running.close()
