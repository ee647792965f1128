import gzip
import io
import json
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from maftp.data.catalog import load_catalog
from maftp.data.download import fetch
from maftp.data.layout import archives_dir
from maftp.data.unpack import unpack, unpack_source
from maftp.errors import DataError, DownloadError

CASES = Path(__file__).parent / "cases" / "archives"


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def write_tar(path, members, mode="w", **options):
    with tarfile.open(path, mode, **options) as file:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
            else:
                file.addfile(member)
    return path


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("name", "mode"), [("a.zip", None), ("a.tar", "w"), ("a.tar.gz", "w:gz"), ("odd.bin", "w:xz")]
)
def test_kinds_of_archives(name, mode, tmp_path):
    members = [("top/a.txt", b"a"), ("top/deep/b.txt", b"b")]
    path = tmp_path / name
    write_zip(path, members) if mode is None else write_tar(path, members, mode)
    assert unpack(path, tmp_path / "target") == 2
    assert files(tmp_path / "target") == dict((name, data) for name, data in members)


def test_other_files_stay_and_equal_names_are_replaced(tmp_path):
    target = tmp_path / "target"
    (target / "top").mkdir(parents=True)
    (target / "top/old.txt").write_bytes(b"old")
    (target / "top/a.txt").write_bytes(b"before")
    unpack(write_zip(tmp_path / "a.zip", [("top/a.txt", b"a")]), target)
    assert files(target) == {"top/old.txt": b"old", "top/a.txt": b"a"}


