"""A real JupyterLab on 127.0.0.1, and its notebooks in headless Chromium.

`jupyterlab` starts a server whose settings, data and profile are its own; `chromium` a browser without rights to
leave the machine; `Notebook` is one tab. Waiting and measuring are done in the page. Knows nothing of sgl_lab but
the names that its view and the notebooks' cells have in the page.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Locator, Request, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += [
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
]

START_S = 240
RUN_S = 240
"""seconds that a cell may take on a shared machine"""

SETTINGS: dict[str, dict[str, Any]] = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none", "kernelShutdown": True},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}
"""Every cell is in the page, nothing is written or asked unless a test does it."""

HELPERS = """
window.lab = {
  panel: () => [...jupyterapp.shell.widgets('main')].find((panel) => panel.content?.widgets && panel.sessionContext),
  kernel: () => lab.panel()?.sessionContext.session?.kernel,
  cell: (index) => lab.panel().content.widgets.at(index),
  ready: () => window.jupyterapp && lab.panel()?.context.isReady && lab.panel().content.widgets.length > 0
    && ['idle', 'busy'].includes(lab.kernel()?.status),
  prompts: () => [...lab.panel().node.querySelectorAll('.jp-CodeCell .jp-InputPrompt')],
  waiting: () => lab.prompts().filter((prompt) => prompt.textContent.includes('*')).length,
  busy: () => !lab.done || lab.waiting() > 0 || lab.kernel().status !== 'idle',
  done: true,
  begin: (command) => {
    lab.done = false;
    jupyterapp.commands.execute(command).finally(() => (lab.done = true));
  },
  run: (source) => {
    const notebook = lab.panel().content;
    notebook.model.sharedModel.addCell({ cell_type: 'code', source });
    notebook.activeCellIndex = notebook.widgets.length - 1;
    notebook.deselectAll();
    lab.begin('notebook:run-cell');
    return notebook.activeCellIndex;
  },
};
"""


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port


def write_notebook(path: Path, *sources: str) -> Path:
    """A notebook of these code cells; none of them has run."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]  # type: ignore[no-untyped-call]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)  # type: ignore[no-untyped-call]
    return path


def exported(path: Path) -> Path:
    """The page that nbconvert makes of a notebook, without the libraries that it would load from elsewhere."""
    none = [f"--HTMLExporter.{name}=" for name in ("require_js_url", "mathjax_url", "jquery_url", "mermaid_js_url")]
    subprocess.run([sys.executable, "-m", "nbconvert", "--log-level=ERROR", "--to=html", *none, str(path)], check=True)
    return path.with_suffix(".html")


# ---------------------------------------------------------------- the server


GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True)
class Server:
    root: Path
    """the folder of notebooks: the server's own root, or a folder in it"""
    port: int
    token: str
    dark: bool
    folder: str = ""
    """`root` as the server names it: nothing, or a path that ends in a slash"""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}?token={self.token}"

    def within(self, name: str) -> Server:
        """The same server, over a folder of its own for `name`."""
        root = self.root / name
        root.mkdir(exist_ok=True)
        return replace(self, root=root, folder=f"{self.folder}{name}/")


@contextmanager
def jupyterlab(root: Path, home: Path, *, dark: bool = False, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """JupyterLab over the notebooks in `root`; what it keeps for itself goes to `home`. The kernels inherit `env`.

    It ends with the context, and also when this process is killed (see guard.py).
    """
    theme = {"@jupyterlab/apputils-extension/themes": {"theme": f"JupyterLab {'Dark' if dark else 'Light'}"}}
    for name, values in (SETTINGS | theme).items():
        file = home / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    server = Server(root, free_port(), secrets.token_hex(16), dark)
    folders = {"CONFIG": "config", "RUNTIME": "runtime", "DATA": "data"}
    own = {f"JUPYTER_{name}_DIR": str(home / folder) for name, folder in folders.items()}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    own |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_PLATFORM_DIRS": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={server.port}"]
    command += [f"--IdentityProvider.token={server.token}", f"--ServerApp.root_dir={root}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LanguageServerManager.autodetect=False"]
    log = home / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, GUARD, *command],
            env={**os.environ, **own, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _until_it_answers(server, process, log)
        yield server
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


def _until_it_answers(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(server.url("api/status"), timeout=2):
            return
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-4000:]}")


