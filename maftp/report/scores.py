"""The scores of one run for `dvc metrics` and `dvc plots`.

metrics.json          by benchmark: mIoU of protocol (b), or PQ, SQ and RQ, or AP
plots/classes/*.csv   a file per benchmark: class, seen in training or unseen, IoU or PQ
plots/seen.csv        mIoU of the classes seen in training, and of the unseen ones
"""  # fmt: skip

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from maftp.errors import MaftpError
from maftp.files import atomic_path, write_json
from maftp.report.csv_file import write_csv

Results = Mapping[str, Mapping[str, Any]]
"""By benchmark, what an evaluation wrote."""

_SEMANTIC = "mIoU_b"
_QUALITIES = ("PQ", "SQ", "RQ", "AP")
_OF_CLASS = ("IoU", "PQ", "AP")
_PARTS = ("seen", "unseen")


def read_results(run: Path, *, benchmarks: Sequence[str]) -> Results:
    """Read what the evaluations of a run wrote.

    Args:
        run: folder `{experiment}/{variant}/seed{seed}`.
        benchmarks: which to read.

    Raises:
        MaftpError: a result is missing or damaged.
    """
    return {name: _read(run / "evaluation" / f"{name}.json") for name in benchmarks}


def write_metrics(results: Results, path: Path) -> None:
    """Write the main scores as JSON, in percent."""
    write_json(path, {name: _main(result) for name, result in results.items()})


def write_plots(results: Results, path: Path) -> None:
    """Write scores by class, and by seen and unseen classes, as CSV into a folder of their own."""
    with atomic_path(path) as folder:
        _write(folder / "seen.csv", ["part", "mIoU"], _seen_rows(results))
        for name, result in results.items():
            file = folder / "classes" / f"{name}.csv"
            _write(file, ["class", "seen", "score"], _class_rows(result))


def _main(result: Mapping[str, Any]) -> dict[str, float] | float | None:
    scores = result["scores"]
    if result["metric"] == "semantic":
        return scores[_SEMANTIC]
    return {name: scores[name] for name in _QUALITIES if name in scores}


def _seen_rows(results: Results) -> Iterable[tuple[str, float]]:
    """Yield the mIoU of each part of the classes; parts without ground truth are left out."""
    for name, result in results.items():
        for part in _PARTS:
            value = result["scores"].get(part, {}).get(_SEMANTIC)
            if value is not None:
                yield f"{name} {part}", value


def _class_rows(result: Mapping[str, Any]) -> Iterable[tuple[str, str, float]]:
    """Yield the classes of the ground truth."""
    for entry in result["per_class"]:
        score = next((entry[name] for name in _OF_CLASS if entry.get(name) is not None), None)
        if score is not None:
            yield entry["name"], "seen" if entry.get("seen") else "unseen", score


def _write(path: Path, columns: list[str], rows: Iterable[Sequence[Any]]) -> None:
    write_csv(pd.DataFrame(list(rows), columns=columns), path, decimals=None)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise MaftpError(f"{path}: no such result; evaluate the run first") from None
    except ValueError as error:
        raise MaftpError(f"{path}: not readable as JSON ({error}); make it again") from None
