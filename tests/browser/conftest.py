"""What the browser tests share: a browser for a module, JupyterLab on either ipykernel, notebooks in it.

Nothing lives longer than a module: a running playwright would get in the way of other tests' event loops.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from .harness import Notebook, Server, chromium, jupyterlab

IPYKERNEL_6 = Path(__file__).parents[2] / "build" / "ipykernel6"
KERNEL_ENV = {7: {}, 6: {"PYTHONPATH": os.pathsep.join([str(IPYKERNEL_6), os.environ.get("PYTHONPATH", "")])}}

OpenServer = Callable[..., Server]
OpenNotebook = Callable[[Server, str], Notebook]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenServer]:
    """Servers that last as long as the module, over an empty folder or `root`. Each has a home of its own: it trusts no notebook yet."""
    with ExitStack() as open_servers:

        def start(ipykernel: int = 7, *, dark: bool = False, root: Path | None = None) -> Server:
            if ipykernel == 6 and not IPYKERNEL_6.is_dir():
                pytest.fail("build/ipykernel6 is missing: `make test` makes it, or `make build/ipykernel6`")
            root = root or tmp_path_factory.mktemp("notebooks")
            home = tmp_path_factory.mktemp("home")
            return open_servers.enter_context(jupyterlab(root, home, dark=dark, env=KERNEL_ENV[ipykernel]))

        yield start


@pytest.fixture(scope="module")
def open_notebook(browser: Browser) -> Iterator[OpenNotebook]:
    """Tabs that last as long as the module."""
    with ExitStack() as tabs:

        def start(server: Server, name: str) -> Notebook:
            notebook = Notebook(browser, server, name)
            tabs.callback(notebook.close)
            return notebook

        yield start
