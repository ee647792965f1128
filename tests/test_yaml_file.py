"""YAML is read strictly; what a run froze is refused once it was edited."""

from __future__ import annotations

import random

import pytest

from maftp.errors import ParamsError
from maftp.yaml_file import freeze, is_frozen, read_yaml


def read(path):
    return read_yaml(path, kind="parameter file", error=ParamsError)


def written(tmp_path, content: bytes | str):
    path = tmp_path / "file.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("train: {a: 1}\ntrain: {b: 2}\n", "'train' stands there twice.*line 2"),
        ("train:\n  a: 1\n  b: 2\n  a: 3\n", "'a' stands there twice"),
        ("a: &a {b: *a}\n", "contain itself"),
        ("a: &a [*a]\n", "contain itself"),
        (LAUGHS, "more than 100000 values"),
        (b"a: \xff\xfe\n", "not UTF-8"),
        ("1: 2\n", "key 1 is not text"),
        ("? [a]\n: 2\n", "is not text"),
        ("a: !!python/object/apply:os.system [ls]\n", "not readable as YAML"),
        ("", "found nothing"),
        ("[1]", "found list"),
        ("a: [", "not readable as YAML"),
        ("a: " + "[" * 5000, "not readable as YAML"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path, content, sentence):
    path = written(tmp_path, content)
    with pytest.raises(ParamsError, match=sentence) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_and_nothing_are_told_apart(tmp_path):
    with pytest.raises(ParamsError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(ParamsError, match="no such parameter file"):
        read(tmp_path / "nowhere.yaml")


def test_aliases_merge_keys_and_a_byte_order_mark_are_read(tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbfbase: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\n")
    assert read(path)["mine"] == {"a": 1, "b": 3}


def test_frozen_values_come_back_and_edits_are_refused(tmp_path):
    values = {"a": 1e-5, "b": ["no", "1.0", None, True], "c": {"d": "\u00e9\n"}}
    path = freeze(values, tmp_path, name="params")
    assert is_frozen(path) and read(path) == values
    assert freeze(values, tmp_path, name="params") == path
    assert freeze({"a": 2e-5}, tmp_path, name="params") != path
    path.write_text(path.read_text().replace("1.0e-05", "2.0e-05"))
    with pytest.raises(ParamsError, match="edited since the run began"):
        read(path)


def test_mutated_files_are_read_or_refused(tmp_path):
    """300 files with bytes changed, cut and doubled; seed 0."""
    rng = random.Random(0)
    whole = (LAUGHS[:200] + "x: {y: 1, z: [1, 2]}\n" * 1).encode()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            place = rng.randrange(len(content))
            change = rng.randrange(3)
            if change == 0:
                content[place] = rng.randrange(256)
            elif change == 1:
                del content[place : place + rng.randrange(1, 20)]
            else:
                content[place:place] = content[place : place + rng.randrange(1, 20)]
        try:
            assert isinstance(read(written(tmp_path, bytes(content))), dict)
        except ParamsError as error:
            assert "\n" not in str(error)
