"""Finished runs of an experiment, read from their files, for tables and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from maftp.errors import MaftpError

SCORES = {
    "semantic": ("mIoU_b", "mIoU_a"),
    "panoptic": ("PQ", "SQ", "RQ"),
    "instance": ("AP",),
}
"""Main scores by metric, the first of them first."""


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    variant: str
    seed: int
    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """What the run was made of; None for one that was not trained."""
        path = self.path / "manifest.json"
        return read_json(path) if path.exists() else None

    def result(self, benchmark: str) -> dict[str, Any]:
        """Return the evaluation on a benchmark.

        Raises:
            MaftpError: it is missing or damaged.
        """
        result = read_json(self.path / "evaluation" / f"{benchmark}.json")
        if not {"scores", "metric", "per_class"} <= result.keys():
            raise MaftpError(f"{self.path}: {benchmark}.json is no result; evaluate again")
        return result

    def statistics(self, benchmark: str) -> Path:
        """Return the folder of counts per image."""
        return self.path / "evaluation" / f"{benchmark}.statistics"


def find_runs(results: Path, variants: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Name the runs of an experiment, variant by variant."""
    return [
        Run(variant, seed, results / variant / f"seed{seed}")
        for variant in variants
        for seed in seeds
    ]


def score_table(runs: Sequence[Run], benchmarks: Sequence[str]) -> pd.DataFrame:
    """Return a row per run, benchmark and score: mIoU in both protocols; PQ, SQ, RQ; or AP."""
    rows = []
    for run in runs:
        for benchmark in benchmarks:
            result = run.result(benchmark)
            names = SCORES[result["metric"]]
            rows += [
                {
                    "variant": run.variant,
                    "seed": run.seed,
                    "benchmark": benchmark,
                    "score": name,
                    "percent": result["scores"].get(name),
                }
                for name in names
            ]
    columns = ["variant", "seed", "benchmark", "score", "percent"]
    return pd.DataFrame(rows, columns=columns)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that an earlier step wrote.

    Raises:
        MaftpError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise MaftpError(f"{path}: no such result; run the step that makes it first") from None
    except ValueError as error:
        raise MaftpError(f"{path}: not readable as JSON ({error}); make it again") from None
