"""Regular expressions of JSON, under the original's name for the module."""

from ..lang.regex_of import build_regex_from_object

__all__ = ["build_regex_from_object"]
