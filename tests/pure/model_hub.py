"""A model hub on the loopback address: one repository, as much of the protocol as a snapshot needs."""

from __future__ import annotations

import hashlib
import json

from .loopback import Handler, Loopback

COMMIT = "a" * 40


class ModelHub(Loopback):
    """`served` has the names of the files whose bytes were asked for."""

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        self.served: list[str] = []
        hub = self

        class Answer(Handler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == f"/api/models/{name}/revision/main":
                    self._send({"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
                elif path == f"/api/models/{name}/tree/{COMMIT}":
                    self._send([{"type": "file", "path": file, "size": len(data), "oid": _digest(data)} for file, data in files.items()])
                elif path.startswith(f"/{name}/resolve/{COMMIT}/"):
                    file = path.rpartition("/")[2]
                    if self.command == "GET":
                        hub.served.append(file)
                    self._send(files[file], {"ETag": f'"{_digest(files[file])}"', "X-Repo-Commit": COMMIT})
                else:
                    self._send({}, status=404)

            def _send(self, answer: object, headers: dict[str, str] | None = None, status: int = 200) -> None:
                self.send(status, answer if isinstance(answer, bytes) else json.dumps(answer).encode(), headers)

        super().__init__(Answer)


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
