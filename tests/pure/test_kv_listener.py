"""KV events over a real ZeroMQ socket, as SGLang and vLLM publish them: what was missed is asked for again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from sgl_lab.backends.trees.listen import KvListener
from sgl_lab.contracts.errors import BadArgument

Events = list[list[Any]]


class Publisher:
    """A PUB socket with numbered batches, and a ROUTER that sends them again."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.pub, self.router = self.context.socket(zmq.PUB), self.context.socket(zmq.ROUTER)
        self.at = f"tcp://127.0.0.1:{self.pub.bind_to_random_port('tcp://127.0.0.1')}"
        self.replay_at = f"tcp://127.0.0.1:{self.router.bind_to_random_port('tcp://127.0.0.1')}"
        self.sent: list[bytes] = []
        self.n_replays = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def say(self, *events: list[Any], lost: bool = False) -> None:
        self.sent.append(msgpack.packb([time.time(), list(events), 0]))
        if not lost:
            self.pub.send_multipart((b"", (len(self.sent) - 1).to_bytes(8, "big"), self.sent[-1]))

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not self.router.poll(20):
                continue
            client, _, start = self.router.recv_multipart()
            self.n_replays += 1
            for number in range(int.from_bytes(start, "big"), len(self.sent)):
                self.router.send_multipart((client, b"", number.to_bytes(8, "big"), self.sent[number]))
            self.router.send_multipart((client, b"", (-1).to_bytes(8, "big", signed=True), b""))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self.context.destroy(linger=0)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    yield publisher
    publisher.close()


def stored(hashed: int, parent: int | None, *tokens: int) -> list[Any]:
    return ["BlockStored", [hashed], parent, list(tokens), len(tokens), None]


def listening(publisher: Publisher, replay: str) -> KvListener:
    listener = KvListener(publisher.at, ("m", "seen"), lambda event: None, replay=replay)
    time.sleep(0.3)  # a subscription needs a moment; what comes before it is lost
    return listener


def becomes(listener: KvListener, *wanted: tuple[int, ...]) -> bool:
    end = time.monotonic() + 10
    while listener.tree.sequences() != set(wanted):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_what_was_stored_before_and_what_was_lost_on_the_way_is_asked_for_again(publisher: Publisher) -> None:
    publisher.say(stored(1, None, 10, 11))
    listener = listening(publisher, publisher.replay_at)
    assert becomes(listener, (10, 11))
    publisher.say(stored(2, 1, 12), lost=True)
    publisher.say(stored(3, 2, 13))
    assert becomes(listener, (10, 11, 12, 13))
    assert publisher.n_replays == 2
    assert (listener.n_missed, listener.tree.n_orphans) == (0, 0)
    listener.close()


def test_without_a_replay_a_gap_makes_the_tree_begin_again(publisher: Publisher) -> None:
    listener = listening(publisher, "")
    publisher.say(stored(1, None, 10))
    assert becomes(listener, (10,))
    publisher.say(stored(2, None, 20), lost=True)
    publisher.say(stored(3, None, 30))
    assert becomes(listener, (30,))
    assert listener.n_missed == 1
    listener.close()


def test_a_server_that_began_again_has_another_tree(publisher: Publisher) -> None:
    listener = listening(publisher, "")
    publisher.say(stored(1, None, 10))
    publisher.say(stored(2, 1, 11))
    assert becomes(listener, (10, 11))
    publisher.sent.clear()
    publisher.say(stored(9, None, 90))
    assert becomes(listener, (90,))
    listener.close()


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(BadArgument, match="tcp://127"):
        KvListener("nowhere", ("m",), lambda event: None)
