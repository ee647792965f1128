"""A loopback host: plain files, a drive that asks for confirmation, and a hub of models."""

from __future__ import annotations

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = """<!DOCTYPE html><html><head><title>Drive - Virus scan warning</title></head><body>
<form id="download-form" action="/download" method="get">
<input type="hidden" name="id" value="{id}"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="{uuid}">
</form></body></html>"""


class Host(ThreadingHTTPServer):
    """Serves what lies in a folder, and remembers what it was asked for.

    /NAME is the file NAME; /uc and /download are the drive's two steps to the file of an `id`;
    /ORGANISATION/MODEL/resolve/REVISION/NAME is the hub's address of a file.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.drive: dict[str, str] = {}
        """Name of the file by its id."""
        self.hub: dict[str, str] = {}
        """Name of the file by `ORGANISATION/MODEL/NAME`."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of every request."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Host

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path, fields = unquote(address.path), dict(parse_qsl(address.query))
        self.server.requests.append((self.command, self.path))
        if found := re.fullmatch(r"/(.+?/.+?)/resolve/[^/]+/(.+)", path):
            return self._hub("/".join(found.groups()))
        if found := re.fullmatch(r"/api/models/(.+?/.+?)(/revision/.+)?", path):
            return self._text(json.dumps({"id": found[1], "sha": COMMIT}), "application/json")
        if path == "/uc" and fields.get("id") in self.server.drive:
            uuid = hashlib.sha256(fields["id"].encode()).hexdigest()
            return self._text(PAGE.format(id=fields["id"], uuid=uuid), "text/html; charset=utf-8")
        if path == "/download" and {"confirm", "uuid"} <= set(fields):
            return self._file(self.server.drive.get(fields["id"]))
        return self._file(path.removeprefix("/"))

    def _hub(self, name: str) -> None:
        if name not in self.server.hub:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self._file(self.server.hub[name], {"X-Repo-Commit": COMMIT})

    def _text(self, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name: str | None, headers: dict[str, str] | None = None) -> None:
        file = self.server.folder / (name or "")
        if not name or "/" in name or not file.is_file():
            return self.send_error(404)
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = int(asked[2]) + 1 if asked and asked[2] else size
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{size:x}-{file.stat().st_mtime_ns:x}"')
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            with open(file, "rb") as content:
                content.seek(start)
                while start < end:
                    start += self.wfile.write(content.read(min(1 << 20, end - start)))
        return None

    def log_message(self, *arguments) -> None:
        pass
