"""A loopback server with the protocol of the Hugging Face hub, for its own client to ask."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves folders at /OWNER/NAME/resolve/REVISION/FILE; knows one commit, called main too."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, Path] = {}
        """Folder by OWNER/NAME."""
        self.private: set[str] = set()
        """Models that only those with `token` see."""
        self.gated: set[str] = set()
        """Models whose owner has let nobody in yet."""
        self.token = "hf_" + "s" * 34
        self.breaks = 0
        """How many answers end in the middle of a file."""
        self.asked: list[str] = []
        """Names of the files that were asked for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found is None or found[1] not in self.server.models:
            return self.refuse(404, "RepoNotFound")
        repository, revision, name = found.groups()
        self.server.asked.append(name)
        allowed = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        if repository in self.server.private and not allowed:
            return self.refuse(401, "RepoNotFound")
        if repository in self.server.gated:
            return self.refuse(403, "GatedRepo")
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        file = self.server.models[repository] / name
        return self.send(file.read_bytes()) if file.is_file() else self.refuse(404, "EntryNotFound")

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.breaks and len(content) > 10000:
            self.server.breaks -= 1
            self.wfile.write(content[start : len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def log_message(self, *arguments) -> None:
        pass
