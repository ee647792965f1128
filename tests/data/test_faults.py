"""What goes wrong with archives, servers, disks and files, through the commands themselves.

Each fault ends in one clear sentence and leaves nothing half-written. Once it is gone the same
commands finish, and every file equals that of an undisturbed run byte by byte.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import yaml

from maftp.cli import main
from maftp.data import download, transfer
from maftp.data.catalog import load_catalog
from maftp.data.transfer import RetryPolicy

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params.yaml"
RUN = "import sys; from maftp.cli import main; sys.exit(main(sys.argv[1:]))"


class Handler(BaseHTTPRequestHandler):
    """Serves `files` with ranges; `faults` says what is wrong with a file."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.lstrip("/")
        fault = self.server.faults.get(name)
        self.server.requests.append((name, self.headers.get("Range", "")))
        if fault == "missing" or name.removeprefix("mirror/") not in self.server.files:
            return self.send_error(404)
        data = self.server.files[name.removeprefix("mirror/")]
        if fault == "other":
            data = data[:-1] + bytes([data[-1] ^ 1])
        have = self.headers.get("Range", "")
        start = int(have.removeprefix("bytes=").rstrip("-")) if have else 0
        self.send_response(206 if have else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data) * 2 // 5 if fault == "drops" else len(data)
        self.close_connection = fault == "drops"
        self.wfile.write(data[start:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(overlay, monkeypatch):
    """Serve a tiny world on the loopback device; its overlay has the addresses there."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {path.name: path.read_bytes() for path in overlay.parent.iterdir()}
    server.faults, server.requests, server.overlay = {}, [], overlay
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    change_overlay(overlay, lambda source: source.update(url=at(server, source["url"])))
    monkeypatch.setattr(
        download, "RetryPolicy", partial(RetryPolicy, attempts=2, longest_wait=0.01)
    )
    monkeypatch.setattr(transfer, "_NETWORK_CHUNK", 1024)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def at(server, url):
    return f"{server.address}/{url.rsplit('/', 1)[1]}"


def change_overlay(overlay, change, only=None):
    values = yaml.safe_load(overlay.read_text())
    for name, source in values["sources"].items():
        if only in (None, name):
            change(source)
    overlay.write_text(yaml.safe_dump(values))


class Desk:
    """Runs the commands for one datasets root."""

    def __init__(self, root, overlay, capsys=None):
        self.root, self.overlay, self.capsys = root, overlay, capsys
        self.params = root.with_suffix(".yaml")
        data = {"root": str(root), "catalog": str(overlay), "world": None}
        self.params.write_text(yaml.safe_dump({"data": data}))

    def commands(self, dataset):
        catalog = load_catalog(self.overlay)
        for source in catalog.datasets[dataset].sources:
            yield "download", source
            yield "unpack", source
        yield "convert", dataset, "--jobs", "1"

    def arguments(self, *words):
        return [*words, "--params", str(PARAMS), str(self.params)]

    def prepare(self, dataset, stop_before="nothing"):
        """Run all commands up to the first that fails; return its exit code."""
        for words in self.commands(dataset):
            if words[0] == stop_before:
                break
            if main(self.arguments(*words)) != 0:
                return 1
        return 0

    def sentence(self):
        """Return the one line in which a command ended."""
        lines = self.capsys.readouterr().err.splitlines()
        ends = [line for line in lines if re.match(r"maftp \w+: ", line)]
        assert len(ends) == 1 and "Traceback" not in "".join(lines), lines
        return ends[0]

    def files(self):
        changing = (".lock", ".repairs", ".downloaded.json")  # the last holds a time
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and not path.name.endswith(changing)
        }


@pytest.fixture
def desk(site, tmp_path, capsys):
    return Desk(tmp_path / "root", site.overlay, capsys)


@pytest.fixture
def undisturbed(site, tmp_path):
    """Return the files that an undisturbed run of a dataset leaves."""

    def run(dataset):
        other = Desk(tmp_path / "undisturbed", site.overlay)
        assert other.prepare(dataset) == 0
        return other.files()

    return run


def half_written(root):
    """Return what a killed or failed command left over; `.part` of a download may be resumed."""
    notes = (".lock", ".repairs", ".sha256", ".json", ".txt")
    found = [path for path in root.rglob(".*") if not path.name.endswith(notes)]
    return [path for path in found if "archives" not in path.parts]


def zip_with(extra):
    def change(data):
        buffer = io.BytesIO(data)
        with zipfile.ZipFile(buffer, "a") as file:
            file.writestr(extra, b"x")
        return buffer.getvalue()

    return change


def tar_with_device(data):
    buffer = io.BytesIO(data)
    with tarfile.open(fileobj=buffer, mode="a") as file:
        device = tarfile.TarInfo("VOCdevkit/VOC2012/null")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        file.addfile(device)
    return buffer.getvalue()


@pytest.mark.parametrize("fault", ["drops", "other", "missing"])
def test_servers(fault, site, desk, undisturbed):
    expected = undisturbed("pascal_voc_20")
    file = "VOCtrainval_11-May-2012.tar"
    site.faults[file] = fault
    assert desk.prepare("pascal_voc_20") == 1
    size = len(site.files[file])
    messages = {
        "drops": rf"connection closed after {size * 2 // 5} of {size} bytes",
        "other": r"sha256 is \w+, expected \w+: damaged, cut short or another version",
        "missing": r"answers 404.*try again later, or put the file at .*VOCtrainval_11",
    }
    assert re.search(messages[fault], desk.sentence())
    left = [name for name in desk.files() if file in name]
    assert left == ([f"archives/{file}.part"] if fault == "drops" else [])
    site.faults.clear()
    site.requests.clear()
    assert desk.prepare("pascal_voc_20") == 0
    assert desk.files() == expected
    if fault == "drops":
        assert site.requests[0] == (file, f"bytes={size * 2 // 5}-")


def test_404_then_the_mirror(site, desk, undisturbed):
    expected = undisturbed("pascal_voc_20")
    file = "VOCtrainval_11-May-2012.tar"
    mirror = f"{site.address}/mirror/{file}"
    change_overlay(site.overlay, lambda source: source.update(mirrors=[mirror]), only="voc2012")
    site.faults[file] = "missing"
    site.requests.clear()
    assert desk.prepare("pascal_voc_20") == 0
    assert desk.files() == expected
    assert [name for name, _ in site.requests if file in name] == [file, f"mirror/{file}"]


@pytest.mark.parametrize("digest", ["published", "unknown"])
@pytest.mark.parametrize(
    ("dataset", "source", "change", "message"),
    [
        ("coco_stuff", "coco_stuffthingmaps", lambda d: d[: len(d) // 2], "damaged or cut short"),
        ("coco_stuff", "coco_stuffthingmaps", zip_with("../../evil.txt"), "outside the target"),
        ("coco_stuff", "coco_stuffthingmaps", zip_with("/evil.txt"), "has an absolute path"),
        ("pascal_voc_20", "voc2012", tar_with_device, "'VOCdevkit/VOC2012/null' is a device"),
    ],
    ids=["truncated zip", "zip slip", "absolute path", "device node"],
)
def test_archives(dataset, source, change, message, digest, site, desk, undisturbed, tmp_path):
    """With a published digest the download refuses the archive, without one the unpacking does."""
    expected = undisturbed(dataset)
    file = load_catalog(site.overlay).sources[source].file
    good = site.files[file]
    site.files[file] = change(good)
    if digest == "unknown":
        change_overlay(site.overlay, lambda entry: entry.update(sha256=None), only=source)
    assert desk.prepare(dataset) == 1
    assert re.search(message if digest == "unknown" else "sha256 is", desk.sentence())
    assert not list(tmp_path.rglob("evil.txt")) + list(desk.root.rglob("null"))
    aside = {name for name in desk.files() if file in name}
    if digest == "unknown":  # it could be the user's own: never deleted
        assert [name for name in aside if f"{file}.unusable-" in name]
    assert not [name for name in aside if ".unusable-" not in name]
    assert half_written(desk.root) == []
    site.files[file] = good
    assert desk.prepare(dataset) == 0
    found = desk.files()
    assert {name: found[name] for name in found if name not in aside} == expected


def replace_file(path, data):
    path.unlink()  # never through a link into the archives
    path.write_bytes(data)


def half(path):
    replace_file(path, path.read_bytes()[: path.stat().st_size // 2])


def without_label_map(path):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"Other": np.zeros((9, 11), np.uint16)})
    replace_file(path, buffer.getvalue())


def unknown_segment(path):
    content = json.loads(path.read_bytes())
    content["annotations"][0]["segments_info"][0]["category_id"] = 77
    replace_file(path, json.dumps(content).encode())


def unknown_detail(path):
    content = json.loads(path.read_bytes())
    content["annos_segmentation"][0]["category_id"] = 3
    replace_file(path, json.dumps(content).encode())


VOC = "VOCdevkit/VOC2010"
ADE = "ade/ADEChallengeData2016"


@pytest.mark.parametrize(
    ("dataset", "source", "file", "change", "message"),
    [
        (
            "ade20k_150",
            "ade20k_challenge",
            f"{ADE}/annotations/validation/ADE_val_00000002.png",
            half,
            r"ADE_val_00000002\.png: damaged or cut short .*obtain it again from its archive",
        ),
        (
            "ade20k_847",
            "ade20k_full",
            "ade/ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00000001.jpg",
            half,
            r"ADE_train_00000001\.jpg: damaged or cut short",
        ),
        (
            "pascal_ctx_459",
            "pascal_context",
            f"{VOC}/trainval/2008_000002.mat",
            without_label_map,
            r"2008_000002\.mat: variable LabelMap is missing; unpack its archive again",
        ),
        (
            "coco_panoptic",
            "coco_panoptic_annotations",
            "coco/annotations/panoptic_train2017.json",
            unknown_segment,
            r"000000000001\.png: segment 70000 has the unknown category 77",
        ),
        (
            "pascal_ctx_59",
            "pascal_in_detail",
            f"{VOC}/trainval_merged.json",
            unknown_detail,
            r"trainval_merged\.json \(2008_000001\): value 3 is not a class",
        ),
        (
            "pascal_ctx_59",
            "pascal_in_detail",
            f"{VOC}/trainval_merged.json",
            half,
            r"trainval_merged\.json: damaged or cut short",
        ),
        (
            "ade20k_150",
            "ade20k_challenge",
            f"{ADE}/annotations/training/ADE_train_00000001.png",
            Path.unlink,
            r"annotations/training: nothing for 'ADE_train_00000001', which .*images/training has",
        ),
        (
            "ade20k_panoptic",
            "ade20k_instances",
            f"{ADE}/annotations_instance/training/ADE_train_00000001.png",
            Path.unlink,
            r"annotations_instance/training: nothing for 'ADE_train_00000001'",
        ),
        (
            "pascal_voc_20",
            "voc2012",
            "VOCdevkit/VOC2012/SegmentationClass/2008_000001.png",
            Path.unlink,
            r"2008_000001\.png: no such label map; unpack its archive again",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_files(dataset, source, file, change, message, desk, undisturbed):
    """A raw file is damaged after unpacking; unpacking again is the cure."""
    expected = undisturbed(dataset)
    assert desk.prepare(dataset, stop_before="convert") == 0
    change(desk.root / file)
    assert desk.prepare(dataset, stop_before="download") == 0
    assert main(desk.arguments("convert", dataset, "--jobs", "1")) == 1
    assert re.search(message, desk.sentence())
    assert not (desk.root / f"manifests/{dataset}.json").exists()
    assert half_written(desk.root) == []
    assert main(desk.arguments("unpack", source)) == 0
    assert main(desk.arguments("convert", dataset, "--jobs", "1")) == 0
    assert desk.files() == expected


@pytest.mark.slow
def test_every_command_started_twice_at_once(desk, undisturbed):
    expected = undisturbed("ade20k_847")
    for words in desk.commands("ade20k_847"):
        command = [sys.executable, "-c", RUN, *desk.arguments(*words)]
        both = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate()[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], said
    assert desk.files() == expected


@pytest.mark.slow
@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None or sys.platform != "linux",
    reason="needs root on Linux, to mount a small file system of its own",
)
def test_a_full_disk(site, tmp_path, undisturbed):
    file = load_catalog(site.overlay).sources["pascal_context"].file
    with tarfile.open(fileobj=io.BytesIO(site.files[file])) as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in {**members, "trainval/zeros.bin": bytes(90 << 20)}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    site.files[file] = buffer.getvalue()
    change_overlay(site.overlay, lambda entry: entry.update(sha256=None), only="pascal_context")
    expected = undisturbed("pascal_ctx_459")
    del expected["VOCdevkit/VOC2010/trainval/zeros.bin"]
    (tmp_path / "small").mkdir()
    small = Desk(tmp_path / "small", site.overlay)
    script = Path(__file__).with_name("full_disk.py")
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, script, small.root, PARAMS, small.params],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if "NO MOUNT" in done.stdout or "unshare" in done.stderr:
        pytest.skip("this machine does not allow a mount of one's own")
    lines = done.stdout.splitlines()
    codes = [line.split()[:3] for line in lines if line.startswith(("FULL", "ROOM"))]
    ends = {("FULL", "1"), ("ROOM", "0")}
    assert {(state, code) for state, _, code in codes} == ends, done.stdout[:2000] + done.stderr
    assert [word for state, word, _ in codes if state == "FULL"] == [
        "download",
        "unpack",
        "convert",
    ]
    said = [line for line in done.stderr.splitlines() if line.startswith("maftp ")]
    assert re.search(r"maftp download: trainval\.tar\.gz: needs 0\.00 GB .*make room", said[0])
    assert re.search(r"maftp unpack: trainval\.tar\.gz: needs 0\.09 GB .*make room", said[1])
    assert re.search(r"maftp convert: dataset pascal_ctx_459 in .*: the disk is full", said[2])
    found = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("FILE"))
    kept = {n: d for n, d in found.items() if not n.endswith((".lock", ".repairs"))}
    assert kept == {name: data.hex()[:4000] for name, data in expected.items()}
