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


def test_conclusions_are_laid_side_by_side(tmp_path):
    """Two settings agree where their intervals lie on the same side of zero."""
    header = "experiment,variant,baseline,score,difference,low,high,covers\n"
    kept = "look,maftp,fcclip,mean of five,{},3 seeds\nlook,maftp,fcclip,PQ,{},3 seeds\n"
    for name, *values in (("one", "5,2,8", "1,-2,4"), ("two", "6,1,11", "3,1,5")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "differences.csv").write_text(header + kept.format(*values))
    command = [sys.executable, ROOT / "benchmarks/conclusions.py", "--out", tmp_path]
    command += [f"{name} thread={tmp_path / name}" for name in ("one", "two")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(list(map(str, command)), env=environment, capture_output=True, check=True)
    mean, panoptic = json.loads((tmp_path / "conclusions.json").read_text())["rows"]
    assert mean["one thread"] == "**+5.00 [+2.00, +8.00]**" and mean["same"] == "yes"
    assert panoptic["one thread"] == "+1.00 [-2.00, +4.00]" and panoptic["same"] == "no"
