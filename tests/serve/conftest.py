"""One lab with the built-in model, and one door to it, for all tests of the door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sgl_lab.serve import Door, serve
from sgl_lab.session import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Lab("smollm2", cache_tokens=32_000) as lab:
        yield lab


@pytest.fixture(scope="session")
def door(lab: Lab) -> Iterator[Door]:
    with serve(lab) as door:
        yield door
