"""What the browser tests share: JupyterLab on either ipykernel for the whole run, a browser for a module, notebooks in it.

A browser lives no longer than a module: a running playwright would get in the way of other tests' event loops.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
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


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenServer]:
    """One JupyterLab for each ipykernel and theme, started when it is first asked for, all over the same folder.

    Each has a home of its own: none trusts a notebook that ran on another.
    """
    root = tmp_path_factory.mktemp("notebooks")
    with ExitStack() as open_servers:

        @cache
        def start(ipykernel: int, dark: bool) -> Server:
            if ipykernel == 6 and not IPYKERNEL_6.is_dir():
                pytest.fail("build/ipykernel6 is missing: `make test` makes it, or `make build/ipykernel6`")
            home = tmp_path_factory.mktemp("home")
            return open_servers.enter_context(jupyterlab(root, home, dark=dark, env=KERNEL_ENV[ipykernel]))

        yield start


@pytest.fixture(scope="module")
def dark_7(servers: OpenServer, request: pytest.FixtureRequest) -> Server:
    """On ipykernel 7, in the dark theme, over a folder of this module's own."""
    return servers(7, True).within(request.module.__name__)


@pytest.fixture(scope="module")
def light_6(servers: OpenServer, request: pytest.FixtureRequest) -> Server:
    """On ipykernel 6, in the light theme, over the same folder."""
    return servers(6, False).within(request.module.__name__)


@pytest.fixture(scope="module", params=["ipykernel7-dark", "ipykernel6-light"])
def server(request: pytest.FixtureRequest) -> Server:
    """Both, one after the other: a test that asks for it runs on each."""
    found: Server = request.getfixturevalue({"ipykernel7-dark": "dark_7", "ipykernel6-light": "light_6"}[request.param])
    return found


@pytest.fixture(scope="module")
def open_notebook(browser: Browser) -> Iterator[OpenNotebook]:
    """Tabs and kernels that last as long as the module, unless a test closes them."""
    with ExitStack() as tabs:

        def start(server: Server, name: str) -> Notebook:
            notebook = Notebook(browser, server, name)
            tabs.callback(notebook.close)
            return notebook

        yield start
