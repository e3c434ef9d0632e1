"""Whether the Triton that is installed can compile our kernels. Imports nothing that needs it."""

from __future__ import annotations

from importlib import metadata

LEAST = (3, 6)


def unfit_triton() -> str | None:
    """Why it cannot, in one line; None if it can."""
    try:
        found = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return f"triton is not installed: pip install 'triton>={'.'.join(map(str, LEAST))}'"
    version = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if version < LEAST:
        return f"triton {found} is older than {'.'.join(map(str, LEAST))}, which our kernels need"
    try:
        import triton  # noqa: F401
    except Exception as error:  # torch and triton of different builds fail in many ways
        return f"triton {found} cannot be imported: {error}"
    return None
