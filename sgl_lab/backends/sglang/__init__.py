"""An SGLang server as a backend, by its own API."""

from .endpoint import RuntimeEndpoint

__all__ = ["RuntimeEndpoint"]
