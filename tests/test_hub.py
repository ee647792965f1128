"""Folders of models: written, read, and fetched by the hub's client from a loopback hub."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch

import maftp
from maftp import hub
from maftp.api import load
from maftp.cli import main
from maftp.errors import CheckpointError, OutputError
from maftp.files import sha256
from tests.hub_server import COMMIT, serving

WORDS = ["sky", "dog, puppy", "red house"]


@pytest.fixture(scope="module")
def loaded(weights):
    return load(weights)


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory) -> Path:
    """The folder of a model, as the command writes it; tests must not change it."""
    out = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", "--weights", str(weights), "--hub", str(out)]) == 0
    return out


def export(loaded, out: Path, weights: Path | None = None) -> None:
    hub.write_folder(
        out,
        model=loaded.model,
        params=loaded.params,
        weights=weights or loaded.weights,
        card="# A model\n",
        licence="Ask its owner.\n",
    )


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def point_to(monkeypatch, url: str) -> None:
    """Do what HF_ENDPOINT does, which is read when the client is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(folder, tmp_path, monkeypatch):
    """A hub that has the model as `ann/tiny`, the client's cache being empty."""
    with serving() as running:
        running.models["ann/tiny"] = folder
        point_to(monkeypatch, running.url)
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield running


def same_predictions(first, second, image) -> bool:
    one, other = (maftp.segment(model, image, WORDS, short_side=64) for model in (first, second))
    return np.array_equal(one.semantic, other.semantic)


def test_a_folder_predicts_what_its_weights_do(folder, loaded, weights, pixels):
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "LICENSE", "config.json", "model.safetensors", "maftp_tiny_look.json",
    }  # fmt: skip
    assert sha256(folder / "model.safetensors") == sha256(weights)
    found = maftp.load_model(folder)
    assert found.training_names == ("sky", "car, taxi")
    assert same_predictions(found, loaded.model, pixels)
    assert load(folder).params.input == loaded.params.input


def test_its_card_is_the_hub_s(folder):
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "maftp" and "maftp.load_model(" in card.text
    assert "apache-2.0" in (folder / "LICENSE").read_text()


def test_nothing_of_this_machine_is_written(folder, weights):
    text = (folder / "config.json").read_text()
    assert str(weights.parent) not in text
    assert set(json.loads(text)["params"]) == {"input", "clip", "model", "evaluate"}


def test_a_released_checkpoint_becomes_tensors_alone(loaded, tmp_path, pixels):
    torch.save({"model": loaded.model.state_dict()}, tmp_path / "released.pth")
    export(loaded, tmp_path / "out", weights=tmp_path / "released.pth")
    found = maftp.load_model(str(tmp_path / "out"))
    assert found.training_names is None  # such a file does not say
    assert same_predictions(found, loaded.model, pixels)


def test_a_folder_in_use_is_refused_and_a_failure_leaves_nothing(loaded, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    with pytest.raises(OutputError, match="used: is not empty; name a new folder"):
        export(loaded, tmp_path / "used")
    (tmp_path / "cut.pth").write_bytes(b"PK\3\4")
    with pytest.raises(CheckpointError):
        export(loaded, tmp_path / "out", weights=tmp_path / "absent.safetensors")
    assert not (tmp_path / "out").exists()


def write_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text())
    clip = content["params"]["clip"] | changes.pop("clip", {})
    content["params"]["clip"] = clip
    file.write_text(json.dumps(content | changes))


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json in it; give one that"),
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors in it"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
    "another library": (lambda f: write_config(f, library_name="timm"), "no model of maftp"),
    "a newer form": (lambda f: write_config(f, format=2), "form 2, this version reads 1; update"),
    "no parameters": (lambda f: write_config(f, params={"clip": 3}), "does not describe its CLIP"),
    "other bytes": (
        lambda f: os.truncate(f / "model.safetensors", 5000),
        "model.safetensors: is not the file that config.json states; fetch it again",
    ),
    "a way out": (lambda f: write_config(f, clip={"config": "../x.json"}), "leads out"),
    "an absolute path": (lambda f: write_config(f, clip={"config": "/etc/passwd"}), "leads out"),
    "another way out": (lambda f: write_config(f, clip={"pretrained": "../a/b.pt"}), "leads out"),
    "no CLIP": (lambda f: (f / "maftp_tiny_look.json").unlink(), "describes no CLIP"),
    "weights from elsewhere": (
        lambda f: write_clip(f, timm_model_pretrained=True),
        "wants parts from elsewhere",
    ),
    "a model from elsewhere": (
        lambda f: write_clip(f, timm_model_name="hf-hub:eve/x"),
        "wants parts from elsewhere",
    ),
    "a pickle": (lambda f: put_a_pickle(f), "not a safetensors file of maftp"),
}


