"""How much the door takes at once, in all and from one client."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..contracts.errors import BadArgument
from .errors import Refused

RETRY = {"Retry-After": "1"}


@dataclass(frozen=True, slots=True)
class Limits:
    """requests      sequences in the engine or on the way to it: samples of a prompt, prompts of a
                     batch
    per_client    the same, of one client
    body_bytes    of one request
    bodies_bytes  of all requests whose answers have not begun
    body_s        seconds in which a body must arrive
    stall_s       seconds after which a client that reads nothing is disconnected
    connections   open connections
    """

    requests: int = 512
    per_client: int = 256
    body_bytes: int = 8 << 20
    bodies_bytes: int = 64 << 20
    body_s: float = 30.0
    stall_s: float = 60.0
    connections: int = 2048


class Slots:
    """Counts what is held. Used on the door's loop alone."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held: Counter[str] = Counter()
        """sequences by client"""
        self.n_bytes = 0
        self.n_refused = 0

    @property
    def n_held(self) -> int:
        return self.held.total()

    def check(self, n: int) -> None:
        """BadArgument if one request of `n` sequences never fits."""
        if n > self.limits.per_client:
            raise BadArgument(f"one request may have at most {self.limits.per_client} sequences, not {n}", hint="send several requests")

    def take(self, client: str, n: int) -> None:
        """Hold `n` more sequences for `client`; Refused with 429 or 503 if they are too many now."""
        limits = self.limits
        if self.held[client] + n > limits.per_client:
            self.n_refused += 1
            raise Refused(429, f"{client} has {self.held[client]} sequences in flight, the limit is {limits.per_client}", headers=RETRY)
        if self.n_held + n > limits.requests:
            self.n_refused += 1
            raise Refused(503, f"{self.n_held} sequences are in flight, the limit is {limits.requests}", headers=RETRY)
        self.held[client] += n

    def release(self, client: str, n: int) -> None:
        self.held[client] -= n
        if self.held[client] <= 0:
            del self.held[client]

    def take_bytes(self, n: int) -> None:
        if self.n_bytes + n > self.limits.bodies_bytes:
            self.n_refused += 1
            raise Refused(503, "too many large requests arrive at once", headers=RETRY)
        self.n_bytes += n

    def release_bytes(self, n: int) -> None:
        self.n_bytes -= n
