"""Every reader of a user's files, on inputs damaged at random with a fixed seed.

Each damaged input ends in one sentence that names the file, or in a sound result; never in another
exception, and never in a file outside the target. For more of them, with the counts:
`MAFTP_FUZZ=20 pytest -s tests/test_fuzz_readers.py` (twenty times as many).
"""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import yaml
from PIL import Image

from maftp.apps.pictures import read_picture
from maftp.apps.words import read_words
from maftp.data.annotations import read_instance_json, read_panoptic_json
from maftp.data.catalog import load_catalog
from maftp.data.convert.ade20k_full import parse_id_table
from maftp.data.convert.pascal_context import iterate_array, read_label_map
from maftp.data.images import (
    encode_png,
    encode_tiff,
    image_size,
    read_comment,
    read_label,
    read_rgb,
)
from maftp.data.index import ImageRow, read_index, write_index
from maftp.data.own.masks import read_values
from maftp.data.own.names import parse_names, read_names, read_palette
from maftp.data.unpack import unpack
from maftp.data.verify import read_index_files
from maftp.data.vocabulary import read_vocabulary
from maftp.errors import MaftpError
from tests.data.test_annotations import instances, panoptic

ROUNDS = int(os.environ.get("MAFTP_FUZZ", "1"))
ODD_VALUES = [
    None, True, False, 0, -1, 1, 2**24, 2**31, 2**70, 0.5, 1e300, float("nan"), float("inf"),
    "", "0",
    "7", "x/y", "..", "\0", "é" * 200, [], [[]], {}, {"id": 1}, [1, 2], "a.png", "b.png", 7, 3,
]  # fmt: skip


def damaged_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, repeat, overwrite or insert at random places."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not out:
            break
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 17))
        match int(rng.integers(7)):
            case 0:
                out[at] ^= 1 << int(rng.integers(8))
            case 1:
                del out[at:]
            case 2:
                del out[at : at + length]
            case 3:
                out[at : at + length] = bytes([int(rng.choice([0, 255, 127, 128]))]) * length
            case 4:
                out[at:at] = rng.bytes(length)
            case 5:
                out[at:at] = out[at : at + length * 8]
            case _:  # the head says what is read, and how much of it
                out[int(rng.integers(min(len(out), 64)))] = int(rng.integers(256))
    return bytes(out)


def damaged_values(content: Any, rng: np.random.Generator) -> Any:
    """Replace, remove or repeat values at random places of nested lists and dictionaries."""
    content = copy.deepcopy(content)
    for _ in range(int(rng.integers(1, 3))):
        places = list(all_places(content))
        holder, key = places[int(rng.integers(len(places)))]
        match int(rng.integers(4)):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case 2:
                holder[key] = copy.deepcopy(places[int(rng.integers(len(places)))][0])
            case _:
                holder[key] = copy.deepcopy(ODD_VALUES[int(rng.integers(len(ODD_VALUES)))])
        if not list(all_places(content)):
            break
    return content


def all_places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from all_places(inner)


def campaign(
    what: str,
    inputs: Iterator[bytes],
    path: Path,
    reads: list[Callable[[Path], Any]],
    sound: Callable[[Any, bytes], bool],
) -> None:
    """Read every input by every reader, and count how it ends."""
    ends: Counter[str] = Counter()
    for data in inputs:
        path.write_bytes(data)
        for read in reads:
            try:
                result = read(path)
            except MaftpError as error:
                text = str(error)
                assert path.name in text and "\n" not in text and len(text) > 20, text
                ends["one clear sentence"] += 1
            else:
                assert sound(result, data), (read, result, data)
                ends["sound result"] += 1
    print(f"\n{what}: {sum(ends.values())} inputs, {dict(ends)}")
    assert ends["one clear sentence"]


