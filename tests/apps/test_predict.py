import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import maftp
from maftp import api
from maftp.api import load
from maftp.apps.pictures import Picture, find_sources
from maftp.apps.predict import predict, save_labels, write_result
from maftp.cli import main
from maftp.errors import DataError, MaftpError
from maftp.regions import NOTHING

NAMES = ["sky", "building, edifice", "red car"]
WORDS = "; ".join(NAMES)
SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "samples"
CASES = Path(__file__).resolve().parents[1] / "data" / "cases" / "pictures"


@pytest.fixture(scope="module")
def loaded(weights):
    return load(weights)


def read(out: Path, name: str) -> tuple[dict, np.ndarray]:
    assert (out / f"{name}.overlay.png").is_file()
    labels = np.asarray(Image.open(out / f"{name}.labels.png"))
    return json.loads((out / f"{name}.json").read_text()), labels


def check_segments(record: dict, labels: np.ndarray) -> None:
    """Every segment's mask, area and box agree with each other and with the label map."""
    assert labels.shape == (record["height"], record["width"])
    for segment in record["segments"]:
        mask = coco_mask.decode(segment["rle"]).astype(bool)
        assert mask.shape == labels.shape
        assert (labels[mask] == segment["class_index"]).all()
        assert mask.sum() == segment["area"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert segment["box"] == [
            columns[0],
            rows[0],
            columns[-1] - columns[0] + 1,
            rows[-1] - rows[0] + 1,
        ]
        assert 0 < segment["score"] <= 1
        assert segment["class"] == record["vocabulary"][segment["class_index"]].split(",")[0]
    assert sum(segment["area"] for segment in record["segments"]) == (labels != 255).sum()


def test_labels_are_those_of_segment(loaded, pixels):
    found = loaded.predictor(NAMES)(pixels)
    expected = maftp.segment(loaded.model, pixels, NAMES, short_side=64, max_side=128)
    assert (found.labels == expected.labels).mean() > 0.999  # ties of the interpolation


def test_panoptic_segments_are_those_of_segment(loaded, pixels):
    found = loaded.predictor(NAMES, panoptic=True, stuff=[0])(pixels)
    expected = maftp.segment(
        loaded.model, pixels, NAMES, short_side=64, max_side=128, panoptic=True, things=[1, 2]
    )
    assert np.array_equal(found.panoptic, expected.panoptic)
    assert len(found.regions) == len(expected.segments) > 0
    assert ((found.labels == NOTHING) == (found.panoptic == 0)).all()


def test_panoptic_of_a_large_picture(loaded, pixels, monkeypatch):
    monkeypatch.setattr(api, "PANOPTIC_PIXELS", 1000)
    found = loaded.predictor(NAMES, panoptic=True)(pixels)
    assert found.panoptic.shape == found.labels.shape == pixels.shape[:2]


def test_predict_writes_three_files_a_picture_and_goes_on_after_a_damaged_one(
    loaded, folder, tmp_path, caplog
):
    (folder / "damaged.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    written = predict(find_sources([str(folder)]), loaded.predictor(NAMES), out, every=2)
    assert len(written) == 5
    assert "left out: " in caplog.text and "damaged.png" in caplog.text
    record, labels = read(out, "one_2")  # below/one.jpg comes first
    assert (record["width"], record["height"], record["frame"]) == (90, 60, None)
    assert record["vocabulary"] == NAMES
    check_segments(record, labels)
    assert read(out / "clip", "000004")[0]["frame"] == 4
    assert not list(out.rglob(".*"))


def test_a_named_picture_that_is_damaged_stops(loaded, folder, tmp_path):
    (folder / "damaged.png").write_bytes(b"nothing")
    sources = find_sources([str(folder / "damaged.png")])
    with pytest.raises(DataError, match="not an image"):
        predict(sources, loaded.predictor(NAMES), tmp_path / "out")


@pytest.mark.parametrize("panoptic", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 1280), (1280, 2), (1, 700)])
def test_the_smallest_and_thinnest_pictures(size, panoptic, loaded, tmp_path):
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(tmp_path / "thin.png")
    sources = find_sources([str(tmp_path / "thin.png")])
    predict(sources, loaded.predictor(NAMES, panoptic=panoptic), tmp_path / "out")
    record, labels = read(tmp_path / "out", "thin")
    check_segments(record, labels)


def test_a_second_run_does_not_segment_its_own_results(loaded, folder, caplog):
    caplog.set_level("INFO")
    predictor = loaded.predictor(NAMES, panoptic=True)
    out = folder / "predictions"
    for _ in range(2):
        written = predict(find_sources([str(folder)]), predictor, out, every=2)
        assert sorted(path.name for path in out.glob("*.json")) == ["one.json", "one_2.json"]
        assert len(written) == 5
    assert "15 pictures left out, they are results of earlier predictions" in caplog.text
    (out / "one.json").unlink()  # as after an interruption: the JSON is written last
    assert len(find_sources([str(folder)])) == 3
    assert len(find_sources([str(folder / "**" / "*.png")])) == 1
    assert len(find_sources([str(out / "one.overlay.png")])) == 1


