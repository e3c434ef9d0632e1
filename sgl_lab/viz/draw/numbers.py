"""Formats numbers the same way on every surface."""

from __future__ import annotations

from ..views.metrics import MetricsPicture

UNCOUNTED = "cached: not reported"


def is_uncounted(picture: MetricsPicture) -> bool:
    """Whether an engine elsewhere answered without a word of what it had cached."""
    return picture["answered"] > 0 and picture["uncounted"] == picture["answered"]


def money(cost: float, currency: str, unpriced: int = 0) -> str:
    """A cost, as 0.0012 USD; with a plus if there are requests of an unknown cost beside it."""
    digits = 2 if cost >= 10 or not cost else 4 if cost >= 0.01 else 6
    return f"{cost:,.{digits}f} {currency}" + (" +" if unpriced else "")


def counted(n: int, what: str) -> str:
    """A number with its unit: `counted(2, "token")` returns "2 tokens"."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.3g} %" if share < 0.9995 else "100 %"


def brief(n: int) -> str:
    """A short number, as on the live page: 9,999, 46.6K, 1.2M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= max(size, 10_000) and size <= n:
            return f"{n / size:.1f}".removesuffix(".0") + unit
    return f"{n:,}"


def seconds(ms: float) -> str:
    """A duration, as on the live page: 8.5 ms, 412 ms, 1.20 s, 12.3 s."""
    if ms < 1000:
        return f"{ms:.1f}".removesuffix(".0") + " ms" if ms < 10 else f"{ms:.0f} ms"
    return f"{ms / 1000:.{2 if ms < 10_000 else 1}f} s"


def duration(ms: float) -> str:
    return f"{ms:.3g} ms" if ms < 1000 else f"{ms / 1000:.3g} s"


def metric_items(picture: MetricsPicture) -> list[tuple[str, str]]:
    """(value, name) of each number beside the token counts. Numbers that do not apply are left out."""
    items: list[tuple[str, str]] = []
    if picture["currency"]:
        items.append((money(picture["cost"], picture["currency"], picture["unpriced"]), "cost"))
    if picture["forced"]:
        items.append((f"{picture['forced']:,}", "of them forced"))
    if picture["tok_s"]:
        items.append((f"{int(picture['tok_s'] + 0.5):,}", "tokens/s"))
    if picture["forks"]:
        items.append((f"{picture['forks']:,}", "fork" if picture["forks"] == 1 else "forks"))
    if picture["n_pages"]:
        items.append((f"{picture['n_pages'] - picture['free_pages']:,}", f"of {picture['n_pages']:,} pages"))
    if picture["evicted"]:
        items.append((f"{picture['evicted']:,}", "tokens evicted"))
    if picture["waiting"] or picture["running"]:
        items.append((f"{picture['running']:,} / {picture['waiting']:,}", "running / waiting"))
    return items