def noise(rng: np.random.Generator, height: int = 24, width: int = 20) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def pictures(rng: np.random.Generator) -> dict[str, bytes]:
    image = Image.fromarray(noise(rng))
    grey = np.linspace(0, 4000, 480).reshape(24, 20)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x829A] = 6, "camera", (1, 30)
    found = {
        f"{form} {index}": encoded(image, form, **options)
        for form, several in {
            "JPEG": [{"exif": exif}, {"progressive": True, "exif": exif}],
            "PNG": [{"exif": exif}],
            "TIFF": [{"compression": c, "exif": exif} for c in ("raw", "tiff_lzw", "jpeg")],
            "WEBP": [{"exif": exif}, {"lossless": True}],
            "AVIF": [{"exif": exif}],
            "JPEG2000": [{}],
            "BMP": [{}],
            "TGA": [{}],
            "QOI": [{}],
            "PPM": [{}],
        }.items()
        for index, options in enumerate(several)
    }
    frames = [Image.fromarray(noise(rng)).quantize(16) for _ in range(3)]
    found["GIF"] = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found["APNG"] = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    found["grey 16"] = encoded(Image.fromarray(grey.astype(np.uint16)), "PNG")
    found["grey 32"] = encoded(Image.fromarray(grey.astype(np.int32)), "TIFF")
    found["grey float"] = encoded(Image.fromarray(grey.astype(np.float32)), "TIFF")
    return found


def is_rgb(result: Any, data: bytes) -> bool:
    return result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3 and result.size


@pytest.mark.parametrize("kind", pictures(np.random.default_rng(0)))
def test_pictures(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)  # the real limit takes 500 MB
    rng = np.random.default_rng(1)
    data = pictures(np.random.default_rng(0))[kind]
    inputs = [damaged_bytes(data, rng) for _ in range(40 * ROUNDS)]
    reads = [read_picture, lambda path: read_rgb(path, oriented=True)]
    campaign(f"pictures, {kind}", iter(inputs), tmp_path / "fuzz.img", reads, is_rgb)


def test_sizes_and_comments(tmp_path):
    rng = np.random.default_rng(2)
    several = list(pictures(np.random.default_rng(0)).values())
    inputs = (damaged_bytes(several[n % len(several)], rng) for n in range(200 * ROUNDS))

    def sound(result: Any, data: bytes) -> bool:
        return result is None or isinstance(result, str) or min(result[:2]) > 0

    campaign("sizes", inputs, tmp_path / "fuzz.img", [image_size, read_comment], sound)


@pytest.mark.parametrize("form", ["png", "palette", "tif"])
def test_label_maps(form, tmp_path):
    rng = np.random.default_rng(3)
    label = rng.integers(0, 150, (24, 20), dtype=np.uint8)
    data = {
        "png": encode_png(label),
        "palette": encoded(Image.fromarray(label).convert("P"), "PNG"),
        "tif": encode_tiff(label.astype(np.uint16)),
    }[form]

    def sound(result: Any, data: bytes) -> bool:
        # checksums guard the pixels of a PNG; of a TIFF only that there are some can be told
        same = form == "tif" or np.array_equal(result, label)
        return result.ndim == 2 and result.dtype in (np.uint8, np.uint16) and same

    inputs = (damaged_bytes(data, rng) for _ in range(200 * ROUNDS))
    campaign(f"label maps, {form}", inputs, tmp_path / f"fuzz.{form}", [read_label], sound)


