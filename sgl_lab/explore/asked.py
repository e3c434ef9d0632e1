"""What a recorded gen asked for, beside its prompt: its limit, its stops, and the form of its text."""

from __future__ import annotations

from dataclasses import dataclass

from ..contracts.events import ExprAsked, RequestQueued
from ..contracts.ids import RequestId
from ..contracts.params import Constraint
from ..lang.form import FORMS, Form
from ..trace import Record

NUMBERS = (int, float)
"""their form has a constraint that goes on after the number"""


@dataclass(frozen=True, slots=True)
class Asked:
    limit: int
    """tokens at most"""
    stop: tuple[str, ...] = ()
    """the program's own"""
    form: Form | None = None

    @property
    def form_kind(self) -> str:
        """The argument that states the form; empty without one."""
        return "" if self.form is None else self.form.stated[0] if self.form.stated else self.form.constraint.kind


def asked_of(record: Record, request: RequestId) -> Asked:
    """Of the gen of this request."""
    events = [entry.event for entry in tuple(record.entries)]
    queued = next((event for event in events if isinstance(event, RequestQueued) and event.request == request), None)
    if queued is None:
        return Asked(0)
    asked = next((event for event in events if isinstance(event, ExprAsked) and event.expr == queued.expr), None)
    if asked is None:
        return Asked(queued.max_tokens)
    return Asked(queued.max_tokens, asked.stop, _form(asked))


def _form(asked: ExprAsked) -> Form | None:
    """The form of this constraint, as a program states it."""
    if not asked.constraint:
        return None
    constraint = Constraint(asked.constraint, asked.source, asked.lead)
    forms = [FORMS["dtype"](number) for number in NUMBERS]
    if asked.constraint in FORMS:
        forms.append(FORMS[asked.constraint](asked.source))
    return next((form for form in forms if form.constraint == constraint), None) or Form(constraint, str)
