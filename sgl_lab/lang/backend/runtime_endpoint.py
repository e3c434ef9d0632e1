"""A server that speaks the original's protocol, for programs that import a backend from here: not here yet."""

from ..absent import asked_of

__getattr__ = asked_of(__name__)
