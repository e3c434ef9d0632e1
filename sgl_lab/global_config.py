"""Supports `from sgl_lab.global_config import global_config`, as programs write it.

Importing the module replaces the settings object as an attribute of the package. The module
therefore forwards attributes to the settings.
"""

from __future__ import annotations

import sys
from types import ModuleType

from .lang.global_config import GlobalConfig, global_config

__all__ = ["GlobalConfig", "global_config"]


class _Settings(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(global_config, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
        else:
            setattr(global_config, name, value)


sys.modules[__name__].__class__ = _Settings
