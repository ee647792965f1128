"""The programs of `make bench` run, at their smallest sizes, and write what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MINIATURE = ["--experiment", "miniature"]
SMALLEST = {
    "step": [*MINIATURE, "--height", "64", "--width", "128", "--masks", "2", "--batch", "2"]
    + ["--amp", "bfloat16", "--optimizer"],
    "operators": [*MINIATURE, "--height", "64", "--width", "128"],
    "evaluation": [*MINIATURE, "--images-only", "--classes", "3"],
    "text": [*MINIATURE, "--names", "2"],
    "loading": ["--images", "8", "--processes", "0", "1"],
    "deformable_attention": ["--height", "256", "--width", "256", "--batch", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_program_measures(name, tmp_path):
    command = [sys.executable, ROOT / f"benchmarks/{name}.py", "--repetitions", "1"]
    command += [*SMALLEST[name], "--out", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(result["rows"]) >= 2
    for row in result["rows"]:
        assert all(v > 0 for key, v in row.items() if isinstance(v, float)), row
    assert result["command"].startswith(f"python benchmarks/{name}.py")
    assert "| " in (tmp_path / f"{name}.md").read_text()
