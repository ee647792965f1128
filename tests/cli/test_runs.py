"""`maftp runs ...`, as typed: a store that is away or damaged ends in one sentence."""

import json
import sqlite3

import pytest

from maftp.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = tmp_path / "miniature" / "maftp" / "seed0"
    (folder / "evaluation").mkdir(parents=True)
    result = {
        "metric": "semantic",
        "scores": {"mIoU_b": 12.0, "mIoU_a": 9.0},
        "provenance": {"params": {}},
    }
    (folder / "evaluation" / "A-150.json").write_text(json.dumps(result))
    return str(folder)


def old_schema(path):
    with sqlite3.connect(path) as database:
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values ('451aebb31d03')")
        database.execute("create table experiments (name text)")
    return f"sqlite:///{path}"


@pytest.mark.parametrize("kind", ["away", "old schema", "no database"])
def test_a_store_that_fails_is_named(run, tmp_path, monkeypatch, capsys, kind):
    (tmp_path / "text.db").write_text("no database at all, but text")
    uri = {
        "away": "http://ann:S3CRET@127.0.0.1:9",
        "old schema": old_schema(tmp_path / "old.db"),
        "no database": f"sqlite:///{tmp_path / 'text.db'}",
    }[kind]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    capsys.readouterr()
    assert main(["runs", "log", run]) == 1
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("maftp runs")]
    assert len(lines) == 1 and "MLflow at" in lines[0], said
    assert "S3CRET" not in said and "Traceback" not in said