@contextmanager
def chromium() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        raise RuntimeError("no chromium or google-chrome on PATH; `make test` installs one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


# ---------------------------------------------------------------- one notebook in a tab


def _context(browser: Browser, server: Server) -> BrowserContext:
    """The server's own: tabs after the first find JupyterLab in its cache. A request that is routed would pass the cache by."""
    for context in browser.contexts:
        if any(page.url.startswith(f"http://127.0.0.1:{server.port}/") for page in context.pages):
            return context
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark" if server.dark else "light")
    context.add_init_script(HELPERS)
    context.new_page().goto(f"http://127.0.0.1:{server.port}/api")  # keeps the place of the server whose context it is
    return context


class Notebook:
    """A notebook of the server, open in a tab of a browser that reaches nothing but this machine."""

    def __init__(self, browser: Browser, server: Server, name: str) -> None:
        self.server, self.file = server, server.root / name
        self.outside: list[str] = []
        """requests that would have left the machine; they were refused"""
        self.errors: list[str] = []
        """console errors and uncaught exceptions"""
        self.page = _context(browser, server).new_page()
        self.page.on("request", self._watch)
        self.page.set_default_timeout(30_000)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server.url(f"lab/workspaces/{secrets.token_hex(4)}/tree/{server.folder}{name}"))
        self.wait_ready()

    def _watch(self, request: Request) -> None:
        if not request.url.startswith((f"http://127.0.0.1:{self.server.port}/", "data:", "blob:")):
            self.outside.append(request.url)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def close(self) -> None:
        """Close the tab and end the kernel. Closing twice is harmless."""
        with suppress(Error):  # closed before, or the kernel died in a test
            self.js("await lab.panel()?.sessionContext.shutdown()")
        self.page.close()

    # -- waiting, in the page

    def js(self, script: str, argument: object = None) -> Any:
        """The value of a function body in the page; `arg` is the argument, `lab` the helpers."""
        return self.page.evaluate(f"async (arg) => {{ {script} }}", argument)

    def wait(self, condition: str, argument: object = None, seconds: float = RUN_S) -> None:
        """Until an expression over `arg` and `lab` holds in the page."""
        self.page.wait_for_function(f"(arg) => ({condition})", arg=argument, timeout=1000 * seconds, polling=50)

    def wait_ready(self) -> None:
        self.wait("lab.ready()", seconds=START_S)

    def wait_idle(self, seconds: float = RUN_S) -> None:
        self.wait("!lab.busy()", seconds=seconds)

    # -- running

    def command(self, name: str) -> None:
        """Run a command of JupyterLab without waiting for it."""
        self.js("lab.begin(arg)", name)

    def run_all(self) -> None:
        self.command("notebook:run-all-cells")
        self.wait_idle()

    def start(self, source: str) -> int:
        """Run a new last cell and return its index as soon as it is running."""
        index: int = self.js("return lab.run(arg)", source)
        self.wait("lab.done || lab.cell(arg).model.executionState === 'running'", index)
        return index

    def run(self, source: str) -> int:
        index = self.start(source)
        self.wait_idle()
        return index

    def ask(self, code: str) -> str:
        """The text that the kernel prints, outside of any cell."""
        answer: str = self.js(
            """const future = lab.kernel().requestExecute({ code: arg, store_history: false });
            let text = ''; future.onIOPub = ({ content }) => { text += content.text ?? content.evalue ?? ''; };
            await future.done; return text;""",
            code,
        )
        return answer.strip()

    # -- looking

    def cells(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.js("return lab.panel().content.widgets.map((cell) => cell.model.toJSON())")
        return found

    def result(self, index: int) -> str | None:
        """The plain text of a cell's `Out`."""
        for output in self.cells()[index]["outputs"]:
            if output["output_type"] == "execute_result":
                return "".join(output["data"]["text/plain"])
        return None

    def output(self, index: int) -> Locator:
        """The outputs below a cell."""
        return self.page.locator(".jp-Notebook-cell").nth(index).locator(".jp-Cell-outputWrapper")

    def save(self) -> Any:
        """Save with the keyboard shortcut. Returns the content of the file."""
        self.js("await lab.panel().context.save()")
        return nbformat.read(self.file, as_version=4)  # type: ignore[no-untyped-call]
