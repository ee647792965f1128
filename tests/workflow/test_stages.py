"""dvc.yaml and the profiles, read from their files; nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from maftp.config import load_params

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_depends_on_code_rules_and_all_parameters(stage):
    assert {"maftp", "workflow/rules"} <= set(STAGES[stage]["deps"])
    assert STAGES[stage]["params"] == [{"params.yaml": None}]


def test_snakemake_goes_on_from_every_output():
    for stage in STAGES.values():
        for entry in stage["outs"]:
            assert all(options == {"persist": True} for options in entry.values())


def test_nothing_of_the_experiment_is_written_twice():
    """A variant, a cell or a seed is added in params.yaml alone."""
    params = load_params(ROOT / "params.yaml")
    text = (ROOT / "dvc.yaml").read_text()
    names = [*params.variants, *params.grid.runs, params.experiment]
    assert not [name for name in names if f"/{name}" in text]


def test_every_profile_compares_contents():
    files = [*ROOT.glob("profiles/*/config.yaml"), *ROOT.glob("workflow/profiles/*/config.yaml")]
    assert len(files) >= 2
    for file in files:
        limit = yaml.safe_load(file.read_text())["max-checksum-file-size"]
        assert limit >= 10**15, file
