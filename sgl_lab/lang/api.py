"""The surface under the name from which programs for the original import it."""

from .absent import asked_of
from .surface import *  # noqa: F403

__getattr__ = asked_of(__name__)
