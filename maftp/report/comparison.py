"""Two runs side by side: parameters that differ, what they were made of, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from maftp.errors import DataError
from maftp.results import Run, flatten

_ORIGIN = ("commit", "dirty", "source_digest", "host", "device", "packages", "inputs")


def find_run(name: str, experiment: str) -> Run:
    """Return the run of a folder, or of [experiment/]variant[-seedN] below `results/`.

    Raises:
        DataError: there is no such run.
    """
    variant, _, seed = name.rpartition("-seed")
    for base in (Path("results", experiment), Path("results")):
        for path in (Path(name), base / name / "seed0", base / variant / f"seed{seed}"):
            if path.name[:4] == "seed" and path.is_dir():
                return Run(path)
    raise DataError(
        f"{name}: no such run below {Path('results').absolute()}; name one by its folder or as "
        "variant-seed0, and train it first"
    )


def compare(first: Run, second: Run) -> str:
    """Return tables of what differs, and of all last numbers."""
    runs = (first, second)
    made = [{key: run.origin.get(key) for key in _ORIGIN} for run in runs]
    parts = {
        "parameters that differ": _differing(*(flatten(run.origin["params"]) for run in runs)),
        "origin that differs": _differing(*map(flatten, made)),
    }
    numbers = _pairs(*(_numbers(run) for run in runs))
    parts["numbers"] = [[*row, None if None in row else row[2] - row[1]] for row in numbers]
    titles = (*(run.row for run in runs), "second - first")
    return "\n\n".join(
        tabulate(rows, headers=[title, *titles][: len(rows[0])], tablefmt="github", floatfmt=".4g")
        for title, rows in parts.items()
        if rows
    )


def _numbers(run: Run) -> dict[str, float]:
    last = dict(run.history[-1]) if run.history else {}
    last.pop("step", None)
    return last | run.scores


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[list[Any]]:
    return [row for row in _pairs(first, second) if row[1] != row[2]]


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[list[Any]]:
    return [[key, first.get(key), second.get(key)] for key in sorted({*first, *second})]