def write_clip(folder: Path, **vision) -> None:
    file = folder / "maftp_tiny_look.json"
    content = json.loads(file.read_text())
    content["vision_cfg"] |= vision
    file.write_text(json.dumps(content))


def put_a_pickle(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    write_config(folder, weights_sha256=sha256(folder / "model.safetensors"))


@pytest.mark.parametrize("what", BROKEN)
def test_a_wrong_folder_ends_in_a_sentence(copy, what):
    harm, sentence = BROKEN[what]
    harm(copy)
    with pytest.raises(CheckpointError, match=sentence):
        maftp.load_model(copy)


def test_parameters_beside_the_model_are_not_taken(copy):
    content = json.loads((copy / "config.json").read_text())
    content["params"]["tracking"] = {"uri": "http://elsewhere"}
    (copy / "config.json").write_text(json.dumps(content))
    assert load(copy).params.tracking.uri != "http://elsewhere"


def test_the_hub_gives_the_same_predictions_and_then_the_cache(server, loaded, pixels):
    server.breaks = 1  # the client resumes
    model = maftp.load_model("hf://ann/tiny")
    assert same_predictions(model, loaded.model, pixels)
    assert set(server.asked) == {"config.json", "model.safetensors", "maftp_tiny_look.json"}
    server.asked.clear()
    assert load(f"hf://ann/tiny@{COMMIT}").weights.is_file()
    assert not server.asked  # a commit does not change
    server.models.clear()
    assert maftp.load_model("hf://ann/tiny").training_names == ("sky", "car, taxi")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("hf://ann/none", "hf://ann/none: the hub has no such model, or it is private"),
        ("hf://ann/tiny@v9", "no such revision; check what follows the @"),
        ("hf://ann/secret", "no such model, or it is private; check the name, or set HF_TOKEN"),
        ("hf://ann/gated", "its owner grants access on request; ask there, then set HF_TOKEN"),
        ("hf://ann/foreign", "holds no config.json; give one that `maftp export --hub` wrote"),
        ("hf://ann/half", "holds no model.safetensors"),
        ("hf://ann/broken", "is not the file that config.json states"),
        ("hf://ann", r"not the address of a model; write hf://owner/name\[@revision\]"),
        ("hf://ann/../x/y", "not the address of a model"),
        ("hf://../tiny", "not the address of a model"),
    ],
)
def test_what_the_hub_lacks_ends_in_a_sentence(server, copy, tmp_path, address, sentence):
    server.private.add("ann/secret")
    server.gated.add("ann/gated")
    half = shutil.copytree(copy, tmp_path / "half", ignore=shutil.ignore_patterns("model.*"))
    server.models |= {
        "ann/secret": copy,
        "ann/gated": copy,
        "ann/foreign": tmp_path / "x",
        "ann/half": Path(half),
    }
    server.models["ann/broken"] = copy
    os.truncate(copy / "model.safetensors", 5000)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        maftp.load_model(address)
    assert "\n" not in str(caught.value)


def test_no_network_and_no_cache(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="cannot be reached .HF_HUB_OFFLINE is set."):
        maftp.load_model("hf://ann/tiny")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    point_to(monkeypatch, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its tries
    with pytest.raises(CheckpointError, match="not in the cache and the hub cannot be reached"):
        maftp.load_model("hf://ann/tiny")


def test_a_token_opens_a_private_model_and_is_not_logged(server, monkeypatch, caplog):
    server.private.add("ann/tiny")
    monkeypatch.setenv("HF_TOKEN", server.token)
    with caplog.at_level(logging.DEBUG):
        assert maftp.load_model("hf://ann/tiny").training_names
        with pytest.raises(CheckpointError) as caught:
            maftp.load_model("hf://ann/none")
    assert server.token not in caplog.text + str(caught.value)


@pytest.mark.slow
def test_the_command_takes_an_address_and_the_environment(server, tmp_path, folder):
    from PIL import Image

    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(tmp_path / "photo.png")
    places = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    command = [Path(sys.executable).with_name("maftp"), "predict", "photo.png"]
    done = subprocess.run(
        [*command, "--vocabulary", "sky; car", "--weights", "hf://ann/tiny"],
        cwd=tmp_path, env=os.environ | places, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "predictions/photo.labels.png").is_file()
    assert list((tmp_path / "home/hub").glob("models--ann--tiny/snapshots/*/model.safetensors"))
