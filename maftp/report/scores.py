"""The scores of one run for `dvc metrics` and `dvc plots`.

metrics.json          by benchmark: mIoU of protocol (b), or PQ, SQ and RQ, or AP
plots/classes/*.csv   a file per benchmark: class, seen in training or unseen, IoU or PQ
plots/seen.csv        mIoU of the classes seen in training, and of the unseen ones
"""  # fmt: skip

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from maftp.files import atomic_path, write_json
from maftp.report.csv_file import write_csv
from maftp.results import Evaluation

_SEMANTIC = "mIoU_b"
_OF_CLASS = ("IoU", "PQ", "AP")
_PARTS = ("seen", "unseen")


def write_metrics(results: Sequence[Evaluation], path: Path) -> None:
    """Write the main scores as JSON, in percent."""
    main = {result.benchmark: result.scores for result in results}
    write_json(path, {name: scores.get(_SEMANTIC, scores) for name, scores in main.items()})


def write_plots(results: Sequence[Evaluation], path: Path) -> None:
    """Write scores by class, and by seen and unseen classes, as CSV into a folder of their own."""
    with atomic_path(path) as folder:
        _write(folder / "seen.csv", ["part", "mIoU"], _seen_rows(results))
        for result in results:
            file = folder / "classes" / f"{result.benchmark}.csv"
            _write(file, ["class", "seen", "score"], _class_rows(result))


def _seen_rows(results: Sequence[Evaluation]) -> Iterable[tuple[str, float]]:
    """Yield the mIoU of each part of the classes; parts without ground truth are left out."""
    for result in results:
        for part in _PARTS:
            value = result.content["scores"].get(part, {}).get(_SEMANTIC)
            if value is not None:
                yield f"{result.benchmark} {part}", value


def _class_rows(result: Evaluation) -> Iterable[tuple[str, str, float]]:
    """Yield the classes of the ground truth."""
    for entry in result.per_class:
        score = next((entry[name] for name in _OF_CLASS if entry.get(name) is not None), None)
        if score is not None:
            yield entry["name"], "seen" if entry.get("seen") else "unseen", score


def _write(path: Path, columns: list[str], rows: Iterable[Sequence[Any]]) -> None:
    write_csv(pd.DataFrame(list(rows), columns=columns), path, decimals=None)