def json_inputs(content: Any, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    for number in range(count):
        if number % 3:
            yield json.dumps(damaged_values(content, rng)).encode()
        else:
            yield damaged_bytes(json.dumps(content).encode(), rng)


def is_panoptic(result: Any, data: bytes) -> bool:
    """Check what scores rest on, independently of the schema."""
    content = json.loads(data)
    entries = list(result.annotations.values())
    categories = [category["id"] for category in result.categories]
    assert entries == content["annotations"]
    assert len({str(entry["image_id"]) for entry in entries}) == len(entries)
    assert len(set(categories)) == len(categories) == len(content["categories"])
    assert all(type(category["isthing"]) is int for category in result.categories)
    for entry in entries:
        assert entry["file_name"].endswith(".png") and "/" not in entry["file_name"]
        ids = [segment["id"] for segment in entry["segments_info"]]
        assert len(set(ids)) == len(ids) and all(type(i) is int and 0 < i < 2**24 for i in ids)
        for segment in entry["segments_info"]:
            assert segment["category_id"] in categories
            assert type(segment["area"]) is int and segment["area"] >= 0
            assert type(segment["iscrowd"]) is int and segment["iscrowd"] in (0, 1)
    return True


def test_panoptic_json(tmp_path):
    inputs = json_inputs(panoptic(), np.random.default_rng(4), 900 * ROUNDS)
    campaign("panoptic", inputs, tmp_path / "fuzz.json", [read_panoptic_json], is_panoptic)


def is_instance(result: Any, data: bytes) -> bool:
    content = json.loads(data)
    ids = [entry["id"] for entry in content["annotations"]]
    assert len(set(ids)) == len(ids)
    assert sum(map(len, result.annotations.values())) == len(ids)
    for stem, entries in result.annotations.items():
        for entry in entries:
            if isinstance(entry["segmentation"], dict):
                image = result.images[stem]
                assert entry["segmentation"]["size"] == [image["height"], image["width"]]
    return True


def test_instance_json(tmp_path):
    inputs = json_inputs(instances(), np.random.default_rng(5), 900 * ROUNDS)
    campaign("instances", inputs, tmp_path / "fuzz.json", [read_instance_json], is_instance)


def test_arrays_in_large_json(tmp_path):
    content = {"a": [1, {"b": "x"}], "images": [{"id": 1, "c": [1, "é"]}, {"id": 2}], "n": None}
    data = json.dumps(content, indent=1).encode()
    rng = np.random.default_rng(6)
    inputs = (damaged_bytes(data, rng) for _ in range(300 * ROUNDS))
    campaign(
        "large JSON",
        inputs,
        tmp_path / "fuzz.json",
        [lambda path: list(iterate_array(path, "images"))],
        lambda result, data: isinstance(result, list),
    )


LISTS = {
    "words.txt": "# mine\nsky\nbuilding, edifice\nred car; blue car\n",
    "bench.txt": "0:invalid_class_id\n1:sky\n2:bus,coach\n3:coach,trainer\n",
    "words.names": "sky\r\nred car\r\n",
    "words.csv": 'id,name\n1,"sky, blue"\n2,car\n',
    "words.tsv": "name\tid\nsky\t1\ncar\t2\n",
    "words.json": '{"names": ["sky", "red car", "building, edifice"]}',
    "words.yaml": "names:\n  0: sky\n  1: red car\n",
}


def are_words(result: list[str], data: bytes) -> bool:
    return bool(result) and all(isinstance(name, str) and name.strip(", ") for name in result)


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_words(name, tmp_path):
    rng = np.random.default_rng(7)
    inputs = (damaged_bytes(LISTS[name].encode(), rng) for _ in range(300 * ROUNDS))
    reads = [lambda path: read_words(str(path))]
    campaign(f"words, {name}", inputs, tmp_path / name, reads, are_words)


def test_vocabularies(tmp_path):
    rng = np.random.default_rng(8)
    inputs = (damaged_bytes(LISTS["bench.txt"].encode(), rng) for _ in range(500 * ROUNDS))
    reads = [lambda path: read_vocabulary(path).names]
    campaign("vocabularies", inputs, tmp_path / "fuzz.txt", reads, are_words)


def tables(tmp_path: Path) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    write_index(tmp_path / "i.csv", [ImageRow(s, 3, 4, True, "0" * 64) for s in "abc"])
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"LabelMap": np.ones((5, 6), np.uint16)}, do_compression=True)
    table = 'CLASSES = [{"name": "a", "id": 5, "trainId": 0}, {"name": "b", "id": 6, "trainId": 1}]'
    return {
        "index": ((tmp_path / "i.csv").read_bytes(), read_index),
        "mat": (buffer.getvalue(), read_label_map),
        "pickle": (pickle.dumps({"filename": ["a.jpg", "b.jpg"]}, 2), read_index_files),
        "ids": (
            table.encode(),
            lambda path: parse_id_table(path.read_text("latin-1"), path, classes=2),
        ),
    }


