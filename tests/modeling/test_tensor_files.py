"""Files of tensors: equal bytes for equal numbers, digests of contents, errors of disks."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from maftp.modeling.tensor_files import (
    content_digest,
    not_finite,
    read_noted,
    save_tensors,
)

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"seed": 0, "experiment": "miniature", "b": [1, 2], "a": {"z": 1, "y": None}}


def tensors():
    torch.manual_seed(0)
    return {
        "w": torch.randn(3, 4), "scale": torch.ones(()), "half": torch.ones(5).bfloat16(),
        "index": torch.arange(3), "empty": torch.zeros(0, 2), "sliced": torch.ones(4, 4)[:, 1],
    }  # fmt: skip


def test_equal_tensors_make_equal_bytes(tmp_path):
    """In processes of their own: the order of safetensors' entries differs between them."""
    code = (
        "import sys, torch; from maftp.modeling.tensor_files import save_tensors;"
        "facts = {f'k{i}': i for i in range(9)};"
        "facts = dict(sorted(facts.items(), reverse=len(sys.argv[1]) % 2));"
        "save_tensors(sys.argv[1], {'a': torch.ones(2), 'b': torch.zeros(3)}, key='k', noted=facts)"
    )
    digests = set()
    for name in ("a", "bb", "ccc", "dddd"):
        path = tmp_path / name
        subprocess.run([sys.executable, "-c", code, path], check=True, cwd=ROOT)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_what_was_noted_comes_back(tmp_path):
    save_tensors(tmp_path / "a", tensors(), key="maftp", noted=FACTS)
    assert read_noted(tmp_path / "a", "maftp") == FACTS
    assert read_noted(tmp_path / "a", "other") is None


def test_the_digest_is_of_contents(tmp_path):
    """Layout and order of entries do not count; each number, name, shape and fact does."""
    facts = {f"key{i}": "value" for i in range(8)}
    held = {name: tensor.contiguous() for name, tensor in tensors().items()}
    for name in ("a", "b", "c"):
        save_file(held, tmp_path / name, metadata=facts)
    assert len({content_digest(tmp_path / name) for name in ("a", "b", "c")}) == 1
    changed = {
        "number": {**held, "w": held["w"] + torch.eye(3, 4) * 1e-6},
        "name": {**{k: v for k, v in held.items() if k != "w"}, "v": held["w"]},
        "shape": {**held, "w": held["w"].reshape(4, 3)},
        "dtype": {**held, "w": held["w"].view(torch.int32)},
        "fewer": {k: v for k, v in held.items() if k != "empty"},
    }
    for name, values in changed.items():
        save_file(values, tmp_path / name, metadata=facts)
    save_file(held, tmp_path / "facts", metadata=facts | {"key0": "other"})
    digests = {content_digest(tmp_path / name) for name in ("a", *changed, "facts")}
    assert len(digests) == 7


def test_a_damaged_file_has_no_digest(tmp_path):
    save_tensors(tmp_path / "a", tensors(), key="maftp", noted=FACTS)
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:-3])
    with pytest.raises(SafetensorError):
        content_digest(tmp_path / "b")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_not_finite(value, dtype):
    wrong = torch.ones(7, 9, dtype=dtype)
    wrong[3, 4] = value
    found = not_finite(tensors() | {"wrong": wrong, "scalar": torch.tensor(value, dtype=dtype)})
    assert found == ["wrong", "scalar"]


def test_the_largest_numbers_are_finite():
    largest = torch.full((10,), torch.finfo(torch.float16).max, dtype=torch.float16)
    assert not_finite({"a": largest, "b": largest.float() * 1e30}) == []
    assert not_finite({"a": torch.tensor([float("nan")]).to(torch.float8_e5m2)}) == ["a"]


FULL = """
import subprocess, sys, torch
from maftp.modeling.tensor_files import save_pickled, save_tensors
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", sys.argv[1]]).returncode:
    sys.exit(77)
path = sys.argv[1] + "/file"
one, many = {"a": torch.zeros(300_000)}, {str(i): torch.zeros(3000) for i in range(100)}
for tensors in (one, many):
    for write in (
        lambda: save_tensors(path, tensors, key="k", noted={}), lambda: save_pickled(path, tensors)
    ):
        try:
            write()
        except OSError as error:
            print(error.errno, error.filename)
"""


def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    command = ["unshare", "--mount", sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no permission to mount a small file system")
    assert done.stdout.splitlines() == [f"28 {tmp_path}/file"] * 4, done.stderr
