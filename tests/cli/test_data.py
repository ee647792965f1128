"""`maftp data ...`, as typed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from maftp.cli import main
from tests.data.conftest import write_world

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Parameter files of a root in which two data sets are converted."""
    folder = tmp_path_factory.mktemp("data")
    data = {"root": str(folder / "root"), "catalog": str(write_world(folder / "served"))}
    (folder / "mine.yaml").write_text(yaml.safe_dump({"data": data | {"world": None}}))
    params = ["--params", str(ROOT / "params.yaml"), str(folder / "mine.yaml")]
    sources = ["voc2012", "vocabulary_pascal_voc_21"]
    sources += ["ade20k_challenge", "ade20k_instances", "vocabulary_ade20k_150"]
    for words in [[verb, name] for name in sources for verb in ("download", "unpack")]:
        assert main([*words, *params]) == 0
    for name in ("pascal_voc_20", "ade20k_panoptic"):
        assert main(["convert", name, "--jobs", "1", *params]) == 0
    return folder / "root", params


def test_status(finished, capsys):
    assert main(["data", "status", "pascal_voc_20", "ade20k_847", *finished[1]]) == 0
    said = capsys.readouterr().out
    voc, full = (next(line for line in said.splitlines() if n in line) for n in ("voc_20", "_847"))
    assert "converted" in voc and "4 of 4" in voc and "unpacked: voc2012" in voc
    assert "not there" in full and "0 of 8" in full
    assert main(["data", "status", *finished[1]]) == 0
    assert "weights maftp_l_pano" in capsys.readouterr().out


def test_verify(finished, capsys):
    root, params = finished
    assert main(["data", "verify", "--jobs", "1", *params]) == 0
    assert capsys.readouterr().out == "ade20k_panoptic: sound\npascal_voc_20: sound\n"
    label = root / "VOCdevkit/VOC2012/annotations_ovs/val/2008_000001.png"
    good = label.read_bytes()
    Image.fromarray(np.zeros((9, 11), np.uint8)).save(label)
    assert main(["data", "verify", "pascal_voc_20", "--jobs", "1", *params]) == 1
    said = capsys.readouterr()
    assert f"{label}: not the file that the conversion wrote" in said.out
    assert "problems found: 1, named above" in said.err
    label.write_bytes(good)


def test_preview(finished, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    command = ["data", "preview", "ade20k_panoptic", "--images", "2", "--out", str(out)]
    assert main([*command, *finished[1]]) == 0
    assert capsys.readouterr().out == f"{out}: ADE_val_00000001, ADE_val_00000002\n"
    assert Image.open(out).size[0] > 1000
    assert main(["data", "preview", "coco_stuff", "--out", str(out), *finished[1]]) == 1
    assert "dataset coco_stuff is not converted" in capsys.readouterr().err


def test_links(finished, tmp_path, capsys):
    root, params = finished
    assert main(["data", "links", *params]) == 0
    assert f"{root}/ade20k -> ade" in capsys.readouterr().out
    assert (root / "ade20k").samefile(root / "ade")


def test_a_file_of_ones_own(finished, tmp_path, capsys):
    root, params = finished
    archive = root / "archives/VOCtrainval_11-May-2012.tar"
    mine = tmp_path / "mine.tar"
    shutil.copy(archive, mine)
    assert main(["download", "voc2012", "--from", str(mine), *params]) == 0
    assert archive.samefile(mine)
    mine.unlink()
    mine.write_bytes(b"something else")
    assert main(["download", "voc2012", "--from", str(mine), *params]) == 1
    assert "damaged, cut short or another" in capsys.readouterr().err


def test_adding_your_own_says_what_is_next(tmp_path, monkeypatch, capsys):
    """Two parts of a set, with nothing about it in the parameters yet."""
    monkeypatch.chdir(tmp_path)
    for folder, size in (("photos", (20, 16, 3)), ("masks", (20, 16))):
        (tmp_path / folder).mkdir()
        for number in range(3):
            pixels = np.full(size, number % 2, np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "names.txt").write_text("sky\nroad, street\nlorry\n")
    (tmp_path / "mine.yaml").write_text("data: {root: root, world: null, catalog: null}")
    params = ["--params", str(ROOT / "params.yaml"), "mine.yaml"]
    words = ["data", "add", "street", "--images", "photos", "--masks", "masks", "--jobs", "1"]
    words += ["--names", "names.txt"]
    assert main([*words, "--train", *params]) == 0
    said = capsys.readouterr().out
    assert "street, train: 3 images, 3 classes; 0.0 % of the pixels have none." in said
    assert "Never seen: lorry." in said and "Look at results/previews/street_train.png" in said
    assert "Entered in root/own.yaml." in said
    assert "  data: {own: root/own.yaml, train: street}" in said
    assert "snakemake --cores all --configfile mine.yaml" in said
    sheet = np.asarray(Image.open("results/previews/street_train.png").convert("RGB"))
    assert sheet.std() > 10
    (tmp_path / "mine.yaml").write_text(
        "data: {root: root, own: root/own.yaml, train: street, world: null, catalog: null}"
    )
    assert main([*words, "--val", *params]) == 0
    said = capsys.readouterr().out
    assert "  benchmarks: [street]\n" in said and "data: {" not in said
    assert main([*words, "--val", *params]) == 1
    assert main([*words, "--val", "--replace", *params]) == 0
    assert main([*words, *params]) == 1 and main([*words, "--train", "--val", *params]) == 1
    capsys.readouterr()
    assert main(["data", "status", "street", *params]) == 0
    assert "to be converted" in capsys.readouterr().out
