"""dvc.yaml says the same as the rules and as params.yaml; read from the files, nothing runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from maftp.config import load_params

ROOT = Path(__file__).resolve().parents[2]
RULES = {
    "datasets": {"data": ("world", "convert")},
    "clip": {"weights": ("clip", "text_embeddings")},
    "train": {"train": ("train",)},
    "evaluate": {"evaluate": ("evaluate",), "report": ("scores",)},
    "control": {"evaluate": ("evaluate",), "report": ("scores",)},
    "table": {"report": ("experiment_table",)},
    "cell": {"train": ("train",), "evaluate": ("evaluate",), "report": ("scores",)},
    "scored_cell": {"evaluate": ("evaluate",), "report": ("scores",)},
    "ablations": {"report": ("experiment_ablations",)},
}
"""Which rules a stage calls, by the file they stand in."""

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DVC["stages"]


def rule_text(file: str, rule: str) -> str:
    text = (ROOT / f"workflow/rules/{file}.smk").read_text()
    return re.search(rf"^ *rule {rule}:\n(.*?)(?=^ *rule |\Z)", text, re.M | re.S)[1]


def called(text: str, function: str) -> set[str]:
    """Return the texts among the arguments of a function of the workflow."""
    found: set[str] = set()
    for match in re.finditer(rf"{function}\(", text):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        found |= set(re.findall(r'"([^"{]+)"', text[match.end() : end]))
    return found


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_depends_on_the_code_and_lets_snakemake_tell_what_matters(stage):
    assert {"maftp", "workflow/rules"} <= set(STAGES[stage]["deps"])


@pytest.mark.parametrize("stage", sorted(RULES))
def test_a_stage_depends_on_the_parameters_that_its_rules_watch(stage):
    params = set(STAGES[stage]["params"])
    for file, rules in RULES[stage].items():
        for rule in rules:
            for key in called(rule_text(file, rule), "settings"):
                parts = key.split(".")
                assert any(".".join(parts[:n]) in params for n in range(1, len(parts) + 1)), key


def test_dependencies_exist():
    deps = {dep for stage in STAGES.values() for dep in stage["deps"] if "${" not in dep}
    made = ("weights/", "datasets/", "results/")
    assert not [dep for dep in deps if not dep.startswith(made) and not (ROOT / dep).exists()]


def test_snakemake_goes_on_from_every_output():
    for stage in STAGES.values():
        for entry in [*stage["outs"], *stage.get("metrics", [])]:
            assert all(options == {"persist": True} for options in entry.values())


def test_variants_are_those_of_the_parameters():
    params = load_params(ROOT / "params.yaml")
    named = {name: params.for_variant(name).weights for name in params.variants}
    given = DVC["vars"][0]
    assert given["trained"] == [name for name, weights in named.items() if weights is None]
    assert given["controls"] == [name for name, weights in named.items() if weights is not None]
    for name in given["controls"]:
        assert "/fcclip/seed" in named[name]
        assert f"results/${{experiment}}/{name}" in STAGES["table"]["deps"]
    assert any("/fcclip/seed" in dep for dep in STAGES["control"]["deps"])


def test_cells_are_those_of_the_grid():
    runs = load_params(ROOT / "params.yaml").grid.runs
    given = DVC["vars"][0]
    assert given["cells"] == [name for name, values in runs.items() if values["weights"] is None]
    scored = {name: values["weights"] for name, values in runs.items() if values["weights"]}
    assert given["scored_cells"] == list(scored)
    assert all("/ablation-frozen/seed" in weights for weights in scored.values())
    assert any("/ablation-frozen/seed" in dep for dep in STAGES["scored_cell"]["deps"])
    deps = [dep for dep in STAGES["ablations"]["deps"] if dep.startswith("results/")]
    assert deps == [f"results/${{experiment}}/{name}" for name in runs]


def test_every_profile_compares_contents():
    files = [*ROOT.glob("profiles/*/config.yaml"), *ROOT.glob("workflow/profiles/*/config.yaml")]
    assert len(files) >= 2
    for file in files:
        limit = yaml.safe_load(file.read_text())["max-checksum-file-size"]
        assert limit >= 10**15, file
