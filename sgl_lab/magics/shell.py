"""IPython's shell, as the magics use it. What IPython itself gives no type stays `Any`, here and
nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from traitlets.config import Config


class Shell(Protocol):
    """An `InteractiveShell`, in a kernel or a terminal."""

    user_ns: dict[str, Any]
    """the notebook's variables"""
    user_global_ns: dict[str, Any]
    config: Config
    enable_html_pager: bool
    events: Any
    configurables: Any
    display_formatter: Any
    display_pub: Any
    history_manager: Any
    inspector: Any
    magics_manager: Any
    Completer: Any
    InteractiveTB: Any
    SyntaxTB: Any
    _inspect: Callable[..., object]

    def _object_find(self, oname: str) -> Any: ...

    def register_magic_function(self, func: Callable[..., object], magic_kind: str, magic_name: str) -> None: ...

    def run_cell_magic(self, magic_name: str, line: str, cell: str) -> object: ...

    def transform_cell(self, raw_cell: str) -> str: ...
