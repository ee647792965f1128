from pathlib import Path

import pytest

from maftp.data.vocabulary import class_color, read_vocabulary, seen_categories, split_synonyms
from maftp.errors import DataError

# stem: classes, synonyms, SHA-256 of the published file
PUBLISHED = {
    "ade20k_150": (150, 403, "3204c154e2c524ce2575f873838893fc25d68c5c4f7973f2d4ee76d7e24bb781"),
    "ade20k_847": (847, 1342, "173d44806d8b3ca94cfb8947f459e6ecdb90770387b3a4116fdd78e8e111d732"),
    "pascal_ctx_59": (59, 160, "0bf48d67f93b15d331cbf36e112777cc3a407084e94e395b98fad8c67e50149a"),
    "pascal_ctx_459": (
        459,
        559,
        "574ae7e3dc9decff20366696309c36d40502cda90204f7e94c96251559be5197",
    ),
    "pascal_voc_21": (20, 79, "9acddc0dc82ebb9167e23ac93b197c91794603ec320f5e30053f983d4fa23c21"),
    "coco_stuff": (171, 328, "af860dc8362af7c7fed556b79014cfbf775b7ece2279b11317a16260cdca9bcb"),
    "coco_panoptic": (133, 254, "560169ea22202460c3b9427df387f8d1778e94dadecd38554da683e2097cda9f"),
    "mapillary_vistas": (
        65,
        153,
        "67d04273ba43538b4ae8c5c809951422982e3abd6eb2ee6ab2a2d063916e9c10",
    ),
    "lvis_1203": (1203, 1825, "7108477b1bdfca7c95d17f7b9e992250be9a6bd6dc704fcb4592484ac626dffd"),
}

CASES = Path(__file__).parent / "cases" / "words"


def write(tmp_path, text):
    path = tmp_path / "vocabulary.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize("stem", PUBLISHED)
def test_published_lists(stem, samples):
    path = samples / "vocabularies" / f"{stem}_with_prompt_eng.txt"
    vocabulary = read_vocabulary(path)
    synonyms = sum(len(split_synonyms(name)) for name in vocabulary.names)
    assert (len(vocabulary), synonyms, vocabulary.digest) == PUBLISHED[stem]


@pytest.mark.parametrize(
    ("stem", "size", "synonyms"), [("pascal_voc_21", 21, 153), ("cityscapes", 19, 60)]
)
def test_published_lists_with_a_real_row_zero(stem, size, synonyms, samples):
    path = samples / "vocabularies" / f"{stem}_with_prompt_eng.txt"
    vocabulary = read_vocabulary(path, keep_row_zero=True)
    assert len(vocabulary) == size and vocabulary.categories[0].row == 0
    assert sum(len(split_synonyms(name)) for name in vocabulary.names) == synonyms


def test_45_names_of_the_847_belong_to_several_classes(samples):
    vocabulary = read_vocabulary(samples / "vocabularies/ade20k_847_with_prompt_eng.txt")
    classes = {}
    for index, name in enumerate(vocabulary.names):
        for synonym in split_synonyms(name):
            classes.setdefault(synonym, set()).add(index)
    assert sum(len(found) > 1 for found in classes.values()) == 45


def test_split_synonyms():
    assert split_synonyms("a, b,c ,  d") == ["a", "b", "c ", " d"]
    assert split_synonyms("one") == ["one"]


def test_rows(tmp_path):
    text = "0:void\n5:cat,kitty\n7:invalid_class_id\n9:dog, hound\n"
    vocabulary = read_vocabulary(write(tmp_path, text))
    assert vocabulary.names == ["cat,kitty", "dog, hound"]
    assert [category.row for category in vocabulary.categories] == [5, 9]
    kept = read_vocabulary(write(tmp_path, text), keep_row_zero=True)
    assert kept.names[0] == "void" and kept.digest == vocabulary.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:cat\ndog", r"vocabulary\.txt, line 2: expected 'index:name\[,synonym\]', found 'dog'"),
        ("1:cat\n\n2:dog", "line 2: expected"),
        ("1:cat:dog", "line 1: expected"),
        ("x:cat", "line 1: expected"),
        ("-1:cat", "line 1: expected"),
        ("1:", "line 1: expected"),
        ("1:cat,,dog", "line 1: expected"),
        ("1:cat\n1:dog", "line 2: index 1 occurs twice"),
        ("0:void", "no class in it"),
        ("", "line 1: expected"),
    ],
)
def test_wrong_rows_name_file_and_line(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_vocabulary(write(tmp_path, text))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: no such vocabulary"):
        read_vocabulary(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not readable as UTF-8"):
        read_vocabulary(tmp_path / "binary.txt")


def test_seen_by_any_equal_synonym():
    train = ["person,man", "traffic light, signal"]
    test = ["man,human", "Person", "signal", " signal", "traffic"]
    assert seen_categories(test, train) == [True, False, True, False, False]


def test_colours_differ():
    colors = [class_color(index) for index in range(1203)]
    assert len(set(colors)) == 1203
    assert all(0 <= channel <= 255 for color in colors for channel in color)
    near = [
        sum(abs(a - b) for a, b in zip(*pair, strict=True))
        for pair in zip(colors, colors[1:], strict=False)
    ]
    assert min(near) > 60


def test_a_byte_order_mark_is_no_part_of_the_first_index():
    vocabulary = read_vocabulary(CASES / "bom_bench.txt")
    assert vocabulary.names == ["sky", "red car"]
