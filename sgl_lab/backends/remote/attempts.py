"""A call and its retries: the same for every backend that calls a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ...contracts.errors import SglError
from .call import Call
from .faults import Fault
from .limits import Limits
from .redaction import redacted
from .retries import Retries

T = TypeVar("T")
FaultOf = Callable[[Exception, Call], Fault]


def attempted(ask: Callable[[], T], call: Call, limits: Limits, retries: Retries, fault_of: FaultOf) -> T:
    """The server's answer, after at most so many attempts: none after its first byte. Raises what
    the last attempt raised.

    `fault_of` maps an exception of `ask`. A wait that the server asks for holds for all calls to it.
    """
    n_failed = 0
    while True:
        limits.enter(call.check)
        try:
            with call.works():
                return ask()
        except Exception as error:
            fault = fault_of(error, call)
            n_failed += 1
            if call.ended is not None or call.has_begun or not fault.may_retry or n_failed > retries.n:
                raise
        finally:
            limits.leave()
        seconds = retries.wait_s(n_failed, fault.wait_s)
        if seconds >= call.remaining_s:
            raise fault.error
        if fault.wait_s is not None:
            limits.pause(seconds)
        call.sleep(seconds)


def why_failed(error: Exception, call: Call, fault_of: FaultOf) -> Fault:
    """Why a call failed: we ended it, or the error of the network if it says more than the
    exception, or the exception."""
    if call.ended is not None:
        return Fault(call.ended)
    if call.fault is not None:
        return call.fault
    if isinstance(error, SglError):
        return Fault(error)
    return fault_of(error, call)


def cleaned(error: SglError) -> SglError:
    """Without a trace of where it comes from: a traceback shows the locals of the frames that it
    leads through."""
    error.__cause__ = error.__context__ = error.__traceback__ = None
    error.__suppress_context__ = True
    error.message, error.hint = redacted(error.message), redacted(error.hint)
    error.args = (error.message,)
    return error
