"""Regular expressions for JSON, under the original's module name."""

from ..lang.regex_of import build_regex_from_object

__all__ = ["build_regex_from_object"]
