"""Where a key comes from: the environment, `getpass`, or an entry of the system's keyring; and
which server it is for.

A key is never part of an SDK's object, an exception, a repr or a pickle. `wire.py` puts it into a
request on its way out, for the one server that it belongs to.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import NoReturn, ParamSpec

from ...contracts.errors import AuthenticationFailed, BadArgument
from .redaction import conceal

P = ParamSpec("P")

SERVICE = "sgl_lab"
"""the name of our entries in a keyring"""


@dataclass(frozen=True)
class Provider:
    """Who has an API, the hosts that its keys may go to, and how a request carries one."""

    name: str
    """in lower case, as in prices, in keyring entries and in `%sgl backend`"""
    hosts: tuple[str, ...] = ()
    """its own; a name that begins with a dot stands for all hosts below it"""
    variables: tuple[str, ...] = ()
    """of the environment, the first that is set counts"""
    header: str = "authorization"
    prefix: str = "Bearer "
    page: str = ""
    """where a user makes a key"""

    def owns(self, host: str) -> bool:
        return any(host == own or (own.startswith(".") and host.endswith(own)) for own in self.hosts)


class Secret(str):
    """The text of a key. Its repr hides it, so a traceback that shows variables does not show the key."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<key>"


def with_secrets(init: Callable[P, None]) -> Callable[P, None]:
    """A constructor that sees its `api_key` as a `Secret`: it may raise, and a traceback may show
    its variables."""
    names = tuple(signature(init).parameters)
    at = names.index("api_key") if "api_key" in names else len(names)

    @wraps(init)
    def constructor(*args: P.args, **given: P.kwargs) -> None:
        secret = [Secret(arg) if i == at and isinstance(arg, str) else arg for i, arg in enumerate(args)]
        if isinstance(key := given.get("api_key"), str):
            given["api_key"] = Secret(key)
        del key, args
        init(*secret, **given)  # type: ignore[arg-type]  # the same arguments, one of them as a subclass

    return constructor


class Key:
    """A key that shows itself to nothing but `headers`."""

    __slots__ = ("_header", "_make", "source")

    def __init__(self, make: Callable[[], str], header: str, source: str) -> None:
        self._make, self._header, self.source = make, header, source

    def __repr__(self) -> str:
        return f"<key from {self.source}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key cannot be pickled; make the backend again where it is used")

    def headers(self) -> dict[str, str]:
        """What a request carries, and only to the server of the key."""
        return {self._header: self._make()}


class KeyOfOthers(Key):
    """A key for a server that speaks a provider's API and is not its own: such servers read it as a
    bearer token, or from `header`."""

    __slots__ = ("_also",)

    def __init__(self, key: Key, header: str) -> None:
        super().__init__(lambda: next(iter(key.headers().values())).removeprefix("Bearer "), "authorization", key.source)
        self._also = header

    def headers(self) -> dict[str, str]:
        secret = super().headers()["authorization"]
        return {"authorization": f"Bearer {secret}", self._also: secret}


def key_of(secret: str, provider: Provider, source: str) -> Key:
    """A key of text. BadArgument for text that no header can carry."""
    secret = Secret(secret.strip())
    if not re.fullmatch(r"[\x21-\x7e]+", secret):
        raise BadArgument(f"the key from {source} has characters that no key has", hint="copy it again, as it is")
    conceal(secret)
    value = provider.prefix + secret
    return Key(lambda: value, provider.header, source)


def variable_of(place: str) -> str:
    """The environment variable that names a key for one server, such as SGL_LAB_KEY_MY_HOST_8000."""
    return "SGL_LAB_KEY_" + re.sub(r"[^A-Z0-9]+", "_", place.upper()).strip("_")


_entered: dict[str, str] = {}
_lock = threading.Lock()


def ask(name: str) -> None:
    """Ask for the key of a provider, or of a server (`host:port`), without an echo. It is kept
    until the process ends."""
    from getpass import getpass

    secret = getpass(f"key for {name}: ").strip()
    if not secret:
        raise BadArgument(f"no key for {name} was entered")
    conceal(secret)
    with _lock:
        _entered[name] = secret


def find_key(provider: Provider, place: str, *, is_own: bool) -> Key | None:
    """The key for the server at `place` (`host:port`, or a host). A server that is not the
    provider's own has a key of its own name."""
    name = provider.name if is_own else place
    with _lock:
        entered = Secret(_entered.get(name, ""))
    if entered:
        return key_of(entered, provider, "what was entered")
    for variable in provider.variables if is_own else (variable_of(place),):
        if secret := Secret(os.environ.get(variable, "").strip()):
            return key_of(secret, provider, variable)
    kept = Secret(_from_keyring(name) or "")
    return key_of(kept, provider, f"keyring entry {SERVICE} {name}") if kept else None


def _from_keyring(name: str) -> str | None:
    try:
        import keyring

        return keyring.get_password(SERVICE, name)
    except Exception:  # not installed, no keyring on this machine, or locked: then there is no entry
        return None


def no_key(provider: Provider, place: str, *, is_own: bool) -> AuthenticationFailed:
    name, variable = (provider.name, provider.variables[0]) if is_own and provider.variables else (place, variable_of(place))
    return AuthenticationFailed(
        f"no key for {name}", hint=f"set {variable} in the environment, or `keyring set {SERVICE} {name}`, or enter it: %sgl key {name}"
    )
