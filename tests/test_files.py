"""Files appear whole or not at all."""

import hashlib
import json
from pathlib import Path

import pytest

from maftp.errors import MaftpError
from maftp.files import atomic_path, check_output, check_replaceable, sha256, write_json


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


def test_outputs_are_checked_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    check_output(tmp_path / "file")
    check_output(tmp_path / "new/deep/file")
    check_output(tmp_path, folder=True)
    check_output(tmp_path / "new/deep", folder=True)
    for path, folder in (
        (tmp_path, False),
        (tmp_path / "file", True),
        (tmp_path / "file/below", False),
        (tmp_path / "file/below/deep", True),
    ):
        with pytest.raises(MaftpError, match="choose another path"):
            check_output(path, folder=folder)
    with pytest.raises(MaftpError, match="cannot be written to"):
        check_output(Path("/proc/out.json"))


def test_a_folder_that_is_replaced_holds_nothing_foreign(tmp_path):
    check_replaceable(tmp_path / "none", {"a"})
    (tmp_path / "a").write_text("")
    (tmp_path / ".snakemake_timestamp").write_text("")
    check_replaceable(tmp_path, {"a", "b"})
    (tmp_path / "holiday.png").write_text("")
    with pytest.raises(MaftpError, match=r"holds holiday\.png, which was not written here"):
        check_replaceable(tmp_path, {"a", "b"})
