"""EXPLORE: branches from the tokens of a run, recorded as a run of their own.

`Exploration` begins at a gen of a record. A branch takes another token, samples again, or edits the
prompt, and goes on from there; what was computed before stays cached. Knows no notebook.
"""
