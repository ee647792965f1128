import json
import shutil

import pytest

from maftp import api
from maftp.api import load
from maftp.errors import CheckpointError, ParamsError


def test_own_weights_know_their_experiment(weights):
    loaded = load(weights)
    assert loaded.params.experiment == "tiny"
    assert loaded.training_names == ("sky", "car, taxi")
    assert not loaded.model.training


def test_without_weights_the_miniature_model_is_used_and_named(
    weights, tmp_path, monkeypatch, caplog
):
    run = tmp_path / api.MINIATURE.parent
    run.mkdir(parents=True)
    for name in ("weights.safetensors", "manifest.json"):
        shutil.copy(weights.with_name(name), run)
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", logger="maftp")
    assert load(None).weights == api.MINIATURE
    assert "using the miniature world's model" in caplog.text


def test_without_any_weights_a_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "PROJECT_ROOT", tmp_path)
    with pytest.raises(CheckpointError, match="name a checkpoint with --weights"):
        load(None)


def test_missing_damaged_and_nameless_weights(weights, tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(tmp_path / "none.safetensors")
    (tmp_path / "released.pth").write_bytes(b"text")
    with pytest.raises(ParamsError, match="does not say which experiment"):
        load(tmp_path / "released.pth")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load(tmp_path / "released.pth", experiment="miniature")
    shutil.copy(weights, tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"parameters": {}}))
    with pytest.raises(ParamsError, match="no manifest of a run"):
        load(tmp_path / "weights.safetensors")


def test_a_device_that_is_not_there(weights):
    with pytest.raises(ParamsError, match="--device nonsense"):
        load(weights, device="nonsense")


def test_weights_that_are_cut_short_without_a_manifest(weights, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="cut.safetensors: damaged or cut short"):
        load(cut)
