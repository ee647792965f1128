"""Files appear whole or not at all."""

import errno
import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from maftp.errors import MaftpError, OutputError, describe_os_error
from maftp.files import (
    atomic_path,
    check_output,
    check_replaceable,
    link_or_copy,
    sha256,
    write_json,
)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_and_replaced(tmp_path):
    for content in ("first", "second"):
        with atomic_path(tmp_path / "deep" / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [file.name for file in (tmp_path / "deep" / "folder").iterdir()] == ["second"]


def test_the_target_is_untouched_while_writing(tmp_path):
    with atomic_path(tmp_path / "a.png") as temporary:
        temporary.write_text("x")
        assert temporary.suffix == ".png"
        assert not (tmp_path / "a.png").exists()
    assert (tmp_path / "a.png").read_text() == "x"


def test_digest_and_json(tmp_path):
    write_json(tmp_path / "a.json", {"é": 1})
    content = (tmp_path / "a.json").read_bytes()
    assert json.loads(content) == {"é": 1} and content.endswith(b"\n")
    assert sha256(tmp_path / "a.json") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_holds_finite_numbers_only(value, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(MaftpError, match=r"a\.json: scores\.1\.PQ is not a finite number"):
        write_json(path, {"n": 1, "scores": [{"PQ": 0.5}, {"PQ": value}]})
    assert path.read_text() == "old"


def test_a_name_that_is_no_utf8_is_written_as_an_escape(tmp_path):
    write_json(tmp_path / "a.json", {"image": "caf\udce9.png", "é": "ü"})
    content = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(content) == {"image": "caf\udce9.png", "é": "ü"}


def test_a_folder_that_is_replaced_holds_nothing_foreign(tmp_path):
    check_replaceable(tmp_path / "none", {"a"})
    (tmp_path / "a").write_text("")
    (tmp_path / ".snakemake_timestamp").write_text("")
    check_replaceable(tmp_path, {"a", "b"})
    (tmp_path / "holiday.png").write_text("")
    with pytest.raises(MaftpError, match=r"holds holiday\.png, which was not written here"):
        check_replaceable(tmp_path, {"a", "b"})


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
@pytest.mark.parametrize("durable", [False, True])
def test_permissions_follow_the_umask(tmp_path, umask, durable):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.safetensors", durable=durable) as temporary:
            save_file({"a": torch.ones(1)}, temporary)  # written by safetensors as 0600
        with atomic_path(tmp_path / "folder", durable=durable) as temporary:
            temporary.mkdir()
            save_file({"a": torch.ones(1)}, temporary / "b.safetensors")
    finally:
        os.umask(before)
    for file in (tmp_path / "a.safetensors", tmp_path / "folder" / "b.safetensors"):
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("folder", [False, True])
def test_a_place_that_can_be_written_to(tmp_path, folder):
    check_output(tmp_path / "a" / "b" / "c.json", folder=folder)
    assert list(tmp_path.iterdir()) == []
    check_output(tmp_path, folder=True)
    (tmp_path / "old.json").touch()
    check_output(tmp_path / "old.json")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


@pytest.mark.parametrize(
    ("name", "folder", "sentence"),
    [
        ("folder", False, "folder: is a folder; give the name of a file"),
        ("file", True, "file is not a folder; choose another place"),
        ("file/x/a.json", False, "file is not a folder; choose another place"),
        ("file/x", True, "file is not a folder; choose another place"),
        ("link/a.json", False, "link is not a folder"),
        ("n" * 300 + "/a", False, "name is too long.*ENAMETOOLONG"),
    ],
)
def test_a_place_that_cannot_be_written_to(tmp_path, name, folder, sentence):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(OutputError, match=sentence):
        check_output(tmp_path / name, folder=folder)


def test_the_kernel_s_own_files_cannot_be_written_to():
    with pytest.raises(OutputError, match="/proc/a.json: "):
        check_output("/proc/a.json")


@pytest.mark.parametrize("code", [code for code in errno.errorcode if code != errno.EINTR])
def test_every_error_of_the_system_is_one_sentence(code):
    sentence = describe_os_error(OSError(code, os.strerror(code), "some/file"))
    assert sentence.startswith("some/file: ") and "\n" not in sentence
    assert sentence.endswith(f"({errno.errorcode[code]})")


def test_errors_without_a_code_keep_their_text():
    assert describe_os_error(OSError("cannot identify image file")) == "cannot identify image file"
    assert describe_os_error(TimeoutError()) == "TimeoutError"


def test_a_link_takes_the_place_of_what_was_there(tmp_path):
    source, target = tmp_path / "source.jpg", tmp_path / "new" / "target.jpg"
    source.write_bytes(b"1")
    for _ in range(2):  # the second finds a link to the same file
        link_or_copy(source, target)
        assert target.samefile(source)
    other = tmp_path / "other.jpg"
    other.write_bytes(b"2")
    link_or_copy(other, target)
    assert target.read_bytes() == b"2" and source.read_bytes() == b"1"
    assert [path.name for path in target.parent.iterdir()] == ["target.jpg"]
