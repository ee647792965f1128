"""A host that asks for confirmation before it hands out a large file, as Google Drive does."""

import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest

from maftp.data import transfer
from maftp.data.catalog import Obtainable
from maftp.data.download import fetch
from maftp.data.transfer import Meter, RetryPolicy
from maftp.errors import DownloadError

DATA = np.random.default_rng(1).bytes(300_000)
QUICK = RetryPolicy(attempts=3, longest_wait=0.01)
WARNING = """<!DOCTYPE html><html><head><title>Drive - Virus scan warning</title></head><body>
<form action="/search" method="get"><input type="text" name="q"></form>
<p>weights.pth is too large to be scanned for viruses.</p>
<form id="download-form" action="{action}" method="get">
<input type="submit" value="Download anyway"><input type="hidden" name="id" value="1Be-E_e">
<input type="hidden" name="export" value="download"><input type="hidden" name="confirm" value="t">
<input type="hidden" name="uuid" value="{uuid}"></form></body></html>"""
QUOTA = "<html><head><title>Drive -\n Quota exceeded</title></head><body>Try later</body></html>"


class Handler(BaseHTTPRequestHandler):
    """Answers the first address with a page; hands the file out to whom the page's form sends."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        state, parts = self.server.state, urlsplit(self.path)
        fields = dict(parse_qsl(parts.query))
        state["requests"].append((parts.path, fields, self.headers.get("Range", "")))
        if parts.path == "/quota":
            return self.page(QUOTA)
        if parts.path in ("/uc", "/loop"):
            state["uuid"] += 1
            action = "/loop" if parts.path == "/loop" else f"{state['other']}/download"
            return self.page(WARNING.format(action=action, uuid=state["uuid"]))
        asked = {"id": "1Be-E_e", "export": "download", "confirm": "t", "uuid": str(state["uuid"])}
        cookie = self.headers.get("Cookie", "")
        if fields != asked or ("seen=yes" not in cookie and not state["other"]):
            return self.send_error(403)
        return self.file()

    def page(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Set-Cookie", "seen=yes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def file(self):
        have = self.headers.get("Range", "")
        start = int(have.removeprefix("bytes=").rstrip("-")) if have else 0
        body = DATA[start:]
        self.send_response(206 if have else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.state["drops"] > 0:
            self.server.state["drops"] -= 1
            body = body[: len(body) * 2 // 5]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.state = {"requests": [], "uuid": 0, "drops": 0, "other": ""}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def weights(*urls):
    url, *mirrors = urls
    return Obtainable(title="W", url=url, mirrors=mirrors, file="weights.pth", licence="none")


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_the_page_leads_to_the_file(server, tmp_path):
    path = fetch(weights(f"{server.url}/uc?export=download&id=1Be-E_e"), tmp_path)
    assert path.read_bytes() == DATA
    assert [request[0] for request in server.state["requests"]] == ["/uc", "/download"]
    notes = ["weights.pth.downloaded.json", "weights.pth.sha256"]
    assert leftovers(tmp_path) == ["weights.pth", *notes]


def test_the_form_may_lead_to_another_host(server, tmp_path):
    server.state["other"] = server.url.replace("127.0.0.1", "localhost")
    assert fetch(weights(f"{server.url}/uc?id=1Be-E_e"), tmp_path).read_bytes() == DATA


def test_a_broken_connection_asks_the_page_again_and_goes_on(server, tmp_path):
    server.state["drops"] = 2
    path = fetch(weights(f"{server.url}/uc?id=1Be-E_e"), tmp_path, retries=QUICK)
    assert path.read_bytes() == DATA
    ranges = [have for path, _, have in server.state["requests"] if path == "/download"]
    # 40 % of 300,000 bytes arrive, of which whole chunks of 65,536 are kept; then 40 % of the rest
    assert ranges == ["", "bytes=65536-", "bytes=131072-"]


def test_a_page_without_a_form_is_named_and_not_kept(server, tmp_path):
    with pytest.raises(
        DownloadError,
        match=r"/quota: answers with a web page \('Drive - Quota exceeded'\) instead of weights",
    ):
        fetch(weights(f"{server.url}/quota"), tmp_path, retries=QUICK)
    assert leftovers(tmp_path) == []


def test_pages_without_end(server, tmp_path):
    with pytest.raises(DownloadError, match="asks for confirmation again and again"):
        fetch(weights(f"{server.url}/loop"), tmp_path, retries=QUICK)
    assert len(server.state["requests"]) == 2


def test_after_a_page_without_a_form_comes_the_mirror(server, tmp_path):
    both = weights(f"{server.url}/quota", f"{server.url}/uc?id=1Be-E_e")
    assert fetch(both, tmp_path, retries=QUICK).read_bytes() == DATA


def test_lines_tell_speed_and_time_left(monkeypatch, caplog):
    clock = iter([100.0, 102.0])  # start, then two seconds later
    monkeypatch.setattr(transfer.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(transfer, "_SECONDS_BETWEEN_LINES", 1.0)
    caplog.set_level(logging.INFO)
    with Meter("a.zip", total=10_000_000, done=2_000_000) as progress:
        progress.add(4_000_000)
    # 4 MB in two seconds: 2 MB/s; 4 MB are left
    assert caplog.messages == ["a.zip: 6.0 MB, 2.0 MB/s, 2 s left of 10.0 MB"]


@pytest.mark.parametrize("total", [None, 10])
def test_a_short_transfer_says_nothing(total, caplog):
    caplog.set_level(logging.INFO)
    with Meter("a.zip", total=total) as progress:
        progress.add(10)
    assert caplog.messages == []
