"""Pictures of the event stream: folds, drawings, the live widget and the frozen view of a cell that
has ended.
"""
