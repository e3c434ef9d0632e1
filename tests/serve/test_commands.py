"""`sgl-lab serve` and `%sgl serve`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from sgl_lab.magics.commands import COMMANDS
from sgl_lab.magics.session import Session
from sgl_lab.serve import Door

from .calls import until


def test_the_command_serves_until_sigterm(folder: Path) -> None:
    words = [sys.executable, "-m", "sgl_lab.cli", "serve", str(folder), "--cache-tokens", "2000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        url = lines[0].split()[-1]
        file = Path(lines[1].partition("$(cat ")[2].partition(")")[0])
        assert file.stat().st_mode & 0o077 == 0
        token = file.read_text()
        assert token not in "".join(lines)
        request = urllib.request.Request(f"{url}/v1/models", headers={"x-api-key": token})
        assert json.load(urllib.request.urlopen(request))["data"][0]["id"] == "tiny"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not file.exists()


def test_a_notebook_shows_its_door_and_closes_it(door: Door, capsys: object) -> None:
    session, command = Session(), COMMANDS["serve"]
    session.door = door
    command.action(None, session, command.read("serve", ["status", "--text"]))
    shown = capsys.readouterr().out  # type: ignore[attr-defined]  # pytest's
    assert door.url in shown
    assert door.token not in shown
    assert until(lambda: door.is_open)
