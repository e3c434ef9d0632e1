"""What calls cost, and limits that stop a call before it would pass them.

To declare a budget (a cell's `--budget 0.50`, `%sgl stats`):

    from sgl_lab.backends.remote.budget import SESSION, spending

    with spending(0.50, "this cell") as account:    # it limits every remote call inside, of any backend
        ...
    account.spent, account.left, account.n_unknown  # in account.currency
    SESSION.limit = 5.00                            # for the process; SESSION.spent counts always
    SESSION.by_model                                # model -> Sum: calls, tokens, cost

Before each call the most that it can cost is set aside in the session's account and in each that is
open. If one of them has not that much left, the call fails with BudgetExceeded and nothing is sent.
Afterwards what it did cost takes the place of what was set aside. A call whose price is unknown
cannot be held against a limit: it is refused while there is one, and counted as unknown otherwise.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ...contracts.errors import BadArgument, BudgetExceeded
from ...contracts.port import Usage

_lock = threading.RLock()
"""of all accounts: a call is set aside in several at once"""


@dataclass(frozen=True, slots=True)
class Sum:
    """Of the calls to one model."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0
    n_unknown: int = 0
    """calls whose price is not known; `cost` is of the others"""

    def plus(self, usages: tuple[Usage, ...], cost: float | None) -> Sum:
        return Sum(
            self.calls + 1,
            self.prompt_tokens + sum(usage.prompt_tokens for usage in usages[:1]),
            self.completion_tokens + sum(usage.completion_tokens for usage in usages),
            self.cached_tokens + sum(usage.cached_tokens for usage in usages[:1]),
            self.cost + (cost or 0.0),
            self.n_unknown + (cost is None),
        )


class Account:
    """What was spent, what is set aside for calls under way, and the most that it may come to
    (None: no limit)."""

    currency = "USD"

    def __init__(self, what: str, limit: float | None = None) -> None:
        self.what = what
        self._limit: float | None = None
        self.limit = limit
        self.reset()

    def __repr__(self) -> str:
        limit = "" if self.limit is None else f" of {amount(self.limit)}"
        unknown = f", {self.n_unknown} calls of unknown price" if self.n_unknown else ""
        return f"<{self.what}: {amount(self.spent)}{limit} {self.currency} spent{unknown}>"

    @property
    def limit(self) -> float | None:
        return self._limit

    @limit.setter
    def limit(self, limit: float | None) -> None:
        is_amount = isinstance(limit, int | float) and not isinstance(limit, bool) and math.isfinite(limit) and limit >= 0
        if limit is not None and not is_amount:
            raise BadArgument(f"a budget must be an amount of {self.currency}, 0 or more, not {limit!r}", hint="such as 0.50")
        self._limit = limit

    @property
    def spent(self) -> float:
        with _lock:
            return sum(each.cost for each in self.by_model.values())

    @property
    def n_unknown(self) -> int:
        with _lock:
            return sum(each.n_unknown for each in self.by_model.values())

    @property
    def left(self) -> float | None:
        """What may still be set aside; None without a limit."""
        with _lock:
            return None if self.limit is None else max(0.0, self.limit - self.spent - self.reserved)

    def reset(self) -> None:
        """Forget what was spent; calls under way stay set aside."""
        with _lock:
            self.by_model: dict[str, Sum] = {}
            self.reserved = getattr(self, "reserved", 0.0)

    def _check(self, most: float | None, model: str) -> None:
        if self.limit is None:
            return
        if most is None:
            raise BudgetExceeded(
                f"{self.what} has a budget, and what {model} costs is unknown",
                hint="give the backend prices=Prices(prompt, completion), put the model into your prices file, or take the budget away",
            )
        if self.spent + self.reserved + most > self.limit:
            held = f", {amount(self.reserved)} set aside for calls under way" if self.reserved else ""
            raise BudgetExceeded(
                f"the next call to {model} may cost {amount(most)} {self.currency}, and {self.what} has spent {amount(self.spent)}{held}"
                f" of its {amount(self.limit)}",
                hint="raise the budget, lower max_tokens, or take a cheaper model; nothing was sent",
            )


SESSION = Account("the session")
"""What this process spent since it started, or since `reset`."""

_open: list[Account] = []


@contextmanager
def spending(limit: float | None, what: str = "this cell") -> Iterator[Account]:
    """Hold all calls that are made inside against a limit of their own, too; with None they are
    only counted."""
    account = Account(what, limit)
    with _lock:
        _open.append(account)
    try:
        yield account
    finally:
        with _lock:
            _open.remove(account)


class Reservation:
    """The most that one call may cost, set aside; `settle` exactly once, with what it did cost."""

    def __init__(self, model: str, most: float | None, own: Account | None = None) -> None:
        """BudgetExceeded if an account has not that much left: then nothing is set aside in any."""
        self._model, self._most, self._is_settled = model, most or 0.0, False
        with _lock:
            self._accounts = [SESSION, *_open, *([own] if own is not None else [])]
            for account in self._accounts:
                account._check(most, model)
            for account in self._accounts:
                account.reserved += self._most

    def settle(self, usages: tuple[Usage, ...], cost: float | None) -> None:
        """`usages` of the samples; empty for a call that never reached the server, which costs nothing."""
        with _lock:
            if self._is_settled:
                return
            self._is_settled = True
            for account in self._accounts:
                account.reserved = max(0.0, account.reserved - self._most)
                if usages:
                    account.by_model[self._model] = account.by_model.get(self._model, Sum()).plus(usages, cost)


def amount(value: float) -> str:
    """An amount of money, with as many digits as it needs: 0.50, 12.00, 0.00031."""
    return f"{value:.2f}" if value == 0 or value >= 0.1 else f"{value:.2g}" if value >= 1e-4 else f"{value:.6f}"
