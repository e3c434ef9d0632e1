"""The original's module for Anthropic's API; not available yet."""

from ..absent import asked_of

__getattr__ = asked_of(__name__)
