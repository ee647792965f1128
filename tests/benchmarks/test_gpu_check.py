"""The check for a GPU runs through on a CPU, at its smallest, so that no typo costs time there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks/gpu"))
import check  # noqa: E402  # its folder had to be found first


@pytest.fixture(autouse=True)
def precision():
    """Put back what the check sets for the whole process."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    yield
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value


@pytest.mark.slow
def test_every_part_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/gpu/check.py"])
    options = ["--device", "cpu", "--tiny", "--minutes", "10", "--out", str(tmp_path)]
    assert check.main(options) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["part"] for row in rows} == set(check.PARTS)
    assert not [row for row in rows if "error" in row or "left out" in row]
    named = {row["what"]: row for row in rows}
    equal = named["miniature: losses and gradients"]
    assert equal["worst loss"] == equal["worst gradient"] == 0  # the CPU against itself
    single, double = (
        named[f"miniature: training steps{which}"] for which in (", seed 0", " in float64")
    )
    assert single["worst loss"] == double["worst loss"] == 0 < single["by rounding"] < 1e-5
    assert "plain recipe" in (tmp_path / "gpu.md").read_text()


def test_no_time_leaves_parts_out(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/gpu/check.py"])
    options = ["machine", "--device", "cpu", "--tiny", "--minutes", "0", "--out", str(tmp_path)]
    assert check.main(options) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert rows and all(row["left out"] == "no time" for row in rows)


def test_some_tasks_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/gpu/check.py"])
    options = ["machine", "--only", "from the host", "--device", "cpu", "--tiny"]
    assert check.main([*options, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["image from the host"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert check.main([]) == 1
    assert "--device cpu --tiny" in capsys.readouterr().err
