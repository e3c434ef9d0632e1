"""`shapes`: a tiny LLaVA that answers questions about pictures of coloured shapes.

`scenes.py` draws the pictures, `questions.py` asks about them, `train.py` trains the model and
`evaluate.py` measures it on scenes that it has not seen. The weights beside them are what
`python -m sgl_lab.models.shapes.train` made; README.md says how well they answer.
"""
