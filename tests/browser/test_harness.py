"""The harness: everything that it starts ends, however the tests end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil

from .harness import Server

STARTER = """
import sys, urllib.request
from pathlib import Path
from tests.browser.harness import jupyterlab
root, home = map(Path, sys.argv[1:])
with jupyterlab(root, home) as server:
    urllib.request.urlopen(urllib.request.Request(server.url("api/kernels"), data=b"{}", method="POST"))
    print("started", flush=True)
    sys.stdin.read()
"""


def test_a_killed_test_run_leaves_neither_server_nor_kernel(tmp_path: Path) -> None:
    for name in ("root", "home"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", STARTER, str(tmp_path / "root"), str(tmp_path / "home")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout
        assert starter.stdout.readline() == b"started\n"
        started = psutil.Process(starter.pid).children(recursive=True)
        assert len(started) >= 3  # the guard, the server, the kernel
        os.kill(starter.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(started, timeout=60)
    assert left == []


def test_all_modules_share_two_servers(dark_7: Server, light_6: Server) -> None:
    assert dark_7.root == light_6.root
    for server in (dark_7, light_6):
        with urllib.request.urlopen(server.url(f"api/contents/{server.folder.rstrip('/')}")) as answer:
            assert json.load(answer)["type"] == "directory"
