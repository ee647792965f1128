"""What is wrong with own data is said in a sentence that names the file and the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from maftp.cli import main
from maftp.data.own.forms import Given, check
from maftp.errors import DataError
from tests.data.own.conftest import coloured, grey, instance_json, panoptic_json, write_json

ROOT = Path(__file__).resolve().parents[3]


def save_values(value, size=(16, 12)):
    return lambda path: Image.new("L", size, value).save(path)


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("masks/photo 1.png", save_values(9), r"1\.png: value 9 is not in .*names\.txt.*'9:NAME'"),
        ("masks/photo 1.png", save_values(1, (16, 11)), r"label of 16 x 11 .* has 16 x 12"),
        ("masks/photo 1.png", lambda p: p.write_bytes(b"\x89PNG"), "save the mask as PNG"),
        ("masks/photo 1.png", lambda p: p.unlink(), "masks: nothing for 'photo 1'"),
        ("masks/more.png", save_values(1), "images: nothing for 'more'"),
        (
            "masks/photo 1.png",
            lambda p: Image.new("L", (16, 12)).save(p, format="JPEG"),
            r"photo 1\.png: a JPEG file, no PNG; save masks as lossless PNGs",
        ),
        (
            "masks/photo 1.png",
            lambda p: Image.new("RGB", (16, 12), (1, 2, 3)).save(p),
            r"photo 1\.png: a mask in colours; name the file .* with --palette",
        ),
        ("images/photo 1.JPEG", lambda p: p.write_bytes(b"GIF"), r"1\.JPEG: not an image; give a"),
        ("images/photo 1.png", save_values(1), r"photo 1\.png: photo 1\.JPEG has the same name"),
        ("names.txt", lambda p: p.unlink(), r"names\.txt: no such list of names"),
        ("names.txt", lambda p: p.write_text("sky\n\nroad\n"), r"line 2: '' is no name"),
        ("names.txt", lambda p: p.write_text("0:sky\n0:car"), "line 2: index 0 occurs twice"),
        ("names.txt", lambda p: p.write_text("0:sky\n1:car,sky"), "'sky' names the classes 0 and"),
        ("names.txt", lambda p: p.write_bytes(b"\xff\xfe"), "not readable as UTF-8"),
    ],
)
def test_a_fault_of_label_maps(folders, name, write, sentence):
    made = folders(grey)
    write(made.path / name)
    with pytest.raises(DataError, match=sentence):
        check(Given(made.images, made.masks, names=made.names))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("128 64 128 road", r"photo 0\.png: colour 70 130 180 is not in the palette; add a line"),
        ("1 2 300 road", r"colours\.txt, line 1: '1 2 300 road' is no colour; write 'R G B name'"),
        ("1 2 3 lorry", "line 1: 'lorry' is no class of the list of names; mend it, or write 'ign"),
        ("1 2 3\n1 2 3", "line 2: the colour of '1 2 3' occurs twice"),
        ("1 1 1\n2 2 2\n3 3 3\n4 4 4", r"line 4: .*names\.txt has 3 classes only"),
        ("", "no colour in it"),
    ],
)
def test_a_fault_of_the_palette(folders, line, sentence):
    made = folders(coloured)
    palette = made.path / "colours.txt"
    palette.write_text(line)
    with pytest.raises(DataError, match=sentence):
        check(Given(made.images, made.masks, names=made.names, palette=palette))


def lose_segment(content):
    content["annotations"][1]["segments_info"].pop()


def lose_image(content):
    content["annotations"].pop()


def lose_mark(content):
    del content["categories"][0]["isthing"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lose_segment, r"photo 1\.png: an id is not listed in the annotations"),
        (lose_image, r"truth\.json: nothing for 'photo 2', which .*images has; add it"),
        (lose_mark, r"truth\.json: categories\.0\.isthing: field required"),
        (lambda content: content.pop("categories"), "it has no list 'categories'"),
    ],
)
def test_a_fault_of_a_panoptic_set(folders, change, sentence):
    made = folders(grey)
    content = panoptic_json(made)
    change(content)
    with pytest.raises(DataError, match=sentence):
        check(Given(made.images, made.masks, write_json(made, content)))


def test_names_and_things_must_be_those_of_the_json(folders):
    made = folders(grey)
    given = Given(made.images, made.masks, write_json(made, panoptic_json(made)), made.names)
    with pytest.raises(DataError, match=r"truth\.json: nothing for category id 0, which .*names"):
        check(given)
    with pytest.raises(DataError, match="no category is called 'lorry'; mend the names of"):
        check(replace(given, names=None, things=("car", "lorry")))
    (made.masks / "photo 1.png").unlink()
    with pytest.raises(DataError, match=r"masks: no photo 1\.png, which .*truth\.json names"):
        check(replace(given, names=None))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["images"][1].update(width=15), "mask of 16 x 12 pixels, but its image has 15"),
        (lambda c: c["images"].pop(), "there is no image 2"),
        (lambda c: c["annotations"][0].update(category_id=5), "no category has id 5"),
    ],
)
def test_a_fault_of_instances(folders, change, sentence):
    made = folders(grey)
    content = instance_json(made)
    change(content)
    with pytest.raises(DataError, match=sentence):
        check(Given(made.images, annotations=write_json(made, content)))


def test_every_fault_is_told_up_to_ten(folders):
    made = folders(grey)
    for mask in made.masks.iterdir():
        save_values(77)(mask)
    with pytest.raises(DataError) as caught:
        check(Given(made.images, made.masks, names=made.names))
    assert [line.split(": ")[0][-11:] for line in str(caught.value).splitlines()] == [
        f"photo {n}.png" for n in range(3)
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "name the folder of the masks with --masks and the class names with --names"),
        (["--masks", "masks"], "and the class names with --names"),
        (["--masks", "masks", "--names", "names.txt", "--things", "car"], "--things does nothing"),
        (["--annotations", "x.json", "--ignore", "3"], "--ignore does nothing here"),
        (["--masks", "masks", "--names", "names.txt", "--ignore", "3"], "value 3 is a class"),
        (["--masks", "none", "--names", "names.txt"], "none: no such folder of masks"),
    ],
)
def test_options_that_do_not_go_together(folders, monkeypatch, capfd, options, sentence):
    """As typed: one sentence, no traceback, nothing written."""
    made = folders(grey)
    monkeypatch.chdir(made.path)
    (made.path / "root.yaml").write_text("data: {root: root, own: root/own.yaml, world: null}")
    params = ["--params", str(ROOT / "params.yaml"), "root.yaml"]
    words = ["data", "add", "street", "--images", "images", "--val", "--jobs", "1"]
    assert main([*words, *options, *params]) == 1
    said = capfd.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert not (made.path / "root/own.yaml").exists() and not (made.path / "results").exists()
