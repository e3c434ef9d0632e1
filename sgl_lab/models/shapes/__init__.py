"""`shapes`: a tiny LLaVA that answers questions about pictures of coloured shapes.

`scenes.py` draws the pictures, `questions.py` asks about them, `train.py` trains the model, `export.py`
writes it as a folder, and `evaluate.py` measures it on scenes that it has not seen. `weights/` is what
they made; its README.md says how, and how well it answers.
"""

from .scenes import picture

__all__ = ["picture"]
