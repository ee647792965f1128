"""What a run was made of, and the digest that ties its pieces together."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from maftp.config import load_params, parse_params
from maftp.tracking import manifest
from maftp.tracking.manifest import collect_manifest, digest_of, package_versions, training_digest
from maftp.tracking.source import code_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def params():
    return load_params(ROOT / "params.yaml").for_variant("maftp")


def changed(params, **blocks):
    values = params.model_dump(mode="python")
    for block, value in blocks.items():
        values[block] = values[block] | value if isinstance(value, dict) else value
    return parse_params(values, source="test")


def test_holds_everything_a_result_depends_on(params):
    found = collect_manifest(
        params, variant="maftp", seed=3, inputs={"clip.safetensors": "ab12"}, device="cpu"
    )
    assert found["seed"] == 3 and found["variant"] == "maftp" and found["device"] == "cpu"
    assert found["experiment"] == params.experiment
    assert found["inputs"] == {"clip.safetensors": "ab12"}
    assert found["params"]["train"]["power"] == params.train.power
    assert found["packages"]["torch"].startswith("2.")
    assert isinstance(found["command"], list)
    json.dumps(found)


def test_commit_and_edits(params, tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            check=True, capture_output=True,
        )  # fmt: skip

    monkeypatch.setattr(manifest, "PACKAGE", tmp_path)
    assert manifest._commit() == {"commit": None, "dirty": None}
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert len(manifest._commit()["commit"]) == 40
    assert manifest._commit()["dirty"] is False
    (tmp_path / "new.py").touch()
    assert manifest._commit()["dirty"] is True


def test_no_git_is_fine(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert manifest._commit() == {"commit": None, "dirty": None}


def test_absent_packages_are_left_out(monkeypatch):
    monkeypatch.setattr(manifest, "PACKAGES", ("torch", "no-such-package"))
    assert list(package_versions()) == ["torch"]


def test_digest_ignores_the_order_of_keys():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_training_digest_changes_with_what_matters(params, monkeypatch):
    monkeypatch.setattr(manifest, "code_digest", lambda *places: "code")

    def digest(params=params, seed=0, inputs=("a", "b")):
        return training_digest(params, seed=seed, inputs=inputs)

    same = digest()
    assert digest() == same
    assert digest(seed=1) != same
    assert digest(inputs=("a", "c")) != same
    assert digest(changed(params, train={"learning_rate": 0.5})) != same
    assert digest(changed(params, model={"num_queries": 3})) != same
    with monkeypatch.context() as edited:
        edited.setattr(manifest, "code_digest", lambda *places: "edited code")
        assert digest() != same
    # What evaluation alone reads does not matter.
    assert digest(changed(params, evaluate={"overlays": 99})) == same
    assert digest(changed(params, benchmarks=("A-150",))) == same
    assert digest(changed(params, tracking={"uri": "sqlite:///x.db"})) == same


@pytest.mark.parametrize(
    "setting",
    [
        {"micro_batch_size": 2}, {"gradient_checkpointing": True}, {"cpus_per_worker": 2},
        {"workers": 2}, {"loader_workers": 1}, {"checkpoint_period": 7}, {"checkpoints_kept": 5},
        {"checkpoint_minutes": 3.0}, {"log_period": 10},
    ],
    ids=lambda setting: next(iter(setting)),
)  # fmt: skip
def test_how_a_training_is_executed_makes_no_other_run(params, setting):
    """Advice such as a lower micro_batch_size must go on from the checkpoint."""
    before = training_digest(params, seed=0, inputs=())
    assert training_digest(changed(params, execution=setting), seed=0, inputs=()) == before


def test_what_chooses_the_best_weights_matters_when_they_are_wanted(params):
    validated = changed(params, train={"validation": {"benchmark": "A-150", "period": 1}})
    before = training_digest(validated, seed=0, inputs=())
    other = changed(validated, evaluate={"object_threshold": 0.5})
    assert training_digest(other, seed=0, inputs=()) != before


@pytest.mark.parametrize(
    "module", sorted((ROOT / "maftp/training").glob("*.py")), ids=lambda p: p.stem
)
def test_an_edit_makes_another_run_only_where_it_can_change_a_number(module):
    cannot = {
        "__init__", "failure", "launch", "mirror", "ray_cluster", "ray_workers", "run_folder",
        "slurm", "validation", "worker_files",
    }  # fmt: skip
    assert (module in code_files(manifest.TRAINING_CODE)) != (module.stem in cannot)
