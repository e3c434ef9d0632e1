"""Before anything imports torch: its threads sleep between operators, as they do in a lab (see `session.SPIN`)."""

from __future__ import annotations

import os

from sgl_lab.session import SPIN

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
