"""States and the functions that create them, under the names from which programs for the original
import them.
"""

from .executor import StreamExecutor
from .state import ProgramState, ProgramStateGroup, start

__all__ = ["ProgramState", "ProgramStateGroup", "StreamExecutor", "start"]
