"""Downloads from a real server on the loopback device, with the faults that servers have."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from maftp.data import transfer
from maftp.data.catalog import Source, load_catalog
from maftp.data.download import fetch, is_downloaded, record_path, verify
from maftp.data.transfer import RetryPolicy
from maftp.data.unpack import unpack_source
from maftp.errors import DownloadError

DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
QUICK = RetryPolicy(attempts=3, longest_wait=0.01)


class Handler(BaseHTTPRequestHandler):
    """Serves the data; the path says what goes wrong."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        state = self.server.state
        have = self.headers.get("Range", "")
        state["requests"].append((self.path, have, self.headers.get("If-Range")))
        if self.path.startswith("/missing"):
            return self.send_error(404)
        if self.path == "/busy" and len(state["requests"]) <= 2:
            return self.send_error(503)
        if self.path == "/always-busy":
            return self.send_error(503)
        data = state["data"]
        start = int(have.removeprefix("bytes=").rstrip("-")) if have else 0
        same = self.headers.get("If-Range") in (None, state["etag"])
        if self.path == "/no-ranges" or not same:
            start = 0
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.path == "/chunked":
            return self.chunked(data, whole=len(state["requests"]) > 1)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if state["etag"]:
            self.send_header("ETag", state["etag"])
        self.end_headers()
        body = data[start:]
        if self.path in ("/drops", "/no-ranges") and len(state["requests"]) < 3:
            body = body[: len(body) * 2 // 5]
            self.close_connection = True
        self.wfile.write(body)

    def chunked(self, data, *, whole):
        """Send without a length, from the start; the last chunk is missing when it breaks."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        part = data if whole else data[:100_000]
        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        if whole:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.state = {"requests": [], "data": DATA, "etag": '"one"'}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def source(*urls, **fields):
    fields = {"sha256": SHA256} | fields
    return Source(
        title="Test data",
        url=urls[0] if urls else None,
        mirrors=urls[1:],
        file="data.bin",
        licence="none",
        unpack=".",
        makes=("data",),
        **fields,
    )


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".lock", ".json"))


def test_a_plain_download(server, tmp_path):
    path = fetch(source(f"{server.url}/plain"), tmp_path)
    assert path.read_bytes() == DATA
    assert leftovers(tmp_path) == ["data.bin", "data.bin.sha256"]
    assert (tmp_path / "data.bin.sha256").read_text() == f"{SHA256}  data.bin\n"


def test_what_is_there_is_verified_and_not_fetched_again(server, tmp_path):
    fetch(source(f"{server.url}/plain"), tmp_path)
    fetch(source(f"{server.url}/plain"), tmp_path)
    assert len(server.state["requests"]) == 1
    (tmp_path / "data.bin").write_bytes(DATA[:-1])
    with pytest.raises(DownloadError, match=r"data\.bin: sha256 is .* expected .*cut short"):
        fetch(source(f"{server.url}/plain"), tmp_path)


def test_a_dropped_connection_goes_on_where_it_stopped(server, tmp_path):
    path = fetch(source(f"{server.url}/drops"), tmp_path, retries=QUICK)
    assert path.read_bytes() == DATA
    ranges = [have for _, have, _ in server.state["requests"]]
    # 40 % of 300,000 bytes arrive, of which whole chunks of 65,536 are kept; then 40 % of the rest
    assert ranges == ["", "bytes=65536-", "bytes=131072-"]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    assert fetch(source(f"{server.url}/no-ranges"), tmp_path, retries=QUICK).read_bytes() == DATA


def test_a_broken_transfer_of_unknown_length_is_no_whole_file(server, tmp_path):
    unknown = source(f"{server.url}/chunked", sha256=None)
    assert fetch(unknown, tmp_path, retries=QUICK).read_bytes() == DATA
    assert len(server.state["requests"]) == 2


def test_an_interrupted_download_is_resumed_by_the_next_one(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(DATA[:1000])
    (tmp_path / "data.bin.part.etag").write_text('"one"')
    assert fetch(source(f"{server.url}/plain"), tmp_path).read_bytes() == DATA
    assert server.state["requests"] == [("/plain", "bytes=1000-", '"one"')]


def test_a_part_of_another_version_is_not_continued(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "data.bin.part.etag").write_text('"zero"')
    assert fetch(source(f"{server.url}/plain"), tmp_path).read_bytes() == DATA


def test_a_download_killed_before_its_renaming_is_not_fetched_again(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(DATA)
    assert fetch(source(f"{server.url}/plain"), tmp_path).read_bytes() == DATA


def test_too_long_a_part_is_thrown_away(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(DATA + b"more")
    path = fetch(source(f"{server.url}/plain"), tmp_path, retries=QUICK)
    assert path.read_bytes() == DATA


def test_a_busy_server_is_asked_again(server, tmp_path):
    assert fetch(source(f"{server.url}/busy"), tmp_path, retries=QUICK).read_bytes() == DATA
    assert len(server.state["requests"]) == 3


def test_patience_ends(server, tmp_path):
    with pytest.raises(DownloadError, match=r"always-busy: answers 503.*or put the file at"):
        fetch(source(f"{server.url}/always-busy"), tmp_path, retries=QUICK)
    assert len(server.state["requests"]) == 3


def test_404_then_the_mirror(server, tmp_path):
    path = fetch(source(f"{server.url}/missing", f"{server.url}/plain"), tmp_path)
    assert path.read_bytes() == DATA
    assert [request[0] for request in server.state["requests"]] == ["/missing", "/plain"]


def test_no_address_works(server, tmp_path):
    urls = f"{server.url}/missing1", f"{server.url}/missing2", "http://127.0.0.1:1/nobody"
    with pytest.raises(DownloadError) as caught:
        fetch(source(*urls), tmp_path, retries=QUICK)
    message = str(caught.value)
    assert message.startswith("data.bin: ") and "\n" not in message
    assert "missing1: answers 404" in message and "missing2: answers 404" in message
    assert "nobody: connection failed" in message
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("fields", [{"sha256": "0" * 64}, {"sha256": None, "md5": "0" * 32}])
def test_a_wrong_digest_leaves_nothing(fields, server, tmp_path):
    with pytest.raises(DownloadError, match=r"is \w+, expected 0+: damaged"):
        fetch(source(f"{server.url}/plain", **fields), tmp_path)
    assert leftovers(tmp_path) == []


def test_a_wrong_size_leaves_nothing(server, tmp_path):
    with pytest.raises(DownloadError, match="300000 bytes, expected 7"):
        fetch(source(f"{server.url}/plain", bytes=7), tmp_path)
    assert leftovers(tmp_path) == []


def test_other_digests(server, tmp_path):
    digests = {"sha1": hashlib.sha1(DATA).hexdigest(), "md5": hashlib.md5(DATA).hexdigest()}
    path = fetch(source(f"{server.url}/plain", sha256=None, **digests), tmp_path)
    assert path.read_bytes() == DATA


def test_an_unknown_digest_is_recorded_and_then_enforced(server, tmp_path, caplog):
    unknown = source(f"{server.url}/plain", sha256=None)
    with caplog.at_level("INFO"):
        fetch(unknown, tmp_path).unlink()
    assert f"sha256 {SHA256} recorded in {tmp_path / 'data.bin.sha256'}" in caplog.text
    server.state["data"] = DATA[::-1]
    with pytest.raises(DownloadError, match=f"but {SHA256} at its first download") as caught:
        fetch(unknown, tmp_path)
    assert f"delete {tmp_path / 'data.bin.sha256'} and download it again" in str(caught.value)
    assert leftovers(tmp_path) == ["data.bin.sha256"]
    server.state["data"] = DATA
    assert fetch(unknown, tmp_path).read_bytes() == DATA


def test_a_damaged_record_of_a_digest(server, tmp_path):
    unknown = source(f"{server.url}/plain", sha256=None)
    fetch(unknown, tmp_path)
    (tmp_path / "data.bin.sha256").write_bytes(b"\xff")
    with pytest.raises(DownloadError, match=r"data\.bin\.sha256: no record of a digest"):
        fetch(unknown, tmp_path)


def test_every_http_source_without_a_published_digest_is_held_to_its_first_download(tmp_path):
    catalog = load_catalog()
    plain = [s for s in catalog.sources.values() if s.url and s.url.startswith("http://")]
    unpublished = [s for s in plain if not s.digests]
    assert unpublished
    for entry in unpublished:
        path = tmp_path / entry.file
        path.write_bytes(DATA)
        record_path(path).write_text(f"{'0' * 64}  {entry.file}\n")
        with pytest.raises(DownloadError, match="at its first download"):
            verify(entry, path)


def test_files_on_disk(tmp_path):
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "a.bin").write_bytes(DATA)
    url = f"file://{tmp_path}/with%20space/a.bin"
    assert fetch(source(url), tmp_path / "archives").read_bytes() == DATA
    with pytest.raises(DownloadError, match=r"b\.bin: no such file"):
        fetch(source(f"file://{tmp_path}/b.bin"), tmp_path / "other")
    with pytest.raises(DownloadError, match="cannot be fetched, use http, https or file"):
        fetch(source("ftp://host/b.bin"), tmp_path / "other")


def test_a_file_of_the_user_is_taken_and_verified(tmp_path):
    mine = tmp_path / "mine.bin"
    mine.write_bytes(DATA)
    registered = source(registration="https://ask.here")
    assert fetch(registered, tmp_path / "archives", local=mine).read_bytes() == DATA
    mine.unlink()
    mine.write_bytes(DATA[:-5])
    with pytest.raises(DownloadError, match="cut short"):
        fetch(registered, tmp_path / "archives", local=mine)
    assert mine.exists() and (tmp_path / "archives/data.bin").read_bytes() == DATA


def test_what_came_from_the_network_is_known(server, tmp_path):
    there, mine = tmp_path / "archives/data.bin", tmp_path / "mine.bin"
    mine.write_bytes(DATA)
    assert not is_downloaded(there)
    fetch(source(f"{server.url}/plain"), there.parent)
    assert is_downloaded(there)
    fetch(source(f"{server.url}/plain"), there.parent)
    assert is_downloaded(there)
    fetch(source(f"{server.url}/plain"), there.parent, local=mine)
    assert not is_downloaded(there)


def test_what_the_user_put_in_the_place_of_a_download_is_known(server, tmp_path):
    there = tmp_path / "data.bin"
    fetch(source(f"{server.url}/plain"), tmp_path)
    there.unlink()
    there.write_bytes(DATA)
    os.utime(there, ns=(0, 0))
    assert not is_downloaded(there)


@pytest.mark.parametrize("put_before", [True, False])
def test_what_a_mirror_of_the_user_has_is_no_download(put_before, tmp_path):
    there, mine = tmp_path / "archives/data.bin", tmp_path / "data.bin"
    mine.write_bytes(DATA)
    if put_before:
        there.parent.mkdir()
        there.write_bytes(DATA)
    assert fetch(source(mine.as_uri()), there.parent) == there
    assert not is_downloaded(there)


def test_registration_is_explained_once_and_wholly(tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetch(source(registration="https://ask.here"), tmp_path / "archives")
    message = str(caught.value)
    place = tmp_path / "archives/data.bin"
    for part in ("Test data", "https://ask.here", str(place), f"{tmp_path / 'data'} exists"):
        assert part in message


@pytest.mark.parametrize("step", ["fetch", "unpack"])
def test_the_command_that_hands_over_a_registered_archive_works_as_written(step, tmp_path):
    """The library's own error, which knows no parameter files, in the project's folder."""
    root, catalog = tmp_path / "my data", load_catalog()
    archive = root / "archives/ADE20K_2021_17_01.zip"
    with pytest.raises(DownloadError) as caught:
        if step == "fetch":
            fetch(catalog.source("ade20k_full"), archive.parent)
        else:
            unpack_source("ade20k_full", catalog, root)
    (command,) = re.findall("`(.+?)`", str(caught.value))
    assert f"--from '{archive}'" in command
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(DATA)
    folders = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    project = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PATH": folders}
    subprocess.run(["bash", "-c", command], check=True, cwd=project, env=environment)
    assert archive.read_bytes() == DATA and (archive.parent / "ade20k_full.obtained.json").exists()
    assert not list(archive.parent.glob("*.part"))


def test_a_disk_without_room(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    small = type(usage)(usage.total, usage.used, 1000)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: small)
    with pytest.raises(DownloadError, match=r"data\.bin: needs 0\.00 GB .* make room"):
        fetch(source(f"{server.url}/plain"), tmp_path)
    assert leftovers(tmp_path) == []


FETCH = """
import sys
from pathlib import Path
from maftp.data.catalog import Source
from maftp.data.download import fetch
fetch(Source.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def test_two_processes_fetch_once(server, tmp_path):
    wanted = source(f"{server.url}/plain").model_dump_json()
    command = [sys.executable, "-c", FETCH, wanted, tmp_path]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(server.state["requests"]) == 1
    assert (tmp_path / "data.bin").read_bytes() == DATA
