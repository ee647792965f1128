import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from maftp.apps.words import class_indices, read_words
from maftp.errors import DataError

CASES = Path(__file__).resolve().parents[1] / "data" / "cases" / "words"


def test_classes_are_separated_by_semicolons_and_synonyms_by_commas():
    assert read_words("sky; building,  edifice ;red car;") == [
        "sky",
        "building, edifice",
        "red car",
    ]


def test_a_text_file_holds_a_class_a_line(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# my classes\nsky\n\nbuilding, edifice\nred car; blue car\n")
    assert read_words(str(path)) == ["sky", "building, edifice", "red car", "blue car"]


def test_a_benchmark_s_file_is_taken_as_it_is(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("0:invalid_class_id\n1:sky\n2:bus,coach\n3:coach,trainer\n")
    assert read_words(str(path)) == ["sky", "bus,coach", "coach,trainer"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no class in it"),
        (" ; , ;", "no class in it"),
        ("sky; sea; sky", "'sky' occurs twice"),
        ("sky; Sky", "'Sky' occurs twice"),
        ("building, edifice; house, building", "'building' occurs twice"),
        ("missing/words.txt", "no such text file"),
        ("lists/words.names", "no such text file"),
        ("classes.json", "no such text file"),
        ("classes.yaml", "no such text file"),
        ("my lists/of words", "no such text file"),
        ("..\\words", "no such text file"),
        ("x" * 5000 + "/words", "no such text file"),
        ("words\0.txt", "no such text file"),
    ],
)
def test_wrong_words_end_in_a_sentence(text, sentence):
    with pytest.raises(DataError, match=sentence):
        read_words(text)


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match=r"words\.txt: no class"):
        read_words(str(path))


def test_class_indices_knows_every_synonym():
    names = ["sky", "building, edifice", "red car"]
    assert class_indices("Edifice; sky", names) == [0, 1]
    assert class_indices("", names) == []
    with pytest.raises(DataError, match="'tree' is not in the vocabulary"):
        class_indices("tree", names)


@pytest.mark.parametrize(
    "text", ["washer/dryer;", "words.names;", "St. Bernard", "U.S.A", "washer/dryer, dryer", "1.5"]
)
def test_names_with_dots_and_slashes_can_be_typed(text):
    assert read_words(text) == [text.removesuffix(";")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("q.csv", ["sky, blue", "car"]),
        ("c.json", ["sky", "red car"]),
        ("c.yaml", ["sky", "red car"]),
        ("bom_bench.txt", ["sky", "red car"]),
        ("blank_bench.txt", ["sky", "red car"]),
        ("zero_bench.txt", ["dog", "bird"]),
    ],
)
def test_lists_of_other_programs_are_read_as_what_they_are(name, words, caplog):
    assert read_words(str(CASES / name)) == words
    assert ("'cat' is left out, as index 0 is not a class" in caplog.text) == (name[0] == "z")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.names", "sky\nred car\n", ["sky", "red car"]),
        ("a", "sky\r\nred car\r\n", ["sky", "red car"]),
        ("a.txt", "\ufeffsky\n\n red car \n", ["sky", "red car"]),
        ("a.csv", "name\nsky\nred car\n", ["sky", "red car"]),
        ("a.csv", "sky\nred car\n", ["sky", "red car"]),
        ("a.csv", "Name;id\nsky;1\nred car;2\n", ["sky", "red car"]),
        ("a.tsv", "id\tlabel\n1\tsky, heaven\n2\tred car\n", ["sky, heaven", "red car"]),
        ("a.json", '[{"id": 1, "name": "sky"}, {"id": 2, "name": "car"}]', ["sky", "car"]),
        ("a.json", '{"categories": [{"id": 1, "name": "sky"}]}', ["sky"]),
        ("a.json", '{"10": "car", "2": "sky"}', ["sky", "car"]),
        ("a.txt", '["sky", "car"]', ["sky", "car"]),
        ("a.yaml", "names: [sky, car]\npath: x\n", ["sky", "car"]),
        ("a.yml", "- sky\n- building, edifice\n", ["sky", "building, edifice"]),
    ],
)
def test_more_forms_of_lists(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    assert read_words(str(tmp_path / name)) == words


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"1,sky\n2,car\n"),
        ("a.csv", b"name,class\nsky,car\n"),
        ("a.csv", b"id,name\n1,sky, blue\n"),
        ("a.csv", b""),
        ("a.json", b"{"),
        ("a.json", b"3"),
        ("a.json", b'{"a": 1}'),
        ("a.json", b'["sky", 3]'),
        ("a.json", b'["sky", null]'),
        ("a.json", b"[]"),
        ("a.json", b"[" * 99999),
        ("a.yaml", b"names: {0: sky, 1: no}"),
        ("a.yaml", b"a: [b"),
        ("a.yaml", b"&a [*a]"),
        ("a.yaml", b"[" * 9999),
        ("a.txt", b"\xff\xfes\0k\0y\0"),
        ("a.txt", b"sky\0car"),
        ("a.names", b""),
    ],
)
def test_files_that_hold_no_list_of_names(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"^--vocabulary .*{name}: ") as caught:
        read_words(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_file_without_rights(tmp_path):
    with pytest.raises(DataError, match="is a folder; name a file"):
        read_words(str(tmp_path))
    with pytest.raises(DataError, match="is a folder; name a file"):
        read_words(".")


def test_standard_input_and_what_a_shell_makes_of_a_command(tmp_path, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"sky\nred car\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read_words("-") == ["sky", "red car"]
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_text, args=("sky\nred car\n",))
    writer.start()
    assert read_words(str(tmp_path / "fifo")) == ["sky", "red car"]
    writer.join()
    program = "import sys; from maftp.apps.words import read_words as r; print(r(sys.argv[1]))"
    for shell in (
        f"printf 'sky\\ncar' | {sys.executable} -c '{program}' /dev/stdin",
        f"{sys.executable} -c '{program}' <(printf 'sky\\ncar')",
    ):
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "['sky', 'car']"


def test_a_class_is_named_by_its_whole_name_or_a_synonym():
    names = ["sky", "building, edifice", "bus,coach", "coach,trainer"]
    assert class_indices("building, edifice", names) == [1]
    assert class_indices("Edifice,building; sky", names) == [0, 1]
    assert class_indices("coach,trainer; bus", names) == [2, 3]
    for wrong in ("coach", "sky, building", "sky, tree"):
        with pytest.raises(DataError, match="vocabulary"):
            class_indices(wrong, names)