@pytest.mark.parametrize("kind", ["index", "mat", "pickle", "ids"])
def test_tables_of_data_sets(kind, tmp_path):
    data, read = tables(tmp_path)[kind]
    rng = np.random.default_rng(9)
    inputs = (damaged_bytes(data, rng) for _ in range(300 * ROUNDS))
    campaign(f"tables, {kind}", inputs, tmp_path / "fuzz", [read], lambda r, d: r is not None)


def test_catalogs(tmp_path):
    content = {
        "sources": {"voc2012": {"url": "file://{here}/a.tar", "sha1": "0" * 40, "makes": ["a"]}},
        "datasets": {"ade20k_150": {"classes": 3, "splits": {"val": {"count": 2}}}},
        "benchmarks": {"mine": {"dataset": "ade20k_150", "split": "val", "metric": "semantic"}},
    }
    rng = np.random.default_rng(10)

    def inputs() -> Iterator[bytes]:
        for number in range(200 * ROUNDS):
            if number % 3:
                yield yaml.safe_dump(damaged_values(content, rng)).encode()
            else:
                yield damaged_bytes(yaml.safe_dump(content).encode(), rng)

    path = tmp_path / "fuzz.yaml"
    reads = [load_catalog, lambda file: load_catalog(own=file)]
    campaign("catalogs", inputs(), path, reads, lambda r, d: bool(r.datasets))


def test_own_names_and_palettes(tmp_path):
    rng = np.random.default_rng(10)
    lists = [b"0:sky\n1:car, auto\n3:road\n", b"sky\ncar,auto\nroad\n"]
    palette = b"70 130 180 sky\n#00008e car\n128,64,128\troad\n0 0 0 ignore\n"
    inputs = (damaged_bytes(lists[n % 2], rng) for n in range(200 * ROUNDS))

    def sound(result: Any, data: bytes) -> bool:
        rows = result.rows
        return len(set(rows)) == len(rows) > 0 and all(0 <= row <= 65535 for row in rows)

    campaign("names", inputs, tmp_path / "fuzz.txt", [read_names], sound)
    names = parse_names("0:sky\n1:car\n3:road", "names.txt")
    campaign(
        "palettes",
        (damaged_bytes(palette, rng) for _ in range(200 * ROUNDS)),
        tmp_path / "fuzz.txt",
        [lambda path: read_palette(path, names, void=255)],
        lambda found, data: all(0 <= c < 2**24 and v in (0, 1, 3, 255) for c, v in found.items()),
    )


@pytest.mark.parametrize("form", ["grey", "wide", "palette", "colours"])
def test_own_masks(form, tmp_path):
    rng = np.random.default_rng(11)
    values = rng.integers(0, 3, (12, 16), dtype=np.uint8)
    colours = {1: 0, 2: 1, 3: 2} if form == "colours" else None
    data = {
        "grey": encode_png(values),
        "wide": encoded(Image.fromarray(values.astype(np.uint16)), "PNG"),
        "palette": encoded(Image.fromarray(values).convert("P"), "PNG"),
        "colours": encode_png(np.stack((values + 1, 0 * values, 0 * values), -1)),
    }[form]
    campaign(
        f"masks, {form}",
        (damaged_bytes(data, rng) for _ in range(60 * ROUNDS)),
        tmp_path / "fuzz.png",
        [lambda path: read_values(path, colours)],
        lambda found, data: np.array_equal(found, values),  # checksums guard the pixels
    )


