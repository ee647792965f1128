"""Passwords in addresses reach the server and the bucket, and nothing that is written down."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import Checkout
from tests.workflow.test_pipeline import SMOKE

pytestmark = pytest.mark.slow
SECRETS = ("S3CRETuser", "S3CRETword", "S3CRETkey", "S3CRETtoken")


def planted(checkout: Checkout) -> None:
    """Write a parameter file with credentials in every address."""
    secrets = {
        "tracking": {"uri": "http://S3CRETuser:S3CRETword@127.0.0.1:9/?token=S3CRETtoken"},
        "resources": {"checkpoint_mirror": "s3://S3CRETuser:S3CRETkey@bucket/x?region=eu"},
        "train": {"iterations": 1},
        "variants": {"maftp": {}},
        "benchmarks": ["PAS-20"],
        "ablations": None,
    }
    (checkout.path / "secret.yaml").write_text(yaml.safe_dump(secrets))


def leaks(folder: Path) -> dict[str, str]:
    """Return the files that hold a secret, and which."""
    found = {}
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "secret.yaml":
            content = file.read_bytes()
            for secret in SECRETS:
                if secret.encode() in content:
                    found[str(file.relative_to(folder))] = secret
    return found


def test_nothing_that_a_run_writes_holds_a_secret(finished, tmp_path):
    checkout = finished.copy(tmp_path / "copy")
    shutil.rmtree(checkout.path / "results")
    shutil.rmtree(checkout.path / ".snakemake")
    planted(checkout)
    done = checkout.snakemake(
        "results/table.csv", "--printshellcmds", params=[SMOKE, "secret.yaml"], ok=False
    )
    by_hand = [
        checkout.maftp("params", "--params", "params.yaml", SMOKE, "secret.yaml"),
        checkout.maftp(
            "runs", "compare", "a", "b", "--params", "params.yaml", SMOKE, "secret.yaml", ok=False
        ),
    ]
    said = "".join(run.stdout + run.stderr for run in (done, *by_hand))
    assert "127.0.0.1" in said or "bucket" in said  # the addresses themselves are named
    assert not [secret for secret in SECRETS if secret in said], said
    assert leaks(checkout.path) == {}
    assert list((checkout.path / "results/.params").glob("params-*.yaml"))


def test_mlflow_and_the_mirror_work_without_a_secret_on_paper(finished, tmp_path):
    checkout = finished.copy(tmp_path / "copy")
    planted(checkout)
    mirror = f"file://{tmp_path}/mirror?secret_key="
    values = yaml.safe_load((checkout.path / "secret.yaml").read_text())
    values["tracking"]["uri"] = "sqlite:///results/other.db"
    values["resources"]["checkpoint_mirror"] = f"{mirror}S3CRETkey"
    (checkout.path / "secret.yaml").write_text(yaml.safe_dump(values))
    shutil.rmtree(checkout.path / "results/smoke/maftp")
    checkout.snakemake(
        "results/smoke/maftp/seed0/weights.safetensors", params=[SMOKE, "secret.yaml"]
    )
    with sqlite3.connect(checkout.path / "results/other.db") as store:
        keys = dict(store.execute("select key, value from params").fetchall())
    assert keys["resources.checkpoint_mirror"] == f"{mirror}***"
    assert leaks(checkout.path) == {}
    assert list((tmp_path / "mirror").glob("*/step-*"))
