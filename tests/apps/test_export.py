"""Exported programs against the model itself, on pictures and on vocabularies of other sizes."""

import json

import numpy as np
import pytest
import torch
import yaml

import maftp
from maftp.api import Loaded, experiment_params, load
from maftp.apps.export import INPUTS, ImagePath, export_model, open_onnx, open_program, text_inputs
from maftp.cli import main
from maftp.errors import MaftpError
from maftp.miniworld.label_spaces import ade20k_150
from maftp.miniworld.scenes import Style
from maftp.miniworld.splits import Split, draw_split
from maftp.modeling.build import build_model

SIZE = (96, 128)
TRACED = ["sky", "car, taxi"]
OTHERS = ["sky", "red house, red building, red home", "road", "green tree, green plant", "grass"]


@pytest.fixture(scope="module")
def loaded(weights):
    return load(weights)


def untrained(weights, folder, **model) -> Loaded:
    """Return another method than the one the weights are of."""
    overlay = yaml.safe_load(weights.with_name("tiny.yaml").read_text())
    overlay["variants"] = {"other": {"model": model}}
    path = folder / "other.yaml"
    path.write_text(yaml.safe_dump(overlay))
    params = experiment_params(path)
    torch.manual_seed(3)
    model = build_model(params, num_training_classes=2, load_clip=None, teacher=False).eval()
    model.set_training_vocabulary(TRACED)
    return Loaded(model, params, weights)


@pytest.fixture(scope="module")
def baseline(weights, tmp_path_factory) -> Loaded:
    return untrained(weights, tmp_path_factory.mktemp("baseline"), name="fcclip")


@pytest.fixture(scope="module")
def adapter(weights, tmp_path_factory) -> Loaded:
    own = {"width": 16, "family": "maftp"}
    folder = tmp_path_factory.mktemp("adapter")
    return untrained(weights, folder, name="mask_adapter", mask_adapter=own)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    style = Style(things=(), stuff=(), count=(2, 3), size=(0.4, 0.6))
    split = Split(space=ade20k_150(), style=style, sizes=(SIZE,))
    return [picture.scene.image for picture in draw_split(split, count=4, seed=(7,))]


def arrays(loaded: Loaded, picture: np.ndarray, names: list[str]) -> list[np.ndarray]:
    inputs = text_inputs(loaded, names)
    image = picture.transpose(2, 0, 1)[None].astype(np.float32)
    return [image, *(inputs[name].numpy() for name in INPUTS[1:])]


def test_two_networks_at_sizes_of_their_own_are_not_exported(weights, tmp_path):
    loaded = untrained(weights, tmp_path, name="maskclippp")
    with pytest.raises(MaftpError, match="maskclippp cannot be exported.*proposes its masks"):
        export_model(loaded, TRACED, tmp_path / "x.pt2", size=SIZE, kind="torch-export")


@pytest.mark.parametrize("kind", ["loaded", "baseline", "adapter"])
def test_the_image_path_gives_the_scores_of_the_model(kind, request, pictures):
    one = request.getfixturevalue(kind)
    path = ImagePath(one.model)
    found = maftp.segment(one.model, pictures[0], OTHERS, short_side=None)
    with torch.no_grad():
        scores = path(*map(torch.from_numpy, arrays(one, pictures[0], OTHERS))).numpy()
    assert np.allclose(scores, found.semantic, atol=1e-5)
    assert not any("transformer.resblocks" in name for name in path.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "form", "suffix", "opener"),
    [
        ("loaded", "onnx", ".onnx", open_onnx),
        ("loaded", "torch-export", ".pt2", open_program),
        ("baseline", "onnx", ".onnx", open_onnx),
    ],
)
def test_labels_on_test_images(kind, form, suffix, opener, request, pictures, tmp_path):
    one = request.getfixturevalue(kind)
    out = tmp_path / f"model{suffix}"
    description = export_model(one, TRACED, out, kind=form, size=SIZE)
    assert description["check"]["equal_labels"] > 0.999
    assert json.loads(out.with_suffix(".json").read_text())["inputs"]["image"] == [1, 3, *SIZE]
    with np.load(out.with_suffix(".npz")) as stored:
        assert stored["rows"].tolist() == [[0, 0], [1, 2]]
    run = opener(out)
    for picture in pictures:
        for names in (OTHERS, OTHERS[:1], TRACED):
            scores = run(*arrays(one, picture, names))
            expected = maftp.segment(one.model, picture, names, short_side=None)
            assert scores.shape == expected.semantic.shape
            assert np.allclose(scores, expected.semantic, atol=1e-4)
            # rounding decides where two scores are equal
            assert (scores.argmax(0) == expected.labels).mean() > 0.999


@pytest.mark.slow
def test_the_command_writes_three_files(weights, tmp_path):
    out = tmp_path / "small.pt2"
    arguments = ["--format", "torch-export", "--size", "64", "64", "--out", str(out)]
    assert main(["export", "--weights", str(weights), *arguments]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"small.pt2", "small.json", "small.npz"}


def test_a_wrong_size_ends_in_a_sentence(loaded, tmp_path):
    with pytest.raises(MaftpError, match="multiples of 32"):
        export_model(loaded, TRACED, tmp_path / "m.onnx", kind="onnx", size=(100, 64))
    assert not list(tmp_path.iterdir())
