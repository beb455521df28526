"""A stand-in for the Hugging Face hub, on this machine: as much of it as its library asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Repositories = dict[str, dict[str, bytes]]
"""`user/name` -> path -> content."""
REVISION = "1234567890" * 4


class Handler(BaseHTTPRequestHandler):
    repositories: Repositories

    def do_POST(self) -> None:  # http.server's name
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b"".join(self._chunks())
        path = self.path.partition("?")[0].split("/")
        address = f"http://{self.headers['Host']}"
        if path[2:] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.repositories.setdefault(name, {})
            self._answer({"url": f"{address}/{name}", "name": name})
        elif path[2] == "validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path[5] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        else:
            assert path[5] == "commit"
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.repositories[f"{path[3]}/{path[4]}"][line["value"]["path"]] = content
            commit = {"commitUrl": f"{address}/{path[3]}/{path[4]}/commit/{REVISION}", "commitOid": REVISION}
            self._answer(commit)

    def do_GET(self) -> None:  # http.server's name
        path = self.path.partition("?")[0].lstrip("/").split("/")
        api = path[0] == "api"
        files = self.repositories.get("/".join(path[2:4] if api else path[:2]))
        if files is None:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif not api:
            content = files["/".join(path[4:])]
            etag = hashlib.sha1(content).hexdigest()
            self._answer(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION})
        elif "tree" in path:
            oids = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            self._answer(
                [{"type": "file", "path": p, "size": len(c), "oid": oids[p]} for p, c in files.items()]
            )
        else:
            siblings = [{"rfilename": name} for name in files]
            self._answer(
                {
                    "id": "/".join(path[2:4]),
                    "sha": REVISION,
                    "siblings": siblings,
                    "tags": [],
                    "private": False,
                }
            )

    do_HEAD = do_GET  # noqa: N815, http.server's name

    def _answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def hub() -> Iterator[tuple[str, Repositories]]:
    """Its address, and what is on it."""
    repositories: Repositories = {}
    handler = type("Hub", (Handler,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repositories
    finally:
        server.shutdown()
        server.server_close()
