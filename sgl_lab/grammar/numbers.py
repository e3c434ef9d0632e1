"""Numbers between limits as trees. The written decimals are compared digit by digit.

Under limits, a number has at most 15 significant digits, so that reading it as a float moves it
across no limit; it has no exponent.
"""

from __future__ import annotations

from decimal import Decimal

from ..contracts.patterns.tree import EMPTY, NOTHING, Chars, Many, Node, Such, Text, chain, choice

_DIGITS = Many(Chars(((48, 57),)))
_SIGN = Text("-")
INTEGER = choice([Text("0"), chain([Chars(((49, 57),)), _DIGITS])])


def _digit(low: int, high: int) -> Node:
    return Chars(((48 + low, 48 + high),)) if low <= high else NOTHING


def _digits(fewest: int, most: int | None) -> Node:
    return Many(_digit(0, 9), fewest, most) if most != 0 else EMPTY


FRACTION = chain([Text("."), _digits(1, None)])
ANY_INTEGER = chain([Many(_SIGN, 0, 1), INTEGER])
_SHORT = choice([Text("0"), chain([_digit(1, 9), _digits(0, 14)])])
_EXPONENT = chain([Chars(((69, 69), (101, 101))), Many(Chars(((43, 43), (45, 45))), 0, 1), _digits(1, 2)])
ANY_NUMBER = chain([Many(_SIGN, 0, 1), _SHORT, Many(chain([Text("."), _digits(1, 15)]), 0, 1), Many(_EXPONENT, 0, 1)])
_SHORT_FRACTION = Many(chain([Text("."), _digits(1, 15)]), 0, 1)
_EXACT = chain(
    [Many(_SIGN, 0, 1), choice([chain([Text("0"), _SHORT_FRACTION]), chain([_digit(1, 9), Many(Chars(((46, 46), (48, 57))), 0, 15)])])]
)


def between(low: Decimal | None, above: bool, high: Decimal | None, below: bool, is_whole: bool) -> Node:
    """At least `low`, or `above` it, and at most `high`, or `below` it."""
    fraction = EMPTY if is_whole else Many(FRACTION, 0, 1)
    size = chain([INTEGER, fraction])
    limits: list[Node] = [] if is_whole else [_EXACT]
    if low is not None and low < 0:
        limits.append(choice([size, chain([_SIGN, _at_most(-low, above, is_whole)])]))
    elif low is not None:
        limits.append(_at_least(low, above, is_whole))
    if high is not None and (high < 0 or (high == 0 and below)):
        limits.append(chain([_SIGN, _at_least(-high, below, is_whole)]))
    elif high is not None:
        limits.append(choice([_at_most(high, below, is_whole), chain([_SIGN, size])]))
    return limits[0] if len(limits) == 1 else Such(tuple(limits))


def _split(size: Decimal) -> tuple[str, str]:
    """Digits before the point, and after it as far as they count."""
    whole, _, fraction = f"{abs(size):f}".partition(".")
    return whole.lstrip("0") or "0", fraction.rstrip("0")


def _at_least(size: Decimal, more: bool, is_whole: bool) -> Node:
    whole, fraction = _split(size)
    free = EMPTY if is_whole else Many(FRACTION, 0, 1)
    larger = [chain([_digit(1, 9), _digits(len(whole), None)])]
    for i, digit in enumerate(whole):
        n_left = len(whole) - i - 1
        larger.append(chain([Text(whole[:i]), _digit(int(digit) + 1, 9), _digits(n_left, n_left)]))
    found = [chain([choice(larger), free])]
    if not fraction:
        found.append(chain([Text(whole), free if not more else NOTHING if is_whole else chain([Text("."), _beyond])]))
    elif not is_whole:
        rest = _beyond if more else _digits(0, None)
        for digit in reversed(fraction):
            rest = choice([chain([_digit(int(digit) + 1, 9), _digits(0, None)]), chain([Text(digit), rest])])
        found.append(chain([Text(f"{whole}."), rest]))
    return choice(found)


_beyond = chain([_digits(0, None), _digit(1, 9), _digits(0, None)])


def _at_most(size: Decimal, less: bool, is_whole: bool) -> Node:
    whole, fraction = _split(size)
    free = EMPTY if is_whole else Many(FRACTION, 0, 1)
    smaller = [Text("0"), chain([_digit(1, 9), _digits(0, len(whole) - 2)])] if len(whole) > 1 else []
    for i, digit in enumerate(whole):
        least = 1 if i == 0 and len(whole) > 1 else 0
        smaller.append(chain([Text(whole[:i]), _digit(least, int(digit) - 1), _digits(len(whole) - i - 1, len(whole) - i - 1)]))
    found = [chain([choice(smaller), free])]
    zeros = Many(Text("0"))
    if not fraction:
        found.append(NOTHING if less else Text(whole) if is_whole else chain([Text(whole), Many(chain([Text(".0"), zeros]), 0, 1)]))
    elif is_whole:
        found.append(Text(whole))
    else:
        rest: Node | None = None
        for n, digit in enumerate(reversed(fraction)):
            same = (NOTHING if less else chain([Text(digit), zeros])) if n == 0 else chain([Text(digit), Many(rest or EMPTY, 0, 1)])
            rest = choice([chain([_digit(0, int(digit) - 1), _digits(0, None)]), same])
        found.append(chain([Text(whole), Many(chain([Text("."), rest or EMPTY]), 0, 1)]))
    return choice(found)
