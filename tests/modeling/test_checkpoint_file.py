"""Files of weights: foreign ones are told apart, or read where that is safe; none is run."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pickle
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from maftp.errors import CheckpointError
from maftp.modeling.checkpoint_file import read_metadata, read_state
from maftp.modeling.tensor_files import save_tensors
from maftp.modeling.text_classifier import TextEmbeddings

STATE = {"backbone.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(2)}


def prefixed(*prefixes: str) -> dict[str, torch.Tensor]:
    return {"".join(prefixes) + name: tensor for name, tensor in STATE.items()}


def equal(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[n], STATE[n]) for n in STATE)


class Config(dict):
    """A class of its own, as configurations beside the tensors are."""


READ = {
    "numpy_scalars": {"model": STATE, "best": np.float64(0.5), "step": np.int64(7)},
    "numpy_array": {"model": STATE, "history": np.arange(5)},
    "argparse": {"model": STATE, "args": argparse.Namespace(lr=0.1, names=["a"])},
    "path": {"model": STATE, "out": Path("x")},
    "detectron2": {"model": STATE, "optimizer": {"lr": 1e-4}, "iteration": 60000},
    "data_parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled_parallel": {"model": prefixed("module.", "_orig_mod.")},
    "lightning": {"state_dict": prefixed("model."), "epoch": 3},
    "compiled_inside": {name.replace(".", "._orig_mod."): t for name, t in STATE.items()},
    "ema": {"ema": STATE},
    "deepspeed": {"module": STATE},
}


@pytest.mark.parametrize("name", READ)
def test_what_is_safe_is_read(tmp_path, name):
    torch.save(READ[name], tmp_path / "a.pth")
    assert equal(read_state(tmp_path / "a.pth"))


def test_averaged_weights_alone_are_named(tmp_path, caplog):
    torch.save({"ema": STATE, "step": 3}, tmp_path / "a.pth")
    with caplog.at_level("INFO", "maftp"):
        assert equal(read_state(tmp_path / "a.pth"))
    assert "averaged weights alone (ema)" in caplog.text
    torch.save({"model": STATE, "ema": prefixed("x.")}, tmp_path / "b.pth")
    assert equal(read_state(tmp_path / "b.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ".ckpt", ""])
def test_the_content_tells_the_kind_not_the_name(tmp_path, suffix):
    save_file(STATE, tmp_path / f"tensors{suffix}")
    torch.save(STATE, tmp_path / f"torch{suffix}")
    assert equal(read_state(tmp_path / f"tensors{suffix}"))
    assert equal(read_state(tmp_path / f"torch{suffix}"))
    assert read_metadata(tmp_path / f"torch{suffix}") == {}


def test_own_weights_named_otherwise_keep_what_was_noted(tmp_path):
    save_tensors(tmp_path / "a.pth", STATE, key="maftp", noted={"model": "maftp"})
    assert read_metadata(tmp_path / "a.pth") == {"model": "maftp"}


def torch_bytes(value: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def packed(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("weights.pth", torch_bytes(STATE))
    elif kind == "npz":
        np.savez(buffer, a=np.ones(3))
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("weights.pth")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    elif kind == "script":
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1402\n"
DETECTRON2 = pickle.dumps({"model": {"w": np.ones(3)}, "__author__": "MSRA"}, protocol=2)
REFUSED = {
    "lfs.pth": (LFS, "pointer of Git LFS.*git lfs pull"),
    "lfs.safetensors": (LFS, "pointer of Git LFS"),
    "page.pth": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page.*browser"),
    "page.safetensors": (b"\n <html>404</html>", "a web page"),
    "denied.pth": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
    "model.pkl": (DETECTRON2, "a plain pickle, such as Detectron2's.*save its tensors"),
    "r50.pth": (DETECTRON2, "a plain pickle"),
    "index.pth": (b'{"metadata": {}, "weight_map": {}}', "is a JSON text"),
    "zip.pth": (packed("zip"), "ZIP archive without a PyTorch checkpoint"),
    "arrays.npz": (packed("npz"), "ZIP archive without a PyTorch checkpoint"),
    "tar.pth": (packed("tar"), "packed archive; unpack it"),
    "gz.pth": (gzip.compress(torch_bytes(STATE)), "packed archive; unpack it"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "of another framework"),
    "script.pt": (packed("script"), "TorchScript program"),
    "module.pth": (torch_bytes(torch.nn.Linear(2, 2)), "torch.nn.*Linear, which could run code"),
    "arrays.pth": (torch_bytes({"model": {"w": np.ones(3)}}), "numpy.*which could run code"),
    "legacy.pth": (
        torch_bytes({"model": Config()}, _use_new_zipfile_serialization=False),
        "more than tensors and plain values .*Config.*state dict alone",
    ),
    "list.pth": (torch_bytes([1, 2]), "no state dict of tensors but a list"),
    "optimizer.pth": (torch_bytes({"optimizer": {}, "epoch": 1}), "but optimizer, epoch"),
    "empty.pth": (b"", "is empty; fetch it again"),
    "empty.safetensors": (b"", "is empty; fetch it again"),
    "cut.pth": (torch_bytes(STATE)[:-200], "damaged or cut short; fetch it again"),
    "cut.safetensors": (save(STATE)[:-5], "damaged or cut short"),
    "noise.pth": (random.Random(0).randbytes(500), "no PyTorch file"),
    "text.pth": (b"hello\n", "no PyTorch file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_foreign_files_are_told_apart(tmp_path, name):
    content, sentence = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: .*{sentence}") as error:
        read_state(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_folder_and_a_missing_file(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(CheckpointError, match="is a folder; give the checkpoint file in it"):
        read_state(tmp_path / "folder.pth")
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        read_metadata(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("content", [b"\xff" * 40, b"\x10\0\0\0\0\0\0\0{", save(STATE)[:60]])
def test_a_damaged_header_is_a_sentence(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: damaged or cut short"):
        read_metadata(tmp_path / "a.safetensors")


def test_facts_that_are_no_json_are_a_sentence(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors", metadata={"maftp": "{"})
    with pytest.raises(CheckpointError, match=r"a\.safetensors: damaged or cut short"):
        read_metadata(tmp_path / "a.safetensors")


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_beside_tensors_is_never_run(tmp_path, zipped):
    value = {"model": STATE, "extra": Payload()}
    torch.save(value, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    try:
        assert equal(read_state(tmp_path / "a.pth"))
    except CheckpointError as error:
        assert "could run code" in str(error)


def seeds() -> dict[str, bytes]:
    """A sound file of every kind the readers take."""
    buffer = io.BytesIO()
    torch.save({"model": STATE, "args": argparse.Namespace(a=1)}, buffer)
    return {
        "a.safetensors": save(STATE, metadata={"maftp": json.dumps({"model": "maftp"})}),
        "a.pth": buffer.getvalue(),
        "old.pth": torch_bytes(STATE, _use_new_zipfile_serialization=False),
    }


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return the content cut, with bytes changed, doubled, swapped or taken out."""
    data = bytearray(content)
    kind = rng.randrange(5)
    place, length = rng.randrange(len(data)), rng.randrange(1, 40)
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(min(len(data), 1 << rng.randrange(4, 12)))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del data[place : place + length]
    elif kind == 3:
        data[place:place] = rng.randbytes(length)
    else:
        data[place : place + length] = data[:length]
    return bytes(data)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "old.pth"])
def test_damaged_files_are_sentences_and_never_tracebacks(tmp_path, name):
    """300 of each kind: each is refused in a sentence, or holds tensors under names."""
    rng, content = random.Random(name), seeds()[name]
    path = tmp_path / name
    for _ in range(300):
        path.write_bytes(damaged(content, rng))
        for read in (read_state, read_metadata):
            try:
                read(path)
            except CheckpointError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_damaged_embeddings_are_sentences_or_sound(tmp_path):
    names = ("sky", "car,auto")
    embeddings = TextEmbeddings(torch.eye(3), num_synonyms=(1, 2), names=names)
    embeddings.save(tmp_path / "sound.safetensors")
    rng, content = random.Random(3), (tmp_path / "sound.safetensors").read_bytes()
    path = tmp_path / "text.safetensors"
    for _ in range(300):
        path.write_bytes(damaged(content, rng))
        try:
            assert TextEmbeddings.load(path).names == names
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
