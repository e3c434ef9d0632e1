"""States and what starts them, under the name that programs written for the original import them from."""

from .executor import StreamExecutor
from .state import ProgramState, ProgramStateGroup, start

__all__ = ["ProgramState", "ProgramStateGroup", "StreamExecutor", "start"]
