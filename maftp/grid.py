"""The ablation grid: cells that differ from one another in one parameter each.

A grid grows from the full model. A part changes one key of a cell, and what has to change `also`,
and is a cell itself; a sweep tries several values of one key. Cells with equal parameters are one
run, and cells that differ in evaluation only share their weights. Works on plain values, before
they are checked.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FULL = "full"
"""Name of the cell that is the full model."""
PREFIX = "ablation-"
"""How the names of runs begin that only the grid asks for."""
EVALUATION_ONLY = (
    "evaluate",
    "input.test",
    "model.ensemble",
    "model.ensemble_alpha",
    "model.ensemble_beta",
    "model.trust_weight",
    "model.maskclippp.student_short_side",
    "model.maskclippp.proposal_short_side",
    "weights",
)
"""Keys that change no trained weight."""
OTHER_WEIGHTS = ("proposals", "start", "student")
"""Keys of `train` that name a checkpoint of another run, or in the grid a cell."""
FOLDER = "ablations"
"""Below results/: the runs of grids, apart from those of the tables, as DVC versions them apart."""


@dataclass(frozen=True)
class Row:
    """One line of the table of ablations."""

    study: str
    """What is varied: a sweep's name, or `parts`."""
    title: str
    """What the line is called."""
    run: str
    """Variant whose runs the line shows; several lines can show one."""
    start: str | None
    """Run it differs from; None for the full model."""
    key: str | None
    """The one parameter in which it differs; None for the full model."""
    value: Any = None


@dataclass(frozen=True)
class Grid:
    """All lines of the table, and the parameters of all runs they need."""

    rows: tuple[Row, ...]
    runs: Mapping[str, dict[str, Any]]
    """Values of every run, by its name; those of the table of results among them."""


def expand(variants: Mapping[str, Mapping[str, Any]], grid: Mapping[str, Any]) -> Grid:
    """Work out the grid.

    Args:
        variants: values of each variant, overrides applied; their runs are used where they fit.
        grid: the block `ablations`.

    Raises:
        ValueError: a start or a key is not there; begins with the key to mend.
    """
    full = grid["full"]
    if full not in variants:
        raise ValueError(f"ablations.full: there is no variant {full!r}; choose one of them")
    builder = _Builder(variants)
    first = _overlaid(variants[full], grid["overrides"])
    builder.add(FULL, first)
    builder.rows.append(Row("parts", "full model", builder.run_of[FULL], None, None))
    for name, part in grid["parts"].items():
        builder.part(name, part)
    for name, sweep in grid["sweeps"].items():
        builder.sweep(name, sweep)
    return Grid(tuple(builder.rows), builder.runs)


def _weights(run: str) -> str:
    home = f"{FOLDER}/{{experiment}}" if run.startswith(PREFIX) else "{experiment}"
    return f"results/{home}/{run}/seed{{seed}}/weights.safetensors"


class _Builder:
    def __init__(self, variants: Mapping[str, Mapping[str, Any]]) -> None:
        self.rows: list[Row] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.run_of: dict[str, str] = {}
        """Run of every cell that others can start from."""
        self._known = {name: dict(values) for name, values in variants.items()}
        self._trained = {name: _training_part(values) for name, values in self._known.items()}

    def part(self, name: str, part: Mapping[str, Any]) -> None:
        where = f"ablations.parts.{name}"
        start = self._start(part["start"], where)
        values = _changed(self.runs[start], part["key"], part["value"], where)
        run = self.add(name, self._with_weights_of_cells(_overlaid(values, part.get("also") or {})))
        self.rows.append(Row("parts", part["title"], run, start, part["key"], part["value"]))

    def sweep(self, name: str, sweep: Mapping[str, Any]) -> None:
        where, key = f"ablations.sweeps.{name}", sweep["key"]
        start = self._start(sweep["start"], where)
        for value in sweep["values"]:
            cell = f"{name}-{_name(value)}"
            if cell in self.run_of:
                raise ValueError(f"{where}.values: two values are called {cell!r}; leave one out")
            run = self.add(cell, _changed(self.runs[start], key, value, where))
            title = f"{sweep['title']}: {_text(value)}"
            self.rows.append(Row(name, title, run, start, key, value))

    def add(self, cell: str, values: dict[str, Any]) -> str:
        """Return the run of a cell: an equal one that is known, else a new one."""
        trained = _training_part(values)
        for name, other in self._known.items():
            if self._trained[name] != trained or other.get("weights") and name not in self.runs:
                continue
            if _evaluation_part(other) == _evaluation_part(values):
                break
        else:
            name = PREFIX + cell
            source = next(
                (
                    known
                    for known, other in self._known.items()
                    if other.get("weights") is None and self._trained[known] == trained
                ),
                None,
            )
            values = copy.deepcopy(values)
            values["weights"] = None if source is None else _weights(source)
            self._known[name], self._trained[name] = values, trained
        self.run_of[cell] = name
        self.runs[name] = self._known[name]
        return name

    def _with_weights_of_cells(self, values: dict[str, Any]) -> dict[str, Any]:
        """Let a training take the weights of cells that it names."""
        for key in OTHER_WEIGHTS:
            train = values.get("train", {})
            if (cell := train.get(key)) in self.run_of:
                run = self.run_of[cell]
                train[key] = self.runs[run].get("weights") or _weights(run)
        return values

    def _start(self, cell: str, where: str) -> str:
        if cell not in self.run_of:
            raise ValueError(
                f"{where}.start: there is no cell {cell!r} before it; "
                f"known: {', '.join(self.run_of)}"
            )
        return self.run_of[cell]


def get_key(values: Mapping[str, Any], key: str) -> Any:
    """Return the value under a dotted key; KeyError when there is none."""
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found


def different_keys(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys in which two parameter blocks differ."""
    found = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += different_keys(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(prefix + key)
    return found


def _changed(values: Mapping[str, Any], key: str, value: Any, where: str) -> dict[str, Any]:
    changed = copy.deepcopy(dict(values))
    changed["weights"] = None
    try:
        get_key(changed, key)
    except (KeyError, TypeError):
        raise ValueError(f"{where}.key: there is no parameter {key!r}; mend its name") from None
    *path, last = key.split(".")
    block = get_key(changed, ".".join(path)) if path else changed
    block[last] = copy.deepcopy(value)
    return changed


def _overlaid(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(values))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _overlaid(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _training_part(values: Mapping[str, Any]) -> dict[str, Any]:
    part = copy.deepcopy(dict(values))
    for key in EVALUATION_ONLY:
        *path, last = key.split(".")
        block = part
        for name in path:
            block = block.get(name, {})
        block.pop(last, None)
    return part


def _evaluation_part(values: Mapping[str, Any]) -> list[Any]:
    found = []
    for key in EVALUATION_ONLY:
        if key != "weights":
            part: Any = values
            for name in key.split("."):
                part = part.get(name, {})
            found.append(part)
    return found


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _name(value: Any) -> str:
    """Return a value as part of the name of a run, which is the name of a folder too."""
    if isinstance(value, list | tuple):
        return "_".join(map(_name, value))
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", _text(value)).strip("._") or "empty"
