"""Files appear whole or not at all."""

import hashlib
import json

import pytest

from maftp.files import atomic_path, sha256, write_json


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
