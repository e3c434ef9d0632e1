"""The small pictures of images that a view shows, within a limit, so that no view grows without one."""

from __future__ import annotations

from ...contracts.spans import Content

MOST = 40 * 1024
"""characters of all different pictures of one view; images beyond them have a chip alone"""


class Pictures:
    def __init__(self) -> None:
        self._shown: set[str] = set()
        self._left = MOST

    def of(self, content: Content) -> str:
        """A data URL of a PNG or JPEG; empty without one, and where there is no room."""
        if content.picture and content.digest not in self._shown:
            if len(content.picture) > self._left:
                return ""
            self._left -= len(content.picture)
            self._shown.add(content.digest)
        return content.picture
