"""Listens to the KV events of an SGLang or vLLM server: a ZeroMQ subscription, and the replay of
what was missed."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

from ...contracts.errors import BackendUnsupported, BadArgument
from ...contracts.events import Emit
from ...contracts.ids import Namespace
from ...contracts.tree import TreeSnapshot
from .blocks import SeenTree

_log = logging.getLogger(__name__)
_END = (-1).to_bytes(8, "big", signed=True)
_POLL_MS = 100
_REPLAY_MS = 2000


class KvListener:
    """A thread that reads the events published at `endpoint` (tcp://HOST:PORT) into a `SeenTree`.

    replay   where batches that were missed are asked for again; without it, a gap makes the tree
             begin again
    topic    of the subscription; all by default

    What a server stored before somebody listened is known only where it replays from the start.
    """

    def __init__(self, endpoint: str, namespace: Namespace, emit: Emit, *, replay: str = "", topic: str = "", engine: str = "") -> None:
        try:
            import msgpack
            import zmq
        except ImportError as error:
            raise BackendUnsupported(f"KV events need {error.name}", hint="pip install 'sgl_lab[serve]'") from None
        self._unpack: Callable[[bytes], object] = partial(msgpack.unpackb, raw=False, strict_map_key=False)
        self._zmq = zmq
        self.tree = SeenTree(namespace, emit, engine=engine)
        self.endpoint = endpoint
        self.n_missed = 0
        """batches that were never read"""
        self._next = 0
        """number of the batch that is to be read next"""
        self._newest = -1
        """number of the last batch of the subscription"""
        self._replay_at = replay
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise BadArgument(f"cannot listen to {endpoint!r:.80}: {error}", hint="give an address such as tcp://127.0.0.1:5557") from None
        self._thread = threading.Thread(target=self._run, name="sgl-kv-events", daemon=True)
        self._thread.start()

    def snapshot(self) -> TreeSnapshot:
        return self.tree.snapshot()

    def close(self) -> None:
        """End the thread. What it read stays."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            if self._replay_at:
                self._replay(0)
            while not self._stop.is_set():
                if self._socket.poll(_POLL_MS):
                    self._read(self._socket.recv_multipart())
        except Exception:
            if not self._stop.is_set():
                _log.exception("the KV events of %s cannot be read any more", self.endpoint)
        finally:
            self._context.destroy(linger=0)

    def _read(self, frames: list[bytes]) -> None:
        if len(frames) != 3:
            return
        number = int.from_bytes(frames[1], "big")
        if number <= self._newest:
            self.tree.restart()  # the server began again: it never says a number twice
            self._next = 0
        self._newest = number
        if number < self._next:
            return  # it was replayed
        if number > self._next and not self._replay(self._next, number):
            if self._next:
                self.n_missed += number - self._next
                self.tree.restart()
            self._next = number
        if number >= self._next:
            self._take(number, frames[2])

    def _take(self, number: int, payload: bytes) -> None:
        self._next = number + 1
        try:
            self.tree.take(self._unpack(payload))
        except (ValueError, TypeError, KeyError) as error:
            _log.warning("a batch of KV events of %s is malformed: %s", self.endpoint, error)

    def _replay(self, start: int, until: int | None = None) -> bool:
        """Ask for the batches from `start` on; whether they came without a gap."""
        if not self._replay_at:
            return False
        zmq = self._zmq
        dealer = self._context.socket(zmq.DEALER)
        try:
            dealer.connect(self._replay_at)
            dealer.send_multipart([b"", start.to_bytes(8, "big")])
            while dealer.poll(_REPLAY_MS) and not self._stop.is_set():
                frames = dealer.recv_multipart()
                number, payload = frames[-2], frames[-1]
                if number == _END:
                    break
                at = int.from_bytes(number, "big")
                if at < self._next:
                    continue
                if at > self._next and self._next:
                    return False
                self._take(at, payload)
            return until is None or self._next >= until
        finally:
            dealer.close(linger=0)


def address_of(info: Mapping[str, object], base_url: str) -> tuple[str, str, str] | None:
    """Where a server publishes, as its /get_server_info or /server_info says: (endpoint, replay
    endpoint, topic). None if it does not.

    A server that binds every address is reached where it answers http.
    """
    config = info.get("kv_events_config") or info.get("kv_events")
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError:
            return None
    if not isinstance(config, Mapping) or config.get("publisher", "zmq") != "zmq" or config.get("enable_kv_cache_events") is False:
        return None
    host = urlsplit(base_url).hostname or "127.0.0.1"
    endpoint, replay = str(config.get("endpoint") or "tcp://*:5557"), str(config.get("replay_endpoint") or "")
    return reached(endpoint, host), reached(replay, host), str(config.get("topic") or "")


def reached(endpoint: str, host: str) -> str:
    """An address to bind as one to connect to."""
    for every in ("//*:", "//0.0.0.0:", "//[::]:"):
        endpoint = endpoint.replace(every, f"//{host}:")
    return endpoint
