"""`Where do I add ...` of docs/architecture.md: what needs a change of parameters alone."""

from __future__ import annotations

import re

import pytest

from tests.workflow.conftest import Checkout

pytestmark = pytest.mark.slow

ADDITIONS = {
    "seed": ("seeds: [0, 1]", {"train": 2, "evaluate": 3}),
    "variant": (
        "variants: {maftp: {}, half: {train: {rc_weight: 0.05}}, fcclip: {model: {name: fcclip}}}",
        {"train": 1, "evaluate": 1},
    ),
    "benchmark": ("benchmarks: [A-847, A-150, PC-459, PC-59, PAS-20, ADE-panoptic, PAS-21]", {}),
    "method": (
        "variants: {maftp: {}, ovrcoat: {model: {name: ovrcoat}}}",
        {"train": 1, "evaluate": 1},
    ),
}


@pytest.fixture(scope="module")
def checkout(finished, tmp_path_factory) -> Checkout:
    """A copy of what is finished, where plans may be written down."""
    return finished.copy(tmp_path_factory.mktemp("additions") / "copy")


@pytest.mark.parametrize("name", ADDITIONS)
def test_an_addition_plans_its_own_jobs(checkout, name):
    text, expected = ADDITIONS[name]
    (checkout.path / "added.yaml").write_text(text)
    done = checkout.snakemake("-n", "results/smoke/table.csv", params=["smoke.yaml", "added.yaml"])
    counts = dict(re.findall(r"^(\w+)\s+(\d+)$", done.stdout + done.stderr, re.M))
    trained = {rule: int(counts[rule]) for rule in ("train", "evaluate") if rule in counts}
    if name == "benchmark":  # all runs are scored on it, none is trained
        assert trained == {"evaluate": 3} and int(counts["convert"]) == 1
    else:
        assert trained == expected