def test_nested_archives(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", [("png/1.png", b"1")]).read_bytes()
    outer = write_zip(tmp_path / "o.zip", [("ann/i.zip", inner), ("ann/x.json", b"{}")])
    unpack(outer, tmp_path / "target", nested=["ann/i.zip"])
    assert files(tmp_path / "target") == {"png/1.png": b"1", "ann/x.json": b"{}"}
    with pytest.raises(DataError, match=r"o\.zip: no ann/none\.zip in it"):
        unpack(outer, tmp_path / "other", nested=["ann/none.zip"])
    assert files(tmp_path / "other") == {}


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "c:/out.txt", "\\out"]
)
def test_names_that_lead_out(name, tmp_path):
    target = tmp_path / "deep" / "target"
    for path in (
        write_zip(tmp_path / "a.zip", [("fine.txt", b""), (name, b"x")]),
        write_tar(tmp_path / "a.tar", [("fine.txt", b""), (name, b"x")]),
    ):
        with pytest.raises(DataError, match="do not use this archive"):
            unpack(path, target)
        assert list(target.iterdir()) == []
    assert not (tmp_path / "deep/out.txt").exists()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (special("a/link", tarfile.SYMTYPE, "../../etc"), "is a link to"),
        (special("link", tarfile.SYMTYPE, "/etc/passwd"), "is a link to"),
        (special("link", tarfile.SYMTYPE, "inside"), "is a link to"),
        (special("link", tarfile.LNKTYPE, "../out"), "is a link to"),
        (special("link", tarfile.LNKTYPE, "inside"), "is a link to"),
        (special("null", tarfile.CHRTYPE), "is a device or a pipe"),
        (special("disk", tarfile.BLKTYPE), "is a device or a pipe"),
        (special("pipe", tarfile.FIFOTYPE), "is a device or a pipe"),
    ],
)
def test_links_out_and_devices(member, message, tmp_path):
    path = write_tar(tmp_path / "a.tar", [member])
    with pytest.raises(DataError, match=message):
        unpack(path, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_hard_link_to_a_link_that_leads_out(tmp_path):
    path = CASES / "hard_link_to_symlink.tar"
    with pytest.raises(DataError, match=r"hard_link_to_symlink\.tar: member .* is a link"):
        unpack(path, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def deep_links(depth, length, last):
    """Build what CVE-2025-4517 describes: links to nested folders, one up, a file through it."""
    folder = "d" * length
    members, path = [], ""
    for letter in "abcdefghijklmnop"[:depth]:
        members.append(special(os.path.join(path, folder), tarfile.DIRTYPE))
        members.append(special(os.path.join(path, letter), tarfile.SYMTYPE, folder))
        path = os.path.join(path, folder)
    far = os.path.join("/".join("abcdefghijklmnop"[:depth]), "l" * 254)
    members.append(special(far, tarfile.SYMTYPE, "../" * depth))
    members.append(special("escape", tarfile.SYMTYPE, far + "/../.."))
    name = {"link": "escape/new.txt", "hard": "hard"}[last]
    if last == "hard":
        members.append(special("hard", tarfile.LNKTYPE, "escape/old.txt"))
    return [*members, (name, b"owned")]


@pytest.mark.parametrize("depth", [1, 2, 8, 16])
@pytest.mark.parametrize("length", [3, 247])
@pytest.mark.parametrize("last", ["link", "hard"])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_nothing_leaves_through_links_deeper_than_paths_may_be(depth, length, last, mode, tmp_path):
    path = write_tar(tmp_path / "a.tar", deep_links(depth, length, last), mode)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/old.txt").write_bytes(b"mine")
    before = files(tmp_path)
    with pytest.raises(DataError, match="is a link to .*; do not use this archive"):
        unpack(path, tmp_path / "in" / "target")
    assert list((tmp_path / "in/target").iterdir()) == []
    assert files(tmp_path) == before


@pytest.mark.parametrize("names", [
    ["n" * 300], ["/".join(["n" * 250] * 17)], ["a", "a/b"], ["a/b", "a"],
])  # fmt: skip
def test_names_that_no_file_can_have(names, tmp_path):
    members = [(name, b"x") for name in names]
    for path in (
        write_tar(tmp_path / "a.tar", members, format=tarfile.PAX_FORMAT),
        write_zip(tmp_path / "a.zip", members),
    ):
        with pytest.raises(DataError, match=rf"{path.name}: member .*name.*do not use"):
            unpack(path, tmp_path / "target")
        assert list((tmp_path / "target").iterdir()) == []


def test_a_zero_in_a_name(tmp_path):
    member = tarfile.TarInfo("fine.txt")
    member.pax_headers = {"path": "a\0b"}
    path = write_tar(tmp_path / "a.tar", [member], format=tarfile.PAX_FORMAT)
    with pytest.raises(DataError, match="a name that no file can have"):
        unpack(path, tmp_path / "target")


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", [("x.txt", b"x")]).read_bytes()
    unpack(write_tar(tmp_path / "a.tar", [("inner.zip", inner)]), tmp_path / "target")
    assert files(tmp_path / "target") == {"inner.zip": inner}


def test_links_in_a_zip(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link or a device"):
        unpack(path, tmp_path / "target")


@pytest.mark.parametrize("mode", [None, "w", "w:gz"])
def test_archives_cut_short(mode, tmp_path):
    members = [("a.bin", bytes(range(256)) * 40), ("b.bin", bytes(range(255, -1, -1)) * 40)]
    path = tmp_path / "archive"
    write_zip(path, members) if mode is None else write_tar(path, members, mode)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(DownloadError, match="archive: damaged or cut short .*download it again"):
        unpack(path, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("what", ["header", "end"])
def test_a_tar_that_ends_early_is_not_taken_for_whole(what, mode, tmp_path):
    plain = tmp_path / "plain.tar"
    data = write_tar(plain, [("a.bin", b"a"), ("b.bin", b"b")]).read_bytes()
    data = data[:1024] + b"\1" * 512 + data[1536:] if what == "header" else data[:2048]
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(data) if mode == "w:gz" else data)
    with pytest.raises(DownloadError, match=r"a\.tar: damaged or cut short \(no member and no end"):
        unpack(path, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_damaged_member(tmp_path):
    path = write_zip(tmp_path / "a.zip", [("a.bin", b"abcdefgh" * 100)])
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DownloadError, match="Bad CRC-32"):
        unpack(path, tmp_path / "target")


def test_no_archive_at_all(tmp_path):
    with pytest.raises(DownloadError, match="no such file"):
        unpack(tmp_path / "none.zip", tmp_path / "target")
    (tmp_path / "page.zip").write_text("<html>Not found</html>")
    with pytest.raises(DownloadError, match="damaged or cut short"):
        unpack(tmp_path / "page.zip", tmp_path / "target")


def test_a_source_is_unpacked_and_stamped(overlay, tmp_path):
    root, catalog = tmp_path / "root", load_catalog(overlay)
    for name in ("coco_stuffthingmaps", "coco_train2017", "coco_panoptic_annotations"):
        fetch(catalog.sources[name], archives_dir(root))
        stamp = unpack_source(name, catalog, root)
        assert json.loads(stamp.read_text())["sha256"] == catalog.sources[name].sha256
    assert sorted(path.name for path in (root / "coco").iterdir()) == [
        "annotations",
        "panoptic_train2017",
        "panoptic_val2017",
        "stuffthingmaps",
        "train2017",
    ]
    assert {path.suffix for path in (root / "coco/train2017").iterdir()} == {".jpg"}
    assert not list((root / "coco/annotations").glob("*.zip"))


def test_data_that_the_user_put_in_place_need_no_archive(overlay, tmp_path):
    root, catalog = tmp_path / "root", load_catalog(overlay)
    with pytest.raises(DownloadError, match="download it first"):
        unpack_source("coco_train2017", catalog, root)
    (root / "coco/train2017").mkdir(parents=True)
    stamp = unpack_source("coco_train2017", catalog, root)
    assert json.loads(stamp.read_text())["sha256"] is None


def test_registration_is_explained(tmp_path):
    with pytest.raises(DownloadError, match="ask at https://ade20k.csail.mit.edu/request_data/"):
        unpack_source("ade20k_full", load_catalog(), tmp_path)


def test_a_hand_placed_archive_is_verified(overlay, tmp_path):
    root, catalog = tmp_path / "root", load_catalog(overlay)
    archive = archives_dir(root) / catalog.sources["voc2012"].file
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"something else")
    with pytest.raises(DownloadError, match=r"VOCtrainval_11-May-2012\.tar: sha256 is"):
        unpack_source("voc2012", catalog, root)


def test_another_version_leaves_nothing_of_the_first(make_world, tmp_path):
    root = tmp_path / "root"
    catalog = load_catalog(make_world(tmp_path / "served"))
    fetch(catalog.sources["coco_train2017"], archives_dir(root))
    unpack_source("coco_train2017", catalog, root)
    (root / "coco/train2017/000000000009.jpg").write_bytes(b"of the first version")
    archive = archives_dir(root) / "train2017.zip"
    archive.unlink()
    catalog = load_catalog(make_world(tmp_path / "served", seed=1))
    fetch(catalog.sources["coco_train2017"], archives_dir(root))
    unpack_source("coco_train2017", catalog, root)
    assert len(list((root / "coco/train2017").iterdir())) == 3


def test_an_archive_of_something_else(overlay, tmp_path):
    served = overlay.parent / "val2017.zip"
    write_zip(served, [("else/1.jpg", b"")])
    text = overlay.read_text()
    digest = load_catalog(overlay).sources["coco_val2017"].sha256
    overlay.write_text(text.replace(f"sha256: {digest}", "sha256: null"))
    root, catalog = tmp_path / "root", load_catalog(overlay)
    fetch(catalog.sources["coco_val2017"], archives_dir(root))
    with pytest.raises(DataError, match=r"val2017\.zip: no coco/val2017 came out of it"):
        unpack_source("coco_val2017", catalog, root)