@pytest.mark.parametrize(
    "name",
    ["one.json", "one.labels.png", "one.overlay.png", "one.segments.png", "clip/000004.json"],
)
@pytest.mark.parametrize("content", [b"{}", b"[1]", b"mine", b""])
def test_nothing_that_a_user_brought_is_overwritten(name, content, loaded, folder):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    sources = find_sources([str(folder / "one.png"), str(folder / "clip.mp4")])
    with pytest.raises(DataError, match=rf"{name}: is not a result .* choose another folder"):
        predict(sources, loaded.predictor(NAMES), folder)
    assert (folder / name).read_bytes() == content


def test_what_cannot_be_written_is_found_before_the_model_is_loaded(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        arguments = [str(folder), "--weights", "none", "--out", str(out), "--vocabulary", "sky"]
        assert main(["predict", *arguments]) == 1
        assert f"maftp predict: {out}: " in (said := capsys.readouterr().err)
        assert "choose another place" in said and "Traceback" not in said
    for out in (tmp_path, tmp_path / "file" / "m.onnx"):
        assert main(["export", "--weights", "none", "--out", str(out)]) == 1
        assert f"maftp export: {tmp_path}" in (said := capsys.readouterr().err)
        assert "folder" in said and "Traceback" not in said


def test_strict_makes_an_error_of_what_was_left_out(loaded, tmp_path, caplog):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "cut.avi").write_bytes((CASES / "cut.avi").read_bytes())
    predictor = loaded.predictor(NAMES)
    for inputs in (pictures, pictures / "cut.avi"):
        written = predict(find_sources([str(inputs)]), predictor, tmp_path / "out")
        assert len(written) == 5
        assert "cut.avi: 5 of 8 frames could be read" in caplog.text
        with pytest.raises(DataError, match=r"cut\.avi: 5 of 8 frames .*--strict"):
            predict(find_sources([str(inputs)]), predictor, tmp_path / "out", strict=True)


def test_a_score_that_is_no_number_is_not_written(loaded, pixels, tmp_path):
    predictor = loaded.predictor(NAMES)
    found = predictor(pixels)
    wrong = replace(found, shares=np.full_like(found.shares, np.nan))
    picture = Picture("one", tmp_path / "one.png", pixels)
    with pytest.raises(MaftpError, match=r"one\.png: the model's scores are not finite numbers"):
        write_result(picture, wrong, predictor, tmp_path)
    assert not list(tmp_path.iterdir())


def test_label_maps_hold_many_classes(tmp_path):
    labels = np.array([[0, 300], [NOTHING, 2]], np.int32)
    save_labels(tmp_path / "many.png", labels, 847)
    assert np.asarray(Image.open(tmp_path / "many.png")).tolist() == [[0, 300], [65535, 2]]
    save_labels(tmp_path / "few.png", labels.clip(max=3), 254)
    assert np.asarray(Image.open(tmp_path / "few.png")).tolist() == [[0, 3], [255, 2]]


@pytest.mark.parametrize("panoptic", [False, True])
def test_command_on_real_photographs(weights, tmp_path, panoptic):
    if not SAMPLES.is_dir():
        pytest.skip("the real samples are not on this machine")
    options = ["--panoptic", "--stuff", "sky"] if panoptic else []
    arguments = ["--vocabulary", WORDS, "--weights", str(weights), "--out", str(tmp_path)]
    pictures = str(SAMPLES / "coco_panoptic" / "input_images")
    assert main(["predict", pictures, *arguments, *options]) == 0
    for photograph in Path(pictures).iterdir():
        record, labels = read(tmp_path, photograph.stem)
        assert Image.open(photograph).size == (record["width"], record["height"])
        check_segments(record, labels)
        assert (tmp_path / f"{photograph.stem}.segments.png").exists() == panoptic


def test_the_training_classes_are_the_default_vocabulary(weights, folder, tmp_path):
    arguments = ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main(["predict", str(folder / "one.png"), *arguments]) == 0
    assert read(tmp_path / "out", "one")[0]["vocabulary"] == ["sky", "car, taxi"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"picture": "notes.txt"}, "notes.txt: not an image"),
        ({"picture": "none.png"}, "none.png: no such picture"),
        ({"--vocabulary": " ; "}, "no class in it"),
        ({"--vocabulary": "sky; sea; sky"}, "'sky' occurs twice"),
        ({"--weights": "none.safetensors"}, "none.safetensors: no such checkpoint"),
        ({"--experiment": "nonsense"}, "'nonsense' is neither"),
        ({"--stuff": "tree"}, "'tree' is not in the vocabulary"),
    ],
)
def test_bad_input_ends_in_one_sentence(weights, folder, tmp_path, capsys, change, sentence):
    options = {"--vocabulary": WORDS, "--weights": str(weights), "--out": str(tmp_path / "out")}
    options |= {key: value for key, value in change.items() if key != "picture"}
    picture = str(folder / change.get("picture", "one.png"))
    capsys.readouterr()
    assert main(["predict", picture, *(part for pair in options.items() for part in pair)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("maftp ")]
    assert sentence in line
    assert not list(tmp_path.glob("out/*"))
