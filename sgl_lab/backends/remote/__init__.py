"""What all engines behind an API have in common. A vendor's module begins with

    from .remote import Call, Options, Provider, RemoteBackend, find_endpoint

and writes `_converse(job, call)`, which runs on a worker thread: `call.delta(index, text)` streams,
`call.check()` raises once the call is over, `call.closing(stream)` has a stream closed by then.
`self.client` is an httpx2 client for its SDK: it carries the key to its one server, so that the SDK
is given `PLACEHOLDER` for it, and keeps all deadlines. Retries are made here: turn those of the SDK
off.
"""

from .backend import Options, RemoteBackend
from .budget import SESSION, Account, spending
from .call import Call
from .calls import with_answered_calls
from .deadlines import Deadlines
from .endpoint import Endpoint, find_endpoint
from .faults import Fault, Refused, Target, Unended, fault_of
from .keys import Key, KeyOfOthers, Provider
from .needs import PLACEHOLDER, need
from .retries import Retries

__all__ = [
    "PLACEHOLDER",
    "SESSION",
    "Account",
    "Call",
    "Deadlines",
    "Endpoint",
    "Fault",
    "Key",
    "KeyOfOthers",
    "Options",
    "Provider",
    "Refused",
    "RemoteBackend",
    "Retries",
    "Target",
    "Unended",
    "fault_of",
    "find_endpoint",
    "need",
    "spending",
    "with_answered_calls",
]
