"""Scores and losses of all runs of an experiment in three tidy files, for `dvc metrics | plots`.

metrics.json   by variant, seed and benchmark: mIoU of protocol (b), or PQ, SQ and RQ, or AP
scores.csv     a row per run, benchmark and class: whether training knew the class, IoU, PQ or AP
history.csv    the rows of every training
"""  # fmt: skip

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from maftp.files import write_json
from maftp.report.csv_file import write_csv
from maftp.results import Evaluation, Run

_SEMANTIC = "mIoU_b"
_OF_CLASS = ("IoU", "PQ", "AP")


def write_metrics(runs: Sequence[Run], benchmarks: Sequence[str], path: Path) -> None:
    """Write the main scores as JSON, in percent."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        scores = {name: run.evaluation(name).scores for name in benchmarks}
        main = {name: own.get(_SEMANTIC, own) for name, own in scores.items()}
        found.setdefault(run.variant, {})[f"seed{run.seed}"] = main
    write_json(path, found)


def write_scores(runs: Sequence[Run], benchmarks: Sequence[str], path: Path) -> None:
    """Write the score of every class of the ground truth, in percent."""
    rows = [
        (run.name, benchmark, *row)
        for run in runs
        for benchmark in benchmarks
        for row in _class_rows(run.evaluation(benchmark))
    ]
    columns = ["run", "benchmark", "class", "training", "score"]
    write_csv(pd.DataFrame(rows, columns=columns), path, decimals=None)


def write_history(runs: Sequence[Run], path: Path) -> None:
    """Write the histories of all runs that were trained, one below the other."""
    rows = [{"run": run.name, **row} for run in runs for row in run.history]
    write_csv(pd.DataFrame(rows) if rows else pd.DataFrame(columns=["run"]), path, decimals=None)


def _class_rows(result: Evaluation) -> Iterable[tuple[str, str, float]]:
    for entry in result.per_class:
        score = next((entry[name] for name in _OF_CLASS if entry.get(name) is not None), None)
        if score is not None:
            yield entry["name"], "seen" if entry.get("seen") else "unseen", score
