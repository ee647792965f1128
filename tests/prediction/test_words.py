import pytest

from maftp.errors import DataError
from maftp.prediction.words import class_indices, read_words


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
