"""An untrained model of tiny size, saved as training saves one, and a few pictures."""

from __future__ import annotations

import ctypes
import json
import signal
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from maftp.api import experiment_params
from maftp.modeling.build import build_model
from maftp.training.checkpoint import save_weights

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {
        "timm_model_name": "test_convnext",
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 64,
    },
    "text_cfg": {"context_length": 32, "width": 32, "heads": 2, "layers": 1},
}


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: what a shell runs in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def _give_back_memory() -> Iterator[None]:
    """Hand what models of a file have held to the system: glibc keeps up to 4 GB of it."""
    yield
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that makes a folder once for all processes of pytest, and returns it."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, made = base / name, base / f"{name}.made"
        with FileLock(f"{folder}.lock"):
            if not made.exists():
                make(folder)
                made.touch()
        return folder

    return once


@dataclass(frozen=True)
class S3:
    """A server of S3's protocol on loopback; keys and region are in the environment."""

    address: str

    @property
    def client(self) -> Any:
        """Return boto3's client of it."""
        import boto3

        return boto3.client("s3", endpoint_url=self.address)

    def bucket(self, name: str) -> str:
        """Make a bucket and return its name."""
        self.client.create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session")
def s3_server():
    from moto.server import ThreadedMotoServer  # a second, for the tests that need it

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch) -> S3:
    """An S3 that holds nothing yet."""
    for key, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    server = S3("http://{}:{}".format(*s3_server.get_host_and_port()))
    reset = urllib.request.Request(f"{server.address}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=60).close()
    return server


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Weights with the manifest of their run beside them."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "maftp_tiny_look.json").write_text(json.dumps(TINY_CLIP))
    overlay = {
        "experiment": "tiny",
        "input": {"test": {"short_side": 64, "max_side": 128}},
        "clip": {"model": "maftp_tiny_look", "config": str(folder / "maftp_tiny_look.json")},
        "model": {"num_queries": 6, "hidden_dim": 32, "cdt": {"num_heads": 4}},
        "train": {"num_points": 64},
        "evaluate": {"object_threshold": 0.0, "overlap_threshold": 0.0},
        "variants": {"maftp": {}},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    params = experiment_params(folder / "tiny.yaml")
    torch.manual_seed(1)  # with 0 all masks are empty
    model = build_model(params, num_training_classes=2, load_clip=None, teacher=False)
    model.set_training_vocabulary(["sky", "car, taxi"])
    save_weights(folder / "weights.safetensors", model, {"experiment": "tiny", "variant": "maftp"})
    manifest = {"params": params.model_dump(mode="json")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder / "weights.safetensors"


@pytest.fixture
def pixels() -> np.ndarray:
    """An image of 60 x 90 pixels."""
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, pixels) -> Path:
    """Two images, one below a folder, a text file, and a video of five frames."""
    pictures = tmp_path / "pictures"
    (pictures / "below").mkdir(parents=True)
    Image.fromarray(pixels).save(pictures / "one.png")
    Image.fromarray(pixels[:40]).save(pictures / "below" / "one.jpg")
    (pictures / "notes.txt").write_text("no picture")
    code = cv2.VideoWriter_fourcc(*"mp4v")
    video = cv2.VideoWriter(str(pictures / "clip.mp4"), code, 5.0, (64, 48))
    for step in range(5):
        video.write(np.full((48, 64, 3), 40 * step, np.uint8))
    video.release()
    return pictures
