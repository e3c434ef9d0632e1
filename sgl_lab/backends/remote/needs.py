"""The vendors' SDKs, which are extras: imported when used, or named with the command that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ...contracts.errors import BackendUnsupported

PLACEHOLDER = "sgl-lab-sends-the-key-itself"
"""what an SDK gets for a key"""


def need(module: str, extra: str, by: str) -> ModuleType:
    """The SDK's module. BackendUnsupported, with the command, where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise BackendUnsupported(f"{by} needs {missing}, which is not installed", hint=f"pip install 'sgl_lab[{extra}]'") from None
