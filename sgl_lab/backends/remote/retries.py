"""When a call is made again: at most twice, never after the first byte of an answer, and not before
the server says."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ...contracts.errors import BadArgument

MAX_RETRIES = 2


@dataclass(frozen=True, slots=True)
class Retries:
    """`n` calls after the first; before the k-th a wait of up to `first_s` doubled k times,
    `longest_s` at most, drawn evenly."""

    n: int = MAX_RETRIES
    first_s: float = 0.5
    longest_s: float = 8.0

    def __post_init__(self) -> None:
        if type(self.n) is not int or not 0 <= self.n <= MAX_RETRIES:
            raise BadArgument(f"retries must be between 0 and {MAX_RETRIES}, not {self.n!r}")

    def wait_s(self, n_failed: int, asked_s: float | None) -> float:
        """Before the next attempt; what the server asks for is kept, and spread a little so that
        not all come back at once."""
        if asked_s is not None:
            return asked_s + random.uniform(0, min(self.first_s, 0.1 * asked_s))
        most = min(self.longest_s, self.first_s * 2 ** (n_failed - 1))
        return random.uniform(most / 2, most)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of Retry-After (a number or a date) or of retry-after-ms; None without one that
    can be read."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "")
        try:
            seconds = float(value)
        except ValueError:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        return max(0.0, seconds) if seconds < 1e9 else None
    except (ValueError, TypeError, OverflowError):
        return None
