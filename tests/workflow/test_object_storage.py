"""Results in a bucket, with the real DVC and Snakemake against a real S3 server on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.workflow.conftest import BIN, ROOT

pytestmark = pytest.mark.slow


def run(*command, cwd) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
           "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | who, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_dvc_takes_results_to_a_bucket_and_back(s3, tmp_path):
    """The repository's own settings with the remote that docs/tracking.md names."""
    here = tmp_path / "here"
    (here / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, here / name)
    (here / "results").mkdir()
    (here / "results/table.csv").write_text("variant,mean\nmaftp,54.3\n")
    run("git", "init", "--quiet", cwd=here)
    dvc = BIN / "dvc"
    url = f"s3://{s3.bucket('lab')}/maftp"
    run(dvc, "remote", "add", "--default", "--force", "storage", url, cwd=here)
    run(dvc, "remote", "modify", "storage", "endpointurl", s3.address, cwd=here)
    run(dvc, "add", "results", cwd=here)
    run(dvc, "push", cwd=here)
    run("git", "add", "--all", cwd=here)
    run("git", "commit", "--quiet", "-m", "results", cwd=here)
    run("git", "clone", "--quiet", here, tmp_path / "there", cwd=tmp_path)
    run(dvc, "pull", cwd=tmp_path / "there")
    pulled = tmp_path / "there/results/table.csv"
    assert pulled.read_bytes() == (here / "results/table.csv").read_bytes()
    assert len(s3.client.list_objects_v2(Bucket="lab")["Contents"]) == 2  # the file, the folder


def test_snakemake_stores_a_table_in_a_bucket(s3, tmp_path):
    """A rule of one's own, as docs/clusters.md has it."""
    bucket = s3.bucket("lab")
    (tmp_path / "table.csv").write_text("variant,mean\nmaftp,54.3\n")
    (tmp_path / "Snakefile").write_text(
        "rule publish:\n"
        '    input: "table.csv"\n'
        f'    output: storage.s3("s3://{bucket}/table.csv")\n'
        '    shell: "cp {input:q} {output:q}"\n'
    )
    options = ["--storage-s3-endpoint-url", s3.address]
    run(BIN / "snakemake", "--cores", "1", "publish", *options, cwd=tmp_path)
    stored = s3.client.get_object(Bucket=bucket, Key="table.csv")["Body"].read()
    assert stored == (tmp_path / "table.csv").read_bytes()
