"""What README.md says is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


SCRIPTS = [block for block in BLOCKS if "import sgl_lab" in block]


@pytest.mark.parametrize("script", SCRIPTS, ids=["language", "lab"])
def test_a_script_in_the_readme_runs(script: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "sgl_lab.cli", "run", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
