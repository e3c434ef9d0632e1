"""Pictures of the event stream: folds, drawings, the live widget, what is left when a cell has ended."""