MEMBERS = {f"top/{n}/{n}.bin": bytes(range(n, n + 100)) * 7 for n in range(4)}


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in MEMBERS.items():
                file.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode=kind) as file:
            for name, data in MEMBERS.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpacked_inside(path: Path) -> dict[str, Any]:
    """Unpack, and check that only the target changed, and that an error leaves nothing in it."""
    folder = path.parent / "deep" / "er"
    target = folder / "target"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "old.txt").write_bytes(b"mine")
    before = everything(path.parent, but=target)
    try:
        unpack(path, target)
    except MaftpError:
        assert not list(target.iterdir())
        raise
    finally:
        assert everything(path.parent, but=target) == before
        found = everything(target, but=None)
        clear(target)
    return found


def everything(folder: Path, *, but: Path | None) -> dict[str, Any]:
    found = {}
    for where, folders, names in os.walk(folder):
        here = Path(where)
        folders[:] = [name for name in folders if here / name != but]
        for name in names:
            place = here / name
            found[str(place)] = ("link", os.readlink(place)) if place.is_symlink() else size(place)
    return found


def size(path: Path) -> tuple[int, int, bytes]:
    status = path.stat()
    return status.st_mtime_ns, status.st_nlink, path.read_bytes()[:4096]


def clear(target: Path) -> None:
    for where, folders, names in os.walk(target, topdown=False):
        for name in names:
            (Path(where) / name).unlink()
        for name in folders:
            (Path(where) / name).rmdir()


def holds_files(result: dict[str, Any], data: bytes) -> bool:
    return all(isinstance(entry[0], int) for entry in result.values())


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_damaged_archives(kind, tmp_path):
    rng = np.random.default_rng(11)
    inputs = (damaged_bytes(archive(kind), rng) for _ in range(60 * ROUNDS))
    path = tmp_path / "fuzz.bin"

    def sound(result: dict[str, Any], data: bytes) -> bool:
        # checksums guard what members hold; a plain tar has them for headers alone
        contents = sorted(entry[2] for entry in result.values())
        return kind == "w" or contents == sorted(MEMBERS.values())

    campaign(f"archives, {kind}", inputs, path, [unpacked_inside], sound)


PARTS = [
    "a",
    "b",
    "..",
    ".",
    "d" * 247,
    "é",
    "/",
    "old.txt",
    "target",
    "",
    "c:",
    "\\",
    "deep",
    "x y",
]
TYPES = [
    tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.SYMTYPE,
    tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"Z",
]  # fmt: skip


def hostile(rng: np.random.Generator, kind: str) -> bytes:
    """Build an archive whose members try to get out: through names, links, and links to links."""

    def name() -> str:
        parts = rng.choice(PARTS, size=int(rng.integers(1, 6))).tolist()
        return "/".join(parts * int(rng.choice([1, 1, 1, 16])))

    buffer = io.BytesIO()
    count = int(rng.integers(1, 9))
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            for _ in range(count):
                info = zipfile.ZipInfo(name() or "a")
                info.external_attr = int(rng.choice([0, 0o100644, 0o120777, 0o020666])) << 16
                file.writestr(info, name())
        return buffer.getvalue()
    form = tarfile.PAX_FORMAT if rng.integers(2) else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for _ in range(count):
            info = tarfile.TarInfo(name())
            info.type = TYPES[int(rng.integers(len(TYPES)))]
            info.linkname = name() if rng.integers(2) else "../" * int(rng.integers(1, 17))
            info.mode = int(rng.integers(0o10000))
            data = b"owned" if info.isreg() else b""
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_hostile_archives(kind, tmp_path):
    rng = np.random.default_rng(12)
    inputs = (hostile(rng, kind) for _ in range(400 * ROUNDS))
    path = tmp_path / "fuzz.bin"
    campaign(f"hostile archives, {kind}", inputs, path, [unpacked_inside], holds_files)


def test_tables_are_told_from_lists():
    """The inputs that are not damaged are read: the campaigns do not refuse everything."""
    assert list(csv.reader(LISTS["words.csv"].splitlines()))[1] == ["1", "sky, blue"]
