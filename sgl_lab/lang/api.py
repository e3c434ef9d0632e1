"""The surface again, under the name that programs written for the original import it from."""

from .surface import *  # noqa: F403
