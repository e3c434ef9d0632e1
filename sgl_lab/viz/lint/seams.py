"""Text before a gen or a select that ends in a space, where nothing heals the seam.

A model writes a word with the space before it as one token. After a prompt that ends in a space it
must begin in the middle of such a token, so its likeliest tokens may be others. The engine draws the
end of the prompt again (token healing), so this is a fault only where that is off or missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp

from .finding import Case, Finding, Likely, Measures
from .seen import Request, Seen
from .words import quoted


def white_space(case: Case) -> Iterator[Finding]:
    for request in case.seen.requests:
        asked = request.asked
        if asked is None or asked.heals is not False or asked.max_tokens == 0 or not asked.before.endswith((" ", "\t")):
            continue
        what = "a tab" if asked.before.endswith("\t") else "a space"
        is_off = "heal=False" in "".join(case.source.text.split())
        yield Finding(
            "white-space",
            case.source.request_line(request.expr.line),
            f"the text before {request.name} ends in {what}, and {'heal=False keeps' if is_off else 'this backend keeps'} it apart "
            "from what follows",
            _effect(case.seen, request, what, case.measures),
            "end the text before the space: the model begins its word with one" + (", or leave heal=False out" if is_off else ""),
        )


def _effect(seen: Seen, request: Request, what: str, measures: Measures | None) -> str:
    """What the white space did to the likeliest tokens: measured by one request, two where the run
    recorded no alternatives.
    """
    unmeasured = "the model has to begin in the middle of its usual tokens"
    n = len(request.prompt)
    while n and not seen.spell(request.prompt[n - 1]).strip():
        n -= 1
    if measures is None or not 0 < n < len(request.prompt):
        return unmeasured
    first = request.first
    here: Likely = (
        first.top
        if first is not None and first.top and request.expr.kind == "gen" and not first.forced
        else measures.likeliest(request.prompt)
    )
    there = measures.likeliest(request.prompt[:n])
    if not here or not there:
        return unmeasured
    (now, p_now), (otherwise, p_otherwise) = here[0], there[0]
    shown = f"after {what} the likeliest token is {_shown(seen, now, p_now)}, without it {_shown(seen, otherwise, p_otherwise)}"
    is_same = seen.spell(now).strip() == seen.spell(otherwise).strip()
    return f"{shown}: the same word here" if is_same else shown


def _shown(seen: Seen, token: int, logprob: float) -> str:
    return f"{quoted(seen.spell(token))} ({100 * exp(min(logprob, 0.0)):.3g} %)"
