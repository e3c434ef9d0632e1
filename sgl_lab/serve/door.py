"""A door: the server's thread, its address and token, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import tempfile
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from ..contracts.errors import BackendUnsupported, BadArgument, EngineStopped, ProgramError, SglError
from .kv_events import Publisher
from .limits import Limits

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import Receive, Scope, Send

    from ..session import Lab
    from .app import DoorState
    from .clients import Clients
    from .paths import Counts, Paths

_log = logging.getLogger(__name__)

MIN_TOKEN = 16
START_S = 10.0
STOP_S = 5.0
LOOK_S = 1.0
"""seconds between looks at whether the lab still lives"""


def serve(
    lab: Lab,
    *,
    port: int = 0,
    token: str | None = None,
    origins: Iterable[str] = (),
    limits: Limits | None = None,
    kv_events: bool = False,
) -> Door:
    """Open a door to `lab` on loopback. It is closed with the lab, and by `close`.

    port     0 takes a free one
    token    what clients send as their key; None makes a random one
    origins  pages that may use it too, such as `http://localhost:3000`
    kv_events  also publish the radix tree over ZMQ, on a port that /server_info names. Viewers of it
               have no token: any process on this machine can connect and read the tokens

    BadArgument if the port is taken or an argument is invalid; BackendUnsupported without starlette and
    uvicorn.
    """
    if type(port) is not int or not 0 <= port < 65_536:
        raise BadArgument(f"port must be a number from 0 to 65535, not {port!r}")
    if token is not None and (not isinstance(token, str) or len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise BadArgument(f"a token has at least {MIN_TOKEN} printable ASCII characters", hint="leave it out for a random one")
    return Door(lab, port, token or secrets.token_urlsafe(32), frozenset(origins), limits or Limits(), kv_events)


class Door:
    """An open door. Use it as a context manager or call `close`.

    url    the address, without a path
    token  what clients send as their key
    """

    def __init__(self, lab: Lab, port: int, token: str, origins: frozenset[str], limits: Limits, kv_events: bool) -> None:
        try:
            import starlette  # noqa: F401
            import uvicorn
        except ImportError:
            raise BackendUnsupported("the door needs starlette and uvicorn", hint='pip install "sgl_lab[serve]"') from None
        lab.backend.poll()
        self._publisher = Publisher(lab) if kv_events else None
        self.lab = lab
        self.token = token
        self.limits = limits
        self.url = ""
        self._origins = origins
        self._started = threading.Event()
        self._failed: BaseException | None = None
        self._state: DoorState | None = None
        self._paths: Paths | None = None
        config = uvicorn.Config(
            self._app,
            host="127.0.0.1",
            port=port,
            log_config=None,
            access_log=False,
            lifespan="off",
            loop="asyncio",
            http="h11",
            ws="none",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=64 << 10,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="sgl_lab door", daemon=True)
        self._thread.start()
        if not self._started.wait(START_S) or self._failed is not None:
            self._server.should_exit = True
            if isinstance(self._failed, SglError):
                raise self._failed
            raise BadArgument(f"port {port} cannot be opened", hint="it may be taken: leave it out for a free one")
        file, self.token_file = tempfile.mkstemp(prefix="sgl_lab-door-", suffix=".token")
        """the latter is a file for this user alone that holds the token; it goes with the door"""
        os.write(file, token.encode())
        os.close(file)
        self._finalizer = weakref.finalize(self, _remove, self.token_file, os.getpid())
        _doors.add(self)

    # ------------------------------------------------------------ for users

    @property
    def is_open(self) -> bool:
        return self._thread.is_alive() and not self._server.should_exit

    @property
    def client(self) -> dict[str, str]:
        """Arguments for `openai.OpenAI(**door.client)`."""
        return {"base_url": f"{self.url}/v1", "api_key": self.token}

    def counts(self) -> Counts:
        """What is held now, by client; what was answered and refused so far."""
        assert self._paths is not None, "the door has opened"
        return self._paths.counts()

    def clients(self) -> list[tuple[str, int, int]]:
        """(name, requests, of which in flight) of each client whose run goes on."""
        return self._state.clients.counts() if self._state is not None else []

    def help(self) -> str:
        """How other programs come in. It names the file with the token, not the token."""
        key = f"$(cat {self.token_file})"
        return "\n".join(
            (
                f"the door to {self.lab.card.name} is open at {self.url}",
                f"  export OPENAI_BASE_URL={self.url}/v1 OPENAI_API_KEY={key}",
                f"  export ANTHROPIC_BASE_URL={self.url} ANTHROPIC_API_KEY={key}",
                f"  SGLang: RuntimeEndpoint({self.url!r}, api_key=...)",
            )
        )

    def close(self) -> None:
        """Close it: requests in flight are cancelled, connections end."""
        if self._state is not None:
            with suppress(RuntimeError):  # its loop has ended
                self._state.loop.call_soon_threadsafe(self._state.refuse)
        self._server.should_exit = True
        self._finalizer()
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<door {self.url} to {self.lab.card.name}, {'open' if self.is_open else 'closed'}>"

    def __reduce__(self) -> NoReturn:
        raise ProgramError("a door belongs to this process and cannot be pickled")

    # ------------------------------------------------------------ its thread

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._live())
        except BaseException as error:
            if not self._started.is_set():
                self._failed = error
            elif not isinstance(error, SystemExit):
                _log.exception("the door failed")
        finally:
            self._server.should_exit = True
            self._started.set()

    async def _live(self) -> None:
        from .app import DoorState
        from .clients import Clients
        from .parsed import Model
        from .paths import Paths
        from .routes import application

        state = DoorState(Model(self.lab.backend), Clients(self.lab), self.limits)
        self._state = state
        self._paths = Paths(self.lab, state, {} if self._publisher is None else self._publisher.info)
        self._inner = application(self.lab, state, self._paths, self.token, self._origins)
        watch = asyncio.create_task(self._watch(state.clients, self._server))
        try:
            await self._server.serve()
        finally:
            watch.cancel()
            state.close()
            if self._publisher is not None:
                await asyncio.to_thread(self._publisher.close)
            await asyncio.to_thread(state.clients.close)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._inner(scope, receive, send)

    async def _watch(self, clients: Clients, server: uvicorn.Server) -> None:
        """Tell of the start; end with the lab."""
        while not server.started:
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._started.set()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self.lab.backend.poll()
            except EngineStopped:
                server.should_exit = True
                return
            with suppress(SglError):
                await asyncio.to_thread(clients.sweep)


_doors: weakref.WeakSet[Door] = weakref.WeakSet()


def _forget_doors() -> None:
    """In a forked process the threads are not there."""
    for door in tuple(_doors):
        door._server.should_exit = True


os.register_at_fork(after_in_child=_forget_doors)


def _remove(path: str, process: int) -> None:
    """Remove the file; a forked process leaves it."""
    if os.getpid() == process:
        with suppress(OSError):
            os.unlink(path)
