"""Runs a command until it ends or its starter is gone, even if the starter was killed; then the command is ended too.

python guard.py COMMAND ...      standard input is a pipe that the starter holds open
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE_S = 20
"""in which a JupyterLab ends its kernels and itself"""


def main() -> int:
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)

    def end() -> None:
        sys.stdin.buffer.read()  # returns when the starter closes the pipe or dies
        command.terminate()
        try:
            command.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)

    threading.Thread(target=end, daemon=True).start()
    return command.wait()


if __name__ == "__main__":
    sys.exit(main())
