"""A model hub on the loopback address: one repository, as much of the protocol as a snapshot needs."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


class ModelHub:
    """`served` has the names of the files whose bytes were asked for."""

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        self.served: list[str] = []
        hub = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

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
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for header, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(header, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ModelHub:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
