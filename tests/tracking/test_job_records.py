"""Snakemake's notes go with the files they tell of, and with no others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from maftp.tracking.job_records import restore, save

WEIGHTS = "results/tiny/maftp/seed0/weights.safetensors"
SCORES = "results/tiny/maftp/seed0/evaluation/A-150.json"
PICTURES = "results/tiny/maftp/seed0/evaluation/A-150"
MANIFEST = "datasets/tiny/manifests/coco_stuff.json"


def note_path(project: Path, name: str) -> Path:
    return project / ".snakemake/metadata" / urlsafe_b64encode(name.encode()).decode()


def make(project: Path, name: str, content: str, **noted) -> None:
    """Write a file and what Snakemake notes of the job that made it."""
    path = project / name
    if "." not in path.name:
        path.mkdir(parents=True, exist_ok=True)
        (path / "picture.png").write_text(content)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    note = note_path(project, name)
    note.parent.mkdir(parents=True, exist_ok=True)
    job = {"endtime": path.stat().st_mtime, "params": ["1"], "input_checksums": {}, **noted}
    note.write_text(json.dumps(job))


def noted(project: Path, name: str) -> dict:
    return json.loads(note_path(project, name).read_text())


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "first"
    for name in (WEIGHTS, SCORES, PICTURES, MANIFEST, "results/tiny/table.csv"):
        make(folder, name, f"content of {name}")
    make(folder, "results/other/maftp/seed0/weights.safetensors", "of another experiment")
    return folder


def saved(project: Path) -> list[str]:
    return [path.name for path in save("tiny", root=Path("datasets/tiny"), project=project)]


def pulled(project: Path, tmp_path: Path) -> Path:
    """Return a second clone: the files, with new time stamps, and nothing of Snakemake."""
    second = tmp_path / "second"
    for name in ("results", "datasets"):
        shutil.copytree(project / name, second / name, copy_function=shutil.copyfile)
    return second


def test_one_file_per_stage_and_nothing_of_other_experiments(project):
    files = {"datasets.json", "train-maftp-0.json", "evaluate-maftp-0.json", "table.json"}
    assert set(saved(project)) == files
    folder = project / "results/tiny/jobs"
    assert set(json.loads((folder / "evaluate-maftp-0.json").read_text())) == {SCORES, PICTURES}
    assert saved(project) == []


def test_another_clone_gets_the_notes(project, tmp_path):
    saved(project)
    second = pulled(project, tmp_path)
    assert set(restore("tiny", project=second)) == {
        WEIGHTS, SCORES, PICTURES, MANIFEST, "results/tiny/table.csv"
    }  # fmt: skip
    assert noted(second, PICTURES) == noted(project, PICTURES)
    assert restore("tiny", project=second) == []


def test_a_file_with_other_content_gets_no_note(project, tmp_path):
    saved(project)
    second = pulled(project, tmp_path)
    (second / WEIGHTS).write_text("edited")
    assert WEIGHTS not in restore("tiny", project=second)
    assert not note_path(second, WEIGHTS).exists()


def test_what_snakemake_made_here_keeps_its_own_note(project):
    saved(project)
    make(project, SCORES, f"content of {SCORES}", params=["2"])
    assert restore("tiny", project=project) == []
    assert noted(project, SCORES)["params"] == ["2"]


def test_a_checkout_of_another_version_brings_its_notes(project, tmp_path):
    saved(project)
    second = pulled(project, tmp_path)
    restore("tiny", project=second)
    make(second, SCORES, "made here", params=["2"])
    saved(second)
    # As `dvc checkout` does: the old result and the old notes in place of the new ones.
    for name in (SCORES, "results/tiny/jobs/evaluate-maftp-0.json"):
        shutil.copyfile(project / name, second / name)
        os.utime(second / name, (1, 1))
    assert restore("tiny", project=second) == [SCORES]
    assert noted(second, SCORES)["params"] == ["1"]


def test_an_unfinished_file_is_not_noted(project):
    make(project, WEIGHTS, "half", incomplete=True)
    saved(project)
    assert not (project / "results/tiny/jobs/train-maftp-0.json").exists()


@pytest.mark.parametrize(
    "name", ["maftp/seed0/drift.json", "maftp/seed0/history.png", "figures/ablations.png"]
)
def test_what_the_report_makes_is_no_part_of_a_stage(project, name):
    path = project / "results/tiny" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a")
    code = urlsafe_b64encode(f"results/tiny/{name}".encode()).decode()
    note = project / ".snakemake/metadata" / code
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"endtime": path.stat().st_mtime}))
    saved(project)
    kept = (project / "results/tiny/jobs").glob("*.json")
    assert not any(Path(name).name in file.read_text() for file in kept)


def test_names_longer_than_a_file_name_may_be(project, tmp_path):
    name = f"results/tiny/maftp/seed0/evaluation/{'x' * 230}.json"
    path = project / name
    path.write_text("a")
    code = urlsafe_b64encode(name.encode()).decode()
    assert len(code) > 255
    note = project / ".snakemake/metadata" / f"@{code[:254]}" / code[254:]
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"endtime": path.stat().st_mtime}))
    saved(project)
    second = pulled(project, tmp_path)
    assert name in restore("tiny", project=second)
    assert (second / note.relative_to(project)).exists()


def test_digests_of_large_inputs_are_added(project, tmp_path):
    make(project, SCORES, "scores", input=[WEIGHTS, MANIFEST], input_checksums={MANIFEST: "x"})
    saved(project)
    second = pulled(project, tmp_path)
    restore("tiny", project=second)
    digest = hashlib.sha256((project / WEIGHTS).read_bytes()).hexdigest()
    assert noted(second, SCORES)["input_checksums"] == {MANIFEST: "x", WEIGHTS: f"sha256:{digest}"}
    assert saved(project) == []
    # Here too: Snakemake then knows that only the time stamp of an input is another.
    assert restore("tiny", project=project) == [SCORES]
    assert WEIGHTS in noted(project, SCORES)["input_checksums"]


def test_an_input_newer_than_the_output_gets_no_digest(project):
    make(project, SCORES, "scores", input=[WEIGHTS])
    os.utime(project / WEIGHTS, (2e9, 2e9))
    saved(project)
    kept = json.loads((project / "results/tiny/jobs/evaluate-maftp-0.json").read_text())
    assert kept[SCORES]["job"]["input_checksums"] == {}
